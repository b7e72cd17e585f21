"""Parameters of a request in the many spellings of Docker's clients."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from swarmapi.errors import InvalidArgument

_FALSE = {"", "0", "no", "false", "none"}


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """Read a boolean: anything but empty, 0, no, false and none is true."""
    value = request.query.get(name)
    return default if value is None else value.strip().lower() not in _FALSE


def integer(request: web.Request, name: str, default: int) -> int:
    """Read a whole number.

    Raises:
        InvalidArgument: when it is none.
    """
    value = request.query.get(name, "")
    if not value:
        return default
    try:
        return int(value)
    except ValueError:
        raise InvalidArgument(f"invalid value {value!r} for {name}: not a number") from None


def time_ns(request: web.Request, name: str) -> int:
    """Read a unix time in seconds with an optional fraction; 0 when absent."""
    value = request.query.get(name, "")
    whole, _, fraction = value.partition(".")
    if not value:
        return 0
    digits = fraction[:9].ljust(9, "0")
    if not (whole.removeprefix("-").isdigit() and digits.isdigit()):
        raise InvalidArgument(f"invalid value {value!r} for {name}: not a unix time")
    return int(whole) * 1_000_000_000 + int(digits)


def filters(request: web.Request) -> dict[str, list[str]]:
    """Read `filters`, as `{"k":{"v":true}}` or `{"k":["v"]}`."""
    raw = request.query.get("filters", "")
    if not raw:
        return {}
    try:
        found = msgspec.json.decode(raw, type=dict[str, dict[str, bool] | list[str]])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidArgument(f"invalid filter: {error}") from error
    return {
        key: [value for value, on in values.items() if on] if isinstance(values, dict) else values
        for key, values in found.items()
    }


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
