"""How a route of the REST API is declared: in one place, for serving, reading and describing it.

A route names its query parameters, the type of its body and the type of its answer. The readers
of a query take only what is declared, and `swarmapi.openapi` renders the same declarations: what
is documented is what is served.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swarmapi.errors import InvalidArgument, Unsupported

API_VERSION = "1.50"
"""The version of the Docker Engine API that is served."""
Kind = Literal["text", "texts", "flag", "integer", "time", "filters", "json", "refused"]
"""texts: repeated; time: unix seconds with a fraction; filters: `{"k":{"v":true}}` or
`{"k":["v"]}`; json: a JSON document; refused: not served, an error unless empty."""
_FALSE = frozenset(("", "0", "no", "false", "none"))
_EMPTY = frozenset(("", "0", "false", "null", "[]", "{}"))


@dataclass(frozen=True)
class Param:
    """One query parameter. `choices` are the values of a text, the keys of filters."""

    name: str
    kind: Kind
    help: str = ""
    default: Any = None
    choices: tuple[str, ...] = ()
    type: Any = None
    """Of a json parameter: what msgspec decodes it as."""


def text(name: str, help: str = "", *, choices: Sequence[str] = ()) -> Param:
    """Declare a string; with choices, one of them or empty."""
    return Param(name, "text", help, "", tuple(choices))


def texts(name: str, help: str = "") -> Param:
    """Declare a string that may be repeated."""
    return Param(name, "texts", help, ())


def flag(name: str, help: str = "", *, default: bool = False) -> Param:
    """Declare a boolean."""
    return Param(name, "flag", help, default)


def integer(name: str, help: str = "", *, default: int = 0) -> Param:
    """Declare a whole number."""
    return Param(name, "integer", help, default)


def time(name: str, help: str = "") -> Param:
    """Declare a unix time in seconds with an optional fraction."""
    return Param(name, "time", help)


def filters(*keys: str) -> Param:
    """Declare `filters` with these keys."""
    return Param("filters", "filters", "", None, keys)


def document(name: str, kind: Any, help: str = "") -> Param:
    """Declare a parameter that holds a JSON document of a type."""
    return Param(name, "json", help, None, (), kind)


def refused(*names: str) -> tuple[Param, ...]:
    """Declare parameters that are answered with an error naming them, unless they are empty."""
    return tuple(Param(name, "refused", "not supported") for name in names)


Content = Literal["json", "tar", "stream", "text", "upgrade", "file"]


@dataclass(frozen=True)
class Route:
    """One method of one path.

    `path` is aiohttp's, without the version prefix. `body` is a type msgspec can describe, or
    `bytes` for an archive. `answer` is the type of the answer with `status`; None is no body.
    `content` says how it travels. The handler's docstring is the description.
    """

    method: str
    path: str
    handler: Callable[[Any], Awaitable[Any]]
    query: tuple[Param, ...] = ()
    body: Any = None
    answer: Any = None
    status: int = 200
    content: Content = "json"
    errors: tuple[int, ...] = ()
    hidden: bool = False
    """Not in the document: a second spelling of another route."""

    def param(self, name: str) -> Param:
        """Return a declared parameter.

        Raises:
            LookupError: when a handler reads what its route does not declare.
        """
        for param in self.query:
            if param.name == name:
                return param
        raise LookupError(f"{self.method} {self.path} does not declare the parameter {name!r}")

    def refuse(self, query: Mapping[str, str]) -> None:
        """Check what needs no handler; raises Unsupported for a refused parameter with a value."""
        for param in self.query:
            if param.kind == "refused" and query.get(param.name, "").lower() not in _EMPTY:
                raise Unsupported(f"parameter {param.name} is not supported: leave it out")


Declared = Route | tuple[str, str, Callable[[Any], Awaitable[Any]]]
"""A route, or (method, path, handler) of one that takes no parameters and is not described."""


def route_of(declared: Declared) -> Route:
    """Return the route of either spelling."""
    return declared if isinstance(declared, Route) else Route(*declared, hidden=True)


def read_text(param: Param, value: str | None) -> str:
    """Read a string; raises InvalidArgument when it is none of the choices."""
    if not value:
        return ""
    if param.choices and value not in param.choices:
        allowed = ", ".join(param.choices)
        raise InvalidArgument(f"invalid value {value!r} for {param.name}: use {allowed}")
    return value


def read_flag(param: Param, value: str | None) -> bool:
    """Read a boolean: anything but empty, 0, no, false and none is true."""
    return bool(param.default) if value is None else value.strip().lower() not in _FALSE


def read_integer(param: Param, value: str | None) -> int:
    """Read a whole number of 64 bits; raises InvalidArgument."""
    if not value:
        return int(param.default or 0)
    try:
        number = int(value) if value.isascii() and len(value) < 21 else None
    except ValueError:
        number = None
    if number is None or not -(1 << 63) <= number < 1 << 63:
        raise InvalidArgument(f"invalid value {value!r} for {param.name}: not a number")
    return number


def read_time_ns(param: Param, value: str | None) -> int:
    """Read a unix time in nanoseconds; 0 when absent; raises InvalidArgument."""
    if not value:
        return 0
    whole, _, fraction = value.partition(".")
    digits = fraction[:9].ljust(9, "0")
    number = whole.removeprefix("-")
    if not (number.isascii() and number.isdigit() and digits.isascii() and digits.isdigit()):
        raise InvalidArgument(f"invalid value {value!r} for {param.name}: not a unix time")
    if len(number) > 12:
        raise InvalidArgument(f"invalid value {value!r} for {param.name}: too far away")
    nanoseconds = int(number) * 1_000_000_000 + int(digits)
    return -nanoseconds if whole.startswith("-") else nanoseconds


def read_filters(param: Param, value: str | None) -> dict[str, list[str]]:
    """Read filters of the declared keys; raises InvalidArgument."""
    if not value:
        return {}
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"invalid filter: {error}") from error
    if not isinstance(found, dict):
        raise InvalidArgument("invalid filter: an object is expected")
    read: dict[str, list[str]] = {}
    for key, values in found.items():
        if param.choices and key not in param.choices:
            raise InvalidArgument(f"invalid filter '{key}'")
        if isinstance(values, dict):
            values = [name for name, on in values.items() if on]
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise InvalidArgument(f"invalid filter '{key}': a list of strings is expected")
        read[key] = values
    return read
