"""From a client's JSON to a spec: tolerant of blanks, strict about everything with a value.

Real clients send many empty keys, so a key we do not honour is refused only when its value is
not null, zero, false or empty. Keys match without regard to case, as Go's decoder does.
"""

from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec

from swarmapi.errors import InvalidArgument

T = TypeVar("T", bound=msgspec.Struct)

HARMLESS: dict[str, tuple[Any, ...]] = {
    "TaskTemplate.Runtime": ("container",),
    "TaskTemplate.ContainerSpec.Isolation": ("default",),
    "Driver.Name": ("overlay",),
    "CheckDuplicate": (True, False),
    "Scope": ("swarm",),
}
"""Documented defaults of fields that are not honoured: accepted, and dropped."""

_INT64 = (-(1 << 63), (1 << 63) - 1)
"""What a number can be at all: sums of two still fit the log, and Go's clients can read it."""


def is_blank(value: Any) -> bool:
    """Tell whether a JSON value says nothing: null, false, 0, "", or only blanks inside."""
    if isinstance(value, dict):
        return all(is_blank(v) for v in value.values())
    if isinstance(value, list):
        return all(is_blank(v) for v in value)
    return value is None or value is False or value == 0 or value == ""


def decode_spec(raw: bytes, kind: type[T]) -> T:
    """Decode a request body.

    Raises:
        InvalidArgument: bad JSON, a wrong type, or an unsupported field; names the path.
    """
    try:
        data = msgspec.json.decode(raw) if raw else {}
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidArgument("invalid JSON: an object is expected")
    return spec_from(data, kind)


def spec_from(data: dict[str, Any], kind: type[T]) -> T:
    """Convert plain data to a spec, refusing what is not supported (see `decode_spec`)."""
    cleaned = _clean(data, kind, "")
    try:
        return msgspec.convert(cleaned, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(_readable(str(error))) from error


def _readable(message: str) -> str:
    """Turn msgspec's `Expected … - at `$.A.B`` into `A.B: expected …`."""
    text, _, path = message.partition(" - at `$")
    where = path.rstrip("`").lstrip(".")
    text = text[:1].lower() + text[1:]
    return f"{where}: {text}" if where else text


def _clean(data: dict[str, Any], kind: type[msgspec.Struct], path: str) -> dict[str, Any]:
    fields = {f.encode_name.lower(): f for f in msgspec.structs.fields(kind)}
    result: dict[str, Any] = {}
    for key, value in data.items():
        where = f"{path}.{key}" if path else key
        field = fields.get(key.lower())
        if field is None:
            if not (is_blank(value) or value in HARMLESS.get(where, ())):
                raise InvalidArgument(f"unsupported field {where}: leave it out or empty")
            continue
        if value is None or (value == "" and not _accepts_text(field.type)):
            continue
        result[field.encode_name] = _clean_value(value, field.type, where)
    return result


def _clean_value(value: Any, kind: Any, where: str) -> Any:
    if isinstance(value, int) and not _INT64[0] <= value <= _INT64[1]:
        raise InvalidArgument(f"{where}: {value} does not fit into 64 bits")
    struct = _struct_in(kind)
    if struct is not None:
        if isinstance(value, dict):
            return _clean(value, struct, where)
        if isinstance(value, list):
            return [
                _clean(v, struct, f"{where}[{i}]") if isinstance(v, dict) else v
                for i, v in enumerate(value)
            ]
    return value


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """Return the struct inside `X`, `X | None`, `tuple[X, ...]`, or None."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if get_origin(kind) in (Union, UnionType, tuple):
        for arg in get_args(kind):
            found = _struct_in(arg)
            if found is not None:
                return found
    return None


def _accepts_text(kind: Any) -> bool:
    if kind is str or kind is Any:
        return True
    return any(_accepts_text(arg) for arg in get_args(kind)) if get_args(kind) else False
