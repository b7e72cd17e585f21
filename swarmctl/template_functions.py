"""The functions of Go's templates, and how their values are printed."""

import json
import re
from collections.abc import Callable
from typing import Any

from swarmctl.errors import UsageError

_VERB = re.compile(r"%([-+# 0]*\d*(?:\.\d+)?)([a-zA-Z%])")
_GO_VERBS = {"v": "s", "t": "s", "d": "d", "s": "s", "f": "f", "g": "g", "e": "e", "x": "x"}

OMITTED: dict[str, Any] = {
    **dict.fromkeys(("Health", "Healthcheck", "StopTimeout", "Init", "SizeRw", "SizeRootFs")),
    **dict.fromkeys(("UsageData", "Status", "ClusterVolume", "BuildIdentity", "Manifests")),
    **dict.fromkeys(("BindOptions", "VolumeOptions", "TmpfsOptions")),
    **dict.fromkeys(("StopSignal", "MacAddress", "User", "WorkingDir", "Comment", "Source"), ""),
    **dict.fromkeys(("ArgsEscaped", "NetworkDisabled", "ConfigOnly", "Attachable"), False),
    "ReadOnly": False,
    **{name: {} for name in ("ExposedPorts", "Labels", "Volumes", "Annotations", "Sysctls")},
    **{name: {} for name in ("Tmpfs", "StorageOpt", "AuxiliaryAddresses", "Options")},
    **{name: [] for name in ("Cmd", "Entrypoint", "Env", "Shell", "OnBuild", "Mounts")},
}
"""Fields the API leaves out where they are empty, with Go's value of them."""

_STRUCTS = [
    line.split()
    for line in (
        "HostIp HostPort",
        "Type? Name? Source Destination Driver? Mode RW Propagation",
        "Name MaximumRetryCount",
        "Type Config",
        (
            "Status Running Paused Restarting OOMKilled Dead Pid ExitCode Error StartedAt "
            "FinishedAt Health?"
        ),
        "Type Layers?",
        "Data Name",
        "Driver Options Config",
        "Subnet IPRange? Gateway? AuxiliaryAddresses?",
        "Name EndpointID MacAddress IPv4Address IPv6Address",
    )
]
"""The API's objects that Go has as structs: it prints their fields in this order, without names.

With a question mark those that are left out where they are empty."""
_ULIMIT = {"Name", "Soft", "Hard"}


class Missing(str):
    """The value of a key that a map does not have: empty, but printed as Go does."""


def text_of(value: Any, *, inner: bool = False) -> str:
    """Return a value as Go prints it."""
    if isinstance(value, Missing):
        return "<no value>"
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        if value.keys() == _ULIMIT:
            return "{Name}={Soft}:{Hard}".format_map(value)
        if fields := _fields(value):
            return "{" + " ".join(text_of(_field(value, name)) for name in fields) + "}"
        if inner and not value:
            return "{}"
        items = (f"{name}:{text_of(value[name], inner=True)}" for name in sorted(value))
        return "map[" + " ".join(items) + "]"
    if isinstance(value, list):
        return "[" + " ".join(text_of(item, inner=True) for item in value) + "]"
    if callable(value):
        raise UsageError("template: wrong number of arguments: want 1 got 0", 1)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fields(value: dict[str, Any]) -> list[str]:
    """Return the names of a struct's fields in order; none where it is a map."""
    for fields in _STRUCTS:
        needed = {name for name in fields if not name.endswith("?")}
        names = [name.rstrip("?") for name in fields]
        if needed <= value.keys() <= set(names):
            return names
    return []


def _field(value: dict[str, Any], name: str) -> Any:
    found = value.get(name)
    return OMITTED.get(name, "") if found is None else found


def call(name: str, *arguments: Any) -> Any:
    """Apply a function; raises UsageError where its arguments do not fit."""
    try:
        return FUNCTIONS[name](*arguments)
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        raise UsageError(f"template: error calling {name}: {error}", 1) from error


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, dict) else value[key]
    return value


def _slice(value: Any, first: int = 0, last: int | None = None) -> Any:
    if first > len(value) or (last is not None and not first <= last <= len(value)):
        raise IndexError("index out of range")
    return value[first:last]


def _and(*values: Any) -> Any:
    return next((value for value in values if not value), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if value), values[-1])


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise TypeError("missing argument for comparison")
    return any(first == other for other in others)


def _printf(form: str, *values: Any) -> str:
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, verb = match.groups()
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        value = rest.pop(0)
        if verb == "q":
            return f"%{flags}s" % json.dumps(str(value), ensure_ascii=False)
        if verb not in _GO_VERBS:
            raise ValueError(f"verb %{verb} is not supported")
        spelled = value if verb in "dfgex" else text_of(value, inner=True)
        return f"%{flags}{_GO_VERBS[verb]}" % spelled

    return _VERB.sub(one, form) + ("%!(EXTRA)" if rest else "")


def _print(*values: Any) -> str:
    """Go's Sprint: a space only between two that are no strings."""
    printed = ""
    for position, value in enumerate(values):
        if position and not isinstance(value, str) and not isinstance(values[position - 1], str):
            printed += " "
        printed += text_of(value, inner=True)
    return printed


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "or": _or,
    "not": lambda value: not value,
    "eq": _equal,
    "ne": lambda one, other: one != other,
    "lt": lambda one, other: one < other,
    "le": lambda one, other: one <= other,
    "gt": lambda one, other: one > other,
    "ge": lambda one, other: one >= other,
    "json": _json,
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "len": len,
    "index": _index,
    "slice": _slice,
    "split": lambda text, separator: text.split(separator),
    "join": lambda values, separator: separator.join(map(text_of, values or [])),
    "pad": lambda text, before, after: " " * before + text + " " * after if text else text,
    "truncate": lambda text, width: text[:width],
    "print": _print,
    "println": lambda *values: " ".join(text_of(value, inner=True) for value in values) + "\n",
    "printf": _printf,
}
