"""`--mount type=…,source=…,target=…`: from the line to the API's Mount."""

from collections.abc import Callable
from typing import Any

from swarmctl.values import Bad, size, truth

Row = dict[str, Any]
_RECURSIVE = {
    "enabled": "",
    "disabled": "NonRecursive",
    "writable": "ReadOnlyNonRecursive",
    "readonly": "ReadOnlyForceRecursive",
}


def parse(text: str) -> Row:
    """Return the Mount of one flag; volume-opt and volume-label may be repeated."""
    pairs = []
    for part in text.split(","):
        name, equals, value = part.partition("=")
        pairs.append((name.strip().lower(), value if equals else "true"))
    row: Row = {"Type": next((value for name, value in pairs if name == "type"), "volume")}
    if row["Type"] not in ("bind", "volume", "tmpfs"):
        raise Bad(f"invalid mount {text!r}: type must be bind, volume or tmpfs")
    for name, value in pairs:
        read = _FIELDS.get(name) or _FIELDS_OF[row["Type"]].get(name)
        if read is None:
            raise Bad(f"invalid mount {text!r}: unknown key {name!r} for type {row['Type']}")
        try:
            read(row, value)
        except Bad as error:
            raise Bad(f"invalid mount {text!r}: {error}") from None
    if not row.get("Target"):
        raise Bad(f"invalid mount {text!r}: target is missing")
    if row["Type"] == "bind" and not row.get("Source"):
        raise Bad(f"invalid mount {text!r}: source is missing")
    if row["Type"] == "tmpfs" and row.get("Source"):
        raise Bad(f"invalid mount {text!r}: a tmpfs has no source")
    return row


def _text(*path: str) -> Callable[[Row, str], None]:
    def read(row: Row, value: str) -> None:
        _group(row, *path[:-1])[path[-1]] = value

    return read


def _switch(*path: str) -> Callable[[Row, str], None]:
    def read(row: Row, value: str) -> None:
        _group(row, *path[:-1])[path[-1]] = truth(path[-1], value)

    return read


def _pair(*path: str) -> Callable[[Row, str], None]:
    def read(row: Row, value: str) -> None:
        name, _, content = value.partition("=")
        _group(row, *path)[name] = content

    return read


def _group(row: Row, *path: str) -> Row:
    for name in path:
        row = row.setdefault(name, {})
    return row


def _recursive(row: Row, value: str) -> None:
    if value not in _RECURSIVE:
        raise Bad(f"bind-recursive is one of {', '.join(_RECURSIVE)}")
    if _RECURSIVE[value]:
        _group(row, "BindOptions")[_RECURSIVE[value]] = True


def _bytes(row: Row, value: str) -> None:
    _group(row, "TmpfsOptions")["SizeBytes"] = size(value)


def _mode(row: Row, value: str) -> None:
    try:
        _group(row, "TmpfsOptions")["Mode"] = int(value, 8)
    except ValueError:
        raise Bad(f"{value!r} is not an octal mode") from None


_SOURCE, _TARGET, _READ_ONLY = _text("Source"), _text("Target"), _switch("ReadOnly")
_FIELDS: dict[str, Callable[[Row, str], None]] = {
    "type": _text("Type"),
    **dict.fromkeys(("source", "src"), _SOURCE),
    **dict.fromkeys(("target", "dst", "destination"), _TARGET),
    **dict.fromkeys(("readonly", "ro"), _READ_ONLY),
    "consistency": _text("Consistency"),
}
_FIELDS_OF: dict[str, dict[str, Callable[[Row, str], None]]] = {
    "bind": {
        "bind-propagation": _text("BindOptions", "Propagation"),
        "bind-create-src": _switch("BindOptions", "CreateMountpoint"),
        "bind-nonrecursive": _switch("BindOptions", "NonRecursive"),
        "bind-recursive": _recursive,
    },
    "volume": {
        "volume-nocopy": _switch("VolumeOptions", "NoCopy"),
        "volume-subpath": _text("VolumeOptions", "Subpath"),
        "volume-label": _pair("VolumeOptions", "Labels"),
        "volume-driver": _text("VolumeOptions", "DriverConfig", "Name"),
        "volume-opt": _pair("VolumeOptions", "DriverConfig", "Options"),
    },
    "tmpfs": {"tmpfs-size": _bytes, "tmpfs-mode": _mode},
}
