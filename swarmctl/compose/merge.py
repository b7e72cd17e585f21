"""Several Compose files as one: a later file adds to and overrides an earlier one.

The rules are the Compose specification's, section Merge: mappings are merged, lists are joined
without what is there twice, commands and health tests are replaced whole.
"""

from typing import Any

_REPLACED = {"command", "entrypoint", "test"}
_KEYED = {
    "environment": "=",
    "labels": "=",
    "sysctls": "=",
    "extra_hosts": ":",
}
"""Lists that are mappings written as lines; both forms may meet."""


def merge(base: Any, over: Any, key: str = "") -> Any:
    """Return `base` as `over` changes it; neither is touched."""
    if over is None:
        return base
    if base is None or key in _REPLACED:
        return over
    if key in _KEYED:
        return {**as_mapping(base, _KEYED[key]), **as_mapping(over, _KEYED[key])}
    if key in ("depends_on", "networks"):
        base, over = _named(base), _named(over)
    if isinstance(base, dict) and isinstance(over, dict):
        found = dict(base)
        for name, value in over.items():
            found[name] = merge(base[name], value, str(name)) if name in base else value
        return found
    if isinstance(base, list) and isinstance(over, list):
        if key in ("volumes", "configs", "secrets", "devices"):
            return _by_target(base, over)
        return [*base, *(item for item in over if item not in base)]
    return over


def as_mapping(value: Any, separator: str = "=") -> dict[str, Any]:
    """Return a mapping that may be written as lines `NAME=value`; a bare name has no value."""
    if not isinstance(value, list):
        return dict(value or {})
    found: dict[str, Any] = {}
    for item in value:
        name, there, content = str(item).partition(separator)
        found[name] = content if there else None
    return found


def _named(value: Any) -> Any:
    """Return a list of names as a mapping, so that both forms merge."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return dict.fromkeys(value)
    return value


def _by_target(base: list[Any], over: list[Any]) -> list[Any]:
    """Join lists of mounts; a later one takes over the target of an earlier one."""
    found = {_target(item): item for item in base}
    found.update((_target(item), item) for item in over)
    return list(found.values())


def _target(item: Any) -> str:
    if isinstance(item, dict):
        return str(item.get("target") or item.get("source", ""))
    parts = str(item).split(":")
    return parts[1] if len(parts) > 1 else parts[0]
