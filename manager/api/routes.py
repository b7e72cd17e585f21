"""The routes of the cluster: adapters from HTTP to the use cases."""

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypedDict

import msgspec
from aiohttp import web

from manager.api import (
    events,
    execs,
    logs,
    metrics,
    netcheck,
    render,
    secrets,
    state,
    stories,
    tokens,
)
from manager.api.keys import NODE_ID, STORE
from manager.api.plans import PLAN_VERSION
from manager.api.plans import ROUTES as PLAN_ROUTES
from manager.api.responses import Made, Object, Versioned, answer, request_id, version
from manager.control import cluster, networks, nodes, plans, registry_auth, services, tasks
from manager.control.lookup import (
    find_network,
    find_node,
    find_service,
    find_task,
)
from manager.replica import Store
from swarmapi import openapi, query, rest
from swarmapi.errors import InvalidArgument, Unsupported
from swarmapi.model.decode import decode_spec, spec_from
from swarmapi.model.objects import NodeState, RegistryAuth
from swarmapi.model.spec import ClusterSpec, NetworkSpec, NodeSpec, ServiceSpec
from swarmapi.rest import API_VERSION, Route, route_of

ON_BEHALF_OF: Final = "X-Swarm-Node"
"""Header: id of the node whose client asks, for a forwarded `self`."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def get_cluster(request: web.Request) -> web.Response:
    """Show the cluster."""
    return answer(render.cluster_json(cluster.the_cluster(request.app[STORE])))


async def update_cluster(request: web.Request) -> web.Response:
    """Change the cluster, or its join tokens."""
    store = request.app[STORE]
    body = await request.read()
    try:
        data = msgspec.json.decode(body) if body else {}
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidArgument("invalid JSON: an object is expected")
    _refuse_external_cas(data.get("CAConfig"))
    await cluster.update_cluster(
        store,
        spec_from(data, ClusterSpec),
        version(request),
        os.urandom,
        rotate_worker_token=query.flag(request, "rotateWorkerToken"),
        rotate_manager_token=query.flag(request, "rotateManagerToken"),
        rotate_unlock_key=query.flag(request, "rotateManagerUnlockKey"),
        skip_down=query.flag(request, "skipDownNodes"),
        request_id=request_id(request),
    )
    return answer({"Warnings": await cluster.await_lock(store) or None})


def _refuse_external_cas(config: object) -> None:
    """Refuse by name that somebody else signs; an empty list is nobody."""
    given = config if isinstance(config, dict) else {}
    if given.get("ExternalCAs"):
        raise Unsupported("CAConfig.ExternalCAs is not supported: the cluster signs by itself")
    given.pop("ExternalCAs", None)


async def leave(request: web.Request) -> web.Response:
    """Let this node leave the cluster."""
    node_id = _own_id(request)
    await cluster.leave(
        request.app[STORE], node_id, query.flag(request, "force"), request_id(request)
    )
    return web.Response()


def _own_id(request: web.Request) -> str:
    return request.headers.get(ON_BEHALF_OF, "") or request.app[NODE_ID]


def _node(store: Store, key: str, own_id: str) -> render.Json:
    node = find_node(store.view, own_id if key == "self" else key)
    return _node_json(store, node.id)


def _node_json(store: Store, node_id: str) -> render.Json:
    node = store.view.nodes[node_id]
    root = store.view.cluster.root_ca if store.view.cluster is not None else None
    return render.node_json(
        node,
        leader_id=store.log.status.leader_id,
        reachable=node.id in store.log.members() and node.state != NodeState.DOWN,
        trust=render.node_tls_info(root, node.tls) if root is not None else None,
    )


async def list_nodes(request: web.Request) -> web.Response:
    """List nodes."""
    store = request.app[STORE]
    filters = query.filters(request)
    return answer([_node_json(store, n.id) for n in nodes.list_nodes(store.view, filters)])


async def get_node(request: web.Request) -> web.Response:
    """Show a node; `self` is the one that is asked."""
    return answer(_node(request.app[STORE], request.match_info["id"], _own_id(request)))


async def update_node(request: web.Request) -> web.Response:
    """Change role, availability or labels of a node."""
    spec = decode_spec(await request.read(), NodeSpec)
    key, number = request.match_info["id"], version(request)
    await nodes.update_node(request.app[STORE], key, spec, number, request_id(request))
    return web.Response()


async def get_rescheduling(request: web.Request) -> web.Response:
    """Tell whether tasks of lost nodes are moved."""
    return answer(nodes.rescheduling(request.app[STORE].view))


async def resume_rescheduling(request: web.Request) -> web.Response:
    """Move the tasks of nodes that disappeared together."""
    await nodes.resume_rescheduling(request.app[STORE], request_id(request))
    return web.Response()


async def remove_node(request: web.Request) -> web.Response:
    """Remove a node from the cluster."""
    key, force = request.match_info["id"], query.flag(request, "force")
    await nodes.remove_node(request.app[STORE], key, force, request_id(request))
    return web.Response()


async def list_services(request: web.Request) -> web.Response:
    """List services."""
    view = request.app[STORE].view
    filters = query.filters(request)
    with_status = query.flag(request, "status")
    return answer(
        [
            render.service_json(
                s,
                previous=services.previous_spec(view, s),
                counts=services.count_tasks(view, s) if with_status else None,
            )
            for s in services.list_services(view, filters)
        ]
    )


async def create_service(request: web.Request) -> web.Response:
    """Create a service."""
    spec = decode_spec(await request.read(), ServiceSpec)
    auth, store = _registry_auth(request), request.app[STORE]
    wish = plans.Request(action="create", spec=spec)
    await plans.check_plan(store, wish, query.integer(request, "planVersion"), request_id(request))
    service = await services.create_service(store, spec, request_id(request), auth)
    return answer({"ID": service.id}, 201)


async def get_service(request: web.Request) -> web.Response:
    """Show a service."""
    view = request.app[STORE].view
    service = find_service(view, request.match_info["id"])
    return answer(
        render.service_json(
            service,
            previous=services.previous_spec(view, service),
            insert_defaults=query.flag(request, "insertDefaults"),
        )
    )


async def update_service(request: web.Request) -> web.Response:
    """Change a service, or go back to its previous spec."""
    store, key = request.app[STORE], request.match_info["id"]
    rollback, auth = query.text(request, "rollback"), _registry_auth(request)
    auth_from = query.text(request, "registryAuthFrom") or "spec"
    planned = query.integer(request, "planVersion")
    if rollback == "previous":
        wish = plans.Request(action="rollback", id=key, version=version(request))
        await plans.check_plan(store, wish, planned, request_id(request))
        await services.rollback_service(store, key, version(request), request_id(request), auth)
    else:
        spec = decode_spec(await request.read(), ServiceSpec)
        number = version(request)
        wish = plans.Request(action="update", id=key, version=number, spec=spec)
        await plans.check_plan(store, wish, planned, request_id(request))
        await services.update_service(
            store, key, spec, number, request_id(request), auth, auth_from
        )
    return answer({"Warnings": None})


async def roll_back_service(request: web.Request) -> web.Response:
    """Go back to a spec version that is kept; without one, to the previous."""
    store, key = request.app[STORE], request.match_info["id"]
    service = find_service(store.view, key)
    number = version(request) if query.given(request, "version") else service.meta.version
    to = query.integer(request, "to")
    wish = plans.Request(action="rollback", id=key, version=number, to=to)
    await plans.check_plan(store, wish, query.integer(request, "planVersion"), request_id(request))
    await services.rollback_service(store, key, number, request_id(request), to=to)
    return answer({"Warnings": None})


async def resume_service(request: web.Request) -> web.Response:
    """Go on with a service's update that paused."""
    await services.resume_service(request.app[STORE], request.match_info["id"], request_id(request))
    return answer({"Warnings": None})


async def list_specs(request: web.Request) -> web.Response:
    """List the specs of a service that are kept, the one in force first."""
    view = request.app[STORE].view
    service = find_service(view, request.match_info["id"])
    found = services.kept_specs(view, service)
    return answer([render.spec_version_json(record) for record in found])


def _registry_auth(request: web.Request) -> RegistryAuth | None:
    return registry_auth.read(request.headers.get("X-Registry-Auth", ""))


async def remove_service(request: web.Request) -> web.Response:
    """Remove a service and its tasks."""
    key = request.match_info["id"]
    await services.remove_service(request.app[STORE], key, request_id(request))
    return web.Response()


async def list_tasks(request: web.Request) -> web.Response:
    """List tasks."""
    view = request.app[STORE].view
    filters = query.filters(request)
    return answer(render.tasks_json(view, tasks.list_tasks(view, filters)))


async def get_task(request: web.Request) -> web.Response:
    """Show a task."""
    view = request.app[STORE].view
    return answer(render.task_json(view, find_task(view, request.match_info["id"])))


async def explain_task(request: web.Request) -> web.Response:
    """Tell why a task is where it is, or is nowhere."""
    view = request.app[STORE].view
    return answer(tasks.explain(view, find_task(view, request.match_info["id"])))


async def list_networks(request: web.Request) -> web.Response:
    """List the cluster's networks."""
    view = request.app[STORE].view
    filters = query.filters(request)
    return answer([render.network_json(n) for n in networks.list_networks(view, filters)])


async def create_network(request: web.Request) -> web.Response:
    """Create a network of the cluster."""
    spec = decode_spec(await request.read(), NetworkSpec)
    network = await networks.create_network(request.app[STORE], spec, request_id(request))
    return answer({"Id": network.id, "Warning": ""}, 201)


async def get_network(request: web.Request) -> web.Response:
    """Show a network of the cluster."""
    view = request.app[STORE].view
    network = find_network(view, request.match_info["id"])
    shown = render.network_json(network)
    if query.flag(request, "verbose"):
        shown |= render.network_members(view, network)
    return answer(shown)


async def remove_network(request: web.Request) -> web.Response:
    """Remove a network no service uses."""
    key = request.match_info["id"]
    await networks.remove_network(request.app[STORE], key, request_id(request))
    return web.Response(status=204)


async def get_unlock_key(request: web.Request) -> web.Response:
    """Show the key that unlocks managers; empty without autolock."""
    return answer({"UnlockKey": cluster.the_cluster(request.app[STORE]).unlock_key})


class NetworkMade(TypedDict):
    """A network was made."""

    Id: str
    Warning: str


class Warned(TypedDict):
    """Done, with remarks."""

    Warnings: list[str] | None


class UnlockKey(TypedDict):
    """What unlocks managers."""

    UnlockKey: str


_VERSION = rest.integer("version", "of the object as it was read", default=-1)
_FORCE = rest.flag("force")
ROUTES: Final[Sequence[rest.Declared]] = (
    Route("GET", "/swarm", get_cluster, answer=Versioned),
    Route(
        "POST",
        "/swarm/update",
        update_cluster,
        (
            _VERSION,
            rest.flag("rotateWorkerToken"),
            rest.flag("rotateManagerToken"),
            rest.flag("rotateManagerUnlockKey"),
            rest.flag("skipDownNodes", "a rotation of the root does not wait for them"),
        ),
        body=ClusterSpec,
        answer=Warned,
    ),
    ("POST", "/swarm/leave", leave),
    Route("GET", "/swarm/unlockkey", get_unlock_key, answer=UnlockKey),
    Route("GET", "/nodes", list_nodes, (rest.filters(*nodes.FILTERS),), answer=list[Versioned]),
    Route("GET", "/nodes/{id}", get_node, answer=Versioned),
    Route("GET", "/swarm/v1/rescheduling", get_rescheduling, answer=Object),
    ("POST", "/swarm/v1/rescheduling/resume", resume_rescheduling),
    Route("DELETE", "/nodes/{id}", remove_node, (_FORCE,)),
    Route("POST", "/nodes/{id}/update", update_node, (_VERSION,), body=NodeSpec),
    Route(
        "GET",
        "/services",
        list_services,
        (rest.filters(*services.FILTERS), rest.flag("status", "with ServiceStatus")),
        answer=list[Versioned],
    ),
    Route(
        "POST",
        "/services/create",
        create_service,
        (PLAN_VERSION,),
        body=ServiceSpec,
        answer=Made,
        status=201,
    ),
    Route("GET", "/services/{id}", get_service, (rest.flag("insertDefaults"),), answer=Versioned),
    Route("DELETE", "/services/{id}", remove_service),
    Route(
        "POST",
        "/services/{id}/update",
        update_service,
        (
            _VERSION,
            rest.text("rollback", choices=("previous",)),
            rest.text("registryAuthFrom", choices=("spec", "previous-spec")),
            PLAN_VERSION,
        ),
        body=ServiceSpec,
        answer=Warned,
    ),
    Route("GET", "/swarm/v1/services/{id}/specs", list_specs, answer=list[Object]),
    Route(
        "POST",
        "/swarm/v1/services/{id}/rollback",
        roll_back_service,
        (rest.integer("to", "the spec version; 0 is the previous one"), _VERSION, PLAN_VERSION),
        answer=Warned,
    ),
    Route("POST", "/swarm/v1/services/{id}/resume", resume_service, answer=Warned),
    Route("GET", "/tasks", list_tasks, (rest.filters(*tasks.FILTERS),), answer=list[Versioned]),
    Route("GET", "/tasks/{id}", get_task, answer=Versioned),
    Route("GET", "/swarm/v1/tasks/{id}/explain", explain_task, answer=Object),
    Route(
        "GET", "/networks", list_networks, (rest.filters(*networks.FILTERS),), answer=list[Object]
    ),
    Route(
        "POST", "/networks/create", create_network, body=NetworkSpec, answer=NetworkMade, status=201
    ),
    Route(
        "GET",
        "/networks/{id}",
        get_network,
        (rest.flag("verbose"),),
        answer=Object,
    ),
    Route("DELETE", "/networks/{id}", remove_network, status=204),
    *PLAN_ROUTES,
    *stories.ROUTES,
    *netcheck.ROUTES,
    *logs.ROUTES,
    *execs.ROUTES,
    *events.ROUTES,
    *metrics.ROUTES,
    *state.ROUTES,
    *secrets.ROUTES,
    *tokens.ROUTES,
)


def document() -> openapi.Json:
    """Return the OpenAPI document of these routes."""
    return openapi.describe(
        [route_of(route) for route in ROUTES],
        title="swarm-manager",
        version=API_VERSION,
        group="Cluster",
    )
