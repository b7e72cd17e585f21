"""Parameters of a request, read as its route declares them, and its JSON body."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from swarmapi import rest
from swarmapi.errors import InvalidArgument

LONGEST_LINE_BYTES = 1 << 20
"""Of a request's head: a build has its arguments in the URL, and credentials in a header."""
DECLARED: web.AppKey[dict[web.AbstractRoute, rest.Route]] = web.AppKey("declared")
"""What an application serves, as it was declared."""
_VERSION_PREFIX = r"/v{version:1\.\d+}"


def add_routes(app: web.Application, routes: Sequence[rest.Declared]) -> None:
    """Serve routes with and without the version prefix."""
    declared = app.setdefault(DECLARED, {})
    for route in map(rest.route_of, routes):
        for prefix in ("", _VERSION_PREFIX):
            served = app.router.add_route(route.method, prefix + route.path, route.handler)
            declared[served] = route


def runner_of(
    app: web.Application, shutdown_timeout_s: float, *, handler_cancellation: bool = False
) -> web.AppRunner:
    """Return what serves an application of routes."""
    return web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=shutdown_timeout_s,
        handler_cancellation=handler_cancellation,
        max_line_size=LONGEST_LINE_BYTES,
        max_field_size=LONGEST_LINE_BYTES,
    )


def refuse(request: web.Request) -> None:
    """Raise Unsupported for a parameter with a value that the route declares as refused."""
    route = request.app[DECLARED].get(request.match_info.route)
    if route is not None:
        route.refuse(request.query)


def text(request: web.Request, name: str) -> str:
    """Read a string; empty when absent."""
    return rest.read_text(_param(request, name, rest.text(name)), request.query.get(name))


def texts(request: web.Request, name: str) -> list[str]:
    """Read a repeated string."""
    _param(request, name, rest.texts(name))
    return request.query.getall(name, [])


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """Read a boolean: anything but empty, 0, no, false and none is true."""
    declared = _param(request, name, rest.flag(name, default=default))
    return rest.read_flag(declared, request.query.get(name))


def integer(request: web.Request, name: str, default: int = 0) -> int:
    """Read a whole number.

    Raises:
        InvalidArgument: when it is none.
    """
    declared = _param(request, name, rest.integer(name, default=default))
    return rest.read_integer(declared, request.query.get(name))


def time_ns(request: web.Request, name: str) -> int:
    """Read a unix time in seconds with an optional fraction; 0 when absent."""
    return rest.read_time_ns(_param(request, name, rest.time(name)), request.query.get(name))


def given(request: web.Request, name: str) -> bool:
    """Tell whether a parameter has a value, also where that is 0."""
    return bool(request.query.get(name))


def filters(request: web.Request) -> dict[str, list[str]]:
    """Read `filters`, as `{"k":{"v":true}}` or `{"k":["v"]}`; a key not declared is refused."""
    declared = _param(request, "filters", rest.filters())
    return rest.read_filters(declared, request.query.get("filters"))


def document(request: web.Request, name: str) -> Any:
    """Read a parameter that holds JSON, as its declared type; None when absent."""
    declared = _param(request, name, rest.document(name, Any))
    raw = request.query.get(name, "")
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw.encode("utf-8", "replace"), type=declared.type)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{name}: {error}") from error


def _param(request: web.Request, name: str, undeclared: rest.Param) -> rest.Param:
    route = request.app[DECLARED].get(request.match_info.route)
    if route is None or route.hidden:
        return undeclared
    declared = route.param(name)
    if declared.kind != undeclared.kind:
        raise LookupError(f"{name} of {route.path} is declared as {declared.kind}")
    return declared


async def body(request: web.Request) -> dict[str, Any]:
    """Read a JSON object; an empty body is an empty object.

    Raises:
        InvalidArgument: when it is not one.
    """
    raw = await request.read()
    if not raw.strip():
        return {}
    try:
        found = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise InvalidArgument("invalid JSON: an object is expected")
    return dict(found)
