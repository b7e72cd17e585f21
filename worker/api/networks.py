"""The networks of this machine, as the engine knows them without a cluster."""

from typing import Any

from aiohttp import web

from swarmapi import query, rest
from swarmapi.errors import NotFound
from swarmapi.rest import Route
from worker.api import answers
from worker.api.keys import engine_of
from worker.api.responses import answer
from worker.engine.engine import Engine
from worker.engine.ports import NetworkInfo


async def list_networks(request: web.Request) -> web.StreamResponse:
    """List networks by name."""
    engine = engine_of(request)
    wanted = query.filters(request)
    shown = []
    for network in engine.networking.networks():
        checks = (
            ("name", lambda value, found=network: value in found.name),
            ("id", lambda value, found=network: found.id.startswith(value)),
            ("driver", lambda value, found=network: value == found.driver),
            ("scope", lambda value: value == "local"),
            ("type", lambda value: value == "builtin"),
            ("label", lambda _: False),
            ("dangling", lambda value: value in ("false", "0")),
        )
        if all(
            any(check(value) for value in wanted[key]) for key, check in checks if wanted.get(key)
        ):
            shown.append(render(engine, network))
    return answer(shown)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Show one network and who is in it."""
    engine = engine_of(request)
    reference = request.match_info["id"]
    for network in engine.networking.networks():
        if network.name == reference or (reference and network.id.startswith(reference)):
            return answer(render(engine, network, members=True))
    raise NotFound(f"network {reference} not found")


def render(engine: Engine, network: NetworkInfo, *, members: bool = False) -> dict[str, Any]:
    """Render a network of this machine."""
    pools = [{"Subnet": network.subnet, "Gateway": network.gateway}] if network.subnet else []
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": "0001-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": pools},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": _members(engine, network) if members else {},
        "Options": {},
        "Labels": {},
    }


def _members(engine: Engine, network: NetworkInfo) -> dict[str, Any]:
    found = {}
    for container in engine.list():
        record = container.record
        state = record.joined.get(network.name)
        if state is not None:
            found[record.id] = {
                "Name": record.name,
                "EndpointID": state.endpoint_id,
                "MacAddress": state.mac,
                "IPv4Address": f"{state.address}/{state.prefix_length}" if state.address else "",
                "IPv6Address": "",
            }
    return found


_FILTERS = rest.filters("name", "id", "driver", "type", "scope", "label", "dangling")
ROUTES = (
    Route("GET", "/networks", list_networks, (_FILTERS,), answer=list[answers.Network]),
    Route("GET", "/networks/", list_networks, (_FILTERS,), hidden=True),
    Route(
        "GET",
        "/networks/{id}",
        inspect,
        (rest.text("scope", "swarm, global or local"), rest.flag("verbose")),
        answer=answers.Network,
    ),
)
