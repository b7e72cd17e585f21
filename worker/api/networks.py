"""The networks of this machine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from swarmapi import query, rest
from swarmapi.errors import InvalidArgument, NotFound, SwarmError
from swarmapi.rest import Route
from worker.api import answers, older
from worker.api.keys import engine_of
from worker.api.responses import answer, nothing
from worker.api.version import minor_of
from worker.engine.endpoints import decode_endpoint
from worker.engine.engine import Engine
from worker.engine.filters import label_matches, truth, until_ns
from worker.engine.network_spec import PREDEFINED, NetworkRequest, decode_network
from worker.engine.ports import NetworkInfo
from worker.engine.rfc3339 import format_ns


class ConnectRequest(msgspec.Struct, rename="pascal"):
    """The body of a connect."""

    container: str
    endpoint_config: dict[str, Any] | None = None


class DisconnectRequest(msgspec.Struct, rename="pascal"):
    """The body of a disconnect; with `Force` a container that is gone is no error."""

    container: str
    force: bool = False


async def list_networks(request: web.Request) -> web.StreamResponse:
    """List networks by name."""
    engine = engine_of(request)
    wanted = query.filters(request)
    for kind in wanted.get("type", ()):
        if kind not in ("custom", "builtin"):
            raise InvalidArgument(f"invalid filter: 'type'='{kind}'")
    found = [n for n in engine.networks.all() if _matches(engine, n, wanted)]
    return answer([older.network(render(network), minor_of(request)) for network in found])


def _matches(engine: Engine, network: NetworkInfo, wanted: Mapping[str, Sequence[str]]) -> bool:
    kind = "builtin" if network.name in PREDEFINED else "custom"
    tests: Mapping[str, Callable[[str], bool]] = {
        "name": lambda value: value in network.name,
        "id": lambda value: value in network.id,
        "driver": lambda value: value == network.driver,
        "scope": lambda value: value == network.scope,
        "type": lambda value: value == kind,
        "dangling": lambda value: (
            truth("dangling", value)
            == (kind == "custom" and not engine.networks.members(network.id))
        ),
    }
    if not all(label_matches(network.labels, value) for value in wanted.get("label", ())):
        return False
    return all(
        any(tests[key](value) for value in values)
        for key, values in wanted.items()
        if values and key in tests
    )


async def create(request: web.Request) -> web.StreamResponse:
    """Create a bridge network."""
    made = await engine_of(request).networks.create(decode_network(await query.body(request)))
    return answer({"Id": made.id, "Warning": ""}, 201)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Show one network and who is on it."""
    engine = engine_of(request)
    network = engine.networks.get(request.match_info["id"])
    scope = query.text(request, "scope")
    if scope and scope != network.scope:
        raise NotFound(f"network {request.match_info['id']} not found")
    shown = render(network) | {"Containers": containers_on(engine, network.id)}
    return answer(older.network(shown, minor_of(request)))


async def remove(request: web.Request) -> web.StreamResponse:
    """Remove a network nobody is on."""
    await engine_of(request).networks.remove(request.match_info["id"])
    return nothing()


async def connect(request: web.Request) -> web.StreamResponse:
    """Put a container on a network."""
    body = await query.body(request)
    spec = decode_endpoint(body.get("EndpointConfig"))
    await engine_of(request).connections.connect(
        request.match_info["id"], str(body.get("Container") or ""), spec
    )
    return web.Response()


async def disconnect(request: web.Request) -> web.StreamResponse:
    """Take a container off a network."""
    body = await query.body(request)
    await engine_of(request).connections.disconnect(
        request.match_info["id"],
        str(body.get("Container") or ""),
        force=bool(body.get("Force")),
    )
    return web.Response()


async def prune(request: web.Request) -> web.StreamResponse:
    """Remove every user-defined network no running container is on."""
    engine = engine_of(request)
    wanted = query.filters(request)
    before_ns = until_ns(wanted.get("until", ()), engine.parts.clock.now_ns())
    deleted = []
    for network in engine.networks.all():
        if network.name in PREDEFINED or network.scope != "local":
            continue
        if before_ns is not None and network.created_ns > before_ns:
            continue
        if not all(label_matches(network.labels, value) for value in wanted.get("label", ())):
            continue
        if any(label_matches(network.labels, value) for value in wanted.get("label!", ())):
            continue
        try:
            await engine.networks.remove(network.id)
        except SwarmError:
            continue  # someone is on it
        deleted.append(network.name)
    engine.events.emit("network", "prune", "", {"reclaimed": "0"})
    return answer({"NetworksDeleted": deleted or None})


def render(network: NetworkInfo) -> dict[str, Any]:
    """Render a network of this machine, without its members."""
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": format_ns(network.created_ns),
        "Scope": network.scope,
        "Driver": network.driver,
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": _pools(network),
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": network.options,
        "Labels": network.labels,
    }


def _pools(network: NetworkInfo) -> list[dict[str, Any]]:
    pools = []
    for subnet, gateway, ip_range, version in (
        (network.subnet, network.gateway, network.ip_range, 4),
        (network.ipv6_subnet, network.ipv6_gateway, network.ipv6_range, 6),
    ):
        if not subnet:
            continue
        reserved = {k: a for k, a in network.reserved.items() if (":" in a) == (version == 6)}
        pool = {"IPRange": ip_range, "Gateway": gateway, "AuxiliaryAddresses": reserved}
        pools.append({"Subnet": subnet} | {key: value for key, value in pool.items() if value})
    return pools


def containers_on(engine: Engine, network_id: str) -> dict[str, Any]:
    """Render the running containers on a network, by id."""
    found = {}
    for record in engine.networks.members(network_id):
        state = next(s for s in record.joined.values() if s.network_id == network_id)
        found[record.id] = {
            "Name": record.name,
            "EndpointID": state.endpoint_id,
            "MacAddress": state.mac,
            "IPv4Address": f"{state.address}/{state.prefix_length}" if state.address else "",
            "IPv6Address": (
                f"{state.ipv6_address}/{state.ipv6_prefix_length}" if state.ipv6_address else ""
            ),
        }
    return found


_FILTERS = rest.filters("name", "id", "driver", "type", "scope", "label", "dangling")
ROUTES = (
    Route("GET", "/networks", list_networks, (_FILTERS,), answer=list[answers.Network]),
    Route("GET", "/networks/", list_networks, (_FILTERS,), hidden=True),
    Route(
        "POST",
        "/networks/create",
        create,
        body=NetworkRequest,
        answer=answers.NetworkCreated,
        status=201,
    ),
    Route(
        "POST",
        "/networks/prune",
        prune,
        (rest.filters("until", "label", "label!"),),
        answer=answers.NetworksPruned,
    ),
    Route(
        "GET",
        "/networks/{id}",
        inspect,
        (rest.text("scope", "swarm, global or local"), rest.flag("verbose")),
        answer=answers.Network,
    ),
    Route("DELETE", "/networks/{id}", remove, status=204),
    Route("POST", "/networks/{id}/connect", connect, body=ConnectRequest),
    Route("POST", "/networks/{id}/disconnect", disconnect, body=DisconnectRequest),
)
