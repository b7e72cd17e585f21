"""The routes of the cluster: adapters from HTTP to the use cases."""

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from aiohttp import web

from manager.api import render
from manager.api.responses import answer, flag, request_id, version
from manager.control import cluster, networks, nodes, services, tasks
from manager.control.lookup import (
    find_network,
    find_node,
    find_service,
    find_task,
    parse_filters,
)
from manager.replica import Store
from swarmapi.errors import InvalidArgument, Unsupported
from swarmapi.model.decode import decode_spec, spec_from
from swarmapi.model.objects import NodeState
from swarmapi.model.spec import ClusterSpec, NetworkSpec, NodeSpec, ServiceSpec

STORE: Final = web.AppKey("store", Store)
NODE_ID: Final = web.AppKey("node_id", str)
ON_BEHALF_OF: Final = "X-Swarm-Node"
"""Header: id of the node whose client asks, for a forwarded `self`."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def get_cluster(request: web.Request) -> web.Response:
    return answer(render.cluster_json(cluster.the_cluster(request.app[STORE])))


async def update_cluster(request: web.Request) -> web.Response:
    store = request.app[STORE]
    if flag(request, "rotateManagerUnlockKey"):
        raise Unsupported("rotateManagerUnlockKey: autolock is not supported")
    body = await request.read()
    try:
        data = msgspec.json.decode(body) if body else {}
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidArgument("invalid JSON: an object is expected")
    # Clients send back what they read: fixed settings pass only with the value shown.
    shown = render.cluster_spec_json(cluster.the_cluster(store))
    for name in ("CAConfig", "TaskDefaults", "EncryptionConfig"):
        if data.get(name) == shown[name]:
            del data[name]
    await cluster.update_cluster(
        store,
        spec_from(data, ClusterSpec),
        version(request),
        os.urandom,
        rotate_worker_token=flag(request, "rotateWorkerToken"),
        rotate_manager_token=flag(request, "rotateManagerToken"),
        request_id=request_id(request),
    )
    return web.Response()


async def leave(request: web.Request) -> web.Response:
    node_id = _own_id(request)
    await cluster.leave(request.app[STORE], node_id, flag(request, "force"), request_id(request))
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
        trust=render.tls_info(root) if root is not None else None,
    )


async def list_nodes(request: web.Request) -> web.Response:
    store = request.app[STORE]
    filters = parse_filters(request.query.get("filters", ""), nodes.FILTERS)
    return answer([_node_json(store, n.id) for n in nodes.list_nodes(store.view, filters)])


async def get_node(request: web.Request) -> web.Response:
    return answer(_node(request.app[STORE], request.match_info["id"], _own_id(request)))


async def update_node(request: web.Request) -> web.Response:
    spec = decode_spec(await request.read(), NodeSpec)
    key, number = request.match_info["id"], version(request)
    await nodes.update_node(request.app[STORE], key, spec, number, request_id(request))
    return web.Response()


async def remove_node(request: web.Request) -> web.Response:
    key, force = request.match_info["id"], flag(request, "force")
    await nodes.remove_node(request.app[STORE], key, force, request_id(request))
    return web.Response()


async def list_services(request: web.Request) -> web.Response:
    view = request.app[STORE].view
    filters = parse_filters(request.query.get("filters", ""), services.FILTERS)
    with_status = flag(request, "status")
    return answer(
        [
            render.service_json(s, counts=services.count_tasks(view, s) if with_status else None)
            for s in services.list_services(view, filters)
        ]
    )


async def create_service(request: web.Request) -> web.Response:
    spec = decode_spec(await request.read(), ServiceSpec)
    service = await services.create_service(request.app[STORE], spec, request_id(request))
    return answer({"ID": service.id}, 201)


async def get_service(request: web.Request) -> web.Response:
    service = find_service(request.app[STORE].view, request.match_info["id"])
    return answer(render.service_json(service, insert_defaults=flag(request, "insertDefaults")))


async def update_service(request: web.Request) -> web.Response:
    store, key = request.app[STORE], request.match_info["id"]
    rollback = request.query.get("rollback", "")
    if rollback == "previous":
        await services.rollback_service(store, key, version(request), request_id(request))
    elif rollback:
        raise InvalidArgument(f"rollback: {rollback!r} is not supported: use previous")
    else:
        spec = decode_spec(await request.read(), ServiceSpec)
        number = version(request)
        await services.update_service(store, key, spec, number, request_id(request))
    return answer({"Warnings": None})


async def remove_service(request: web.Request) -> web.Response:
    key = request.match_info["id"]
    await services.remove_service(request.app[STORE], key, request_id(request))
    return web.Response()


async def list_tasks(request: web.Request) -> web.Response:
    view = request.app[STORE].view
    filters = parse_filters(request.query.get("filters", ""), tasks.FILTERS)
    return answer([render.task_json(view, t) for t in tasks.list_tasks(view, filters)])


async def get_task(request: web.Request) -> web.Response:
    view = request.app[STORE].view
    return answer(render.task_json(view, find_task(view, request.match_info["id"])))


async def explain_task(request: web.Request) -> web.Response:
    view = request.app[STORE].view
    return answer(tasks.explain(view, find_task(view, request.match_info["id"])))


async def list_networks(request: web.Request) -> web.Response:
    view = request.app[STORE].view
    filters = parse_filters(request.query.get("filters", ""), networks.FILTERS)
    return answer([render.network_json(n) for n in networks.list_networks(view, filters)])


async def create_network(request: web.Request) -> web.Response:
    spec = decode_spec(await request.read(), NetworkSpec)
    network = await networks.create_network(request.app[STORE], spec, request_id(request))
    return answer({"Id": network.id, "Warning": ""}, 201)


async def get_network(request: web.Request) -> web.Response:
    network = find_network(request.app[STORE].view, request.match_info["id"])
    return answer(render.network_json(network))


async def remove_network(request: web.Request) -> web.Response:
    key = request.match_info["id"]
    await networks.remove_network(request.app[STORE], key, request_id(request))
    return web.Response(status=204)


async def list_nothing(request: web.Request) -> web.Response:
    """Answer lists of kinds that are not offered: there are none."""
    return answer([])


async def refuse_secrets(request: web.Request) -> web.Response:
    raise Unsupported("secrets and configs are not supported yet")


async def refuse_autolock(request: web.Request) -> web.Response:
    raise Unsupported("autolock is not supported")


ROUTES: Final[Sequence[tuple[str, str, Handler]]] = (
    ("GET", "/swarm", get_cluster),
    ("POST", "/swarm/update", update_cluster),
    ("POST", "/swarm/leave", leave),
    ("GET", "/swarm/unlockkey", refuse_autolock),
    ("POST", "/swarm/unlock", refuse_autolock),
    ("GET", "/nodes", list_nodes),
    ("GET", "/nodes/{id}", get_node),
    ("DELETE", "/nodes/{id}", remove_node),
    ("POST", "/nodes/{id}/update", update_node),
    ("GET", "/services", list_services),
    ("POST", "/services/create", create_service),
    ("GET", "/services/{id}", get_service),
    ("DELETE", "/services/{id}", remove_service),
    ("POST", "/services/{id}/update", update_service),
    ("GET", "/tasks", list_tasks),
    ("GET", "/tasks/{id}", get_task),
    ("GET", "/swarm/v1/tasks/{id}/explain", explain_task),
    ("GET", "/networks", list_networks),
    ("POST", "/networks/create", create_network),
    ("GET", "/networks/{id}", get_network),
    ("DELETE", "/networks/{id}", remove_network),
    ("GET", "/secrets", list_nothing),
    ("GET", "/configs", list_nothing),
    ("*", "/secrets/{tail:.*}", refuse_secrets),
    ("*", "/configs/{tail:.*}", refuse_secrets),
)
