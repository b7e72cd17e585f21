"""What a mount may be, in Docker's JSON: one declaration for the cluster's API and the engine."""

import posixpath
from collections.abc import Iterable, Mapping
from typing import Any, Final

from swarmapi.errors import InvalidArgument, Unsupported

PROPAGATIONS: Final = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
RECURSION: Final = {
    "NonRecursive": "disabled",
    "ReadOnlyNonRecursive": "writable",
    "ReadOnlyForceRecursive": "readonly",
}
"""The options of a bind about the mounts below its source, and what they make of them."""
OPTIONS: Final = {
    "bind": ("BindOptions", frozenset(("Propagation", "CreateMountpoint", *RECURSION))),
    "volume": ("VolumeOptions", frozenset(("Labels", "NoCopy", "Subpath", "DriverConfig"))),
    "tmpfs": ("TmpfsOptions", frozenset(("SizeBytes", "Mode", "Options"))),
}
"""Type to the field of its options and the options that are honoured."""
_TMPFS_FLAGS = {
    **{word: word.removeprefix("no") for word in ("exec", "noexec", "suid", "nosuid")},
    **{word: word.removeprefix("no") for word in ("dev", "nodev")},
    **dict.fromkeys(("ro", "rw"), "ro"),
    **{w: w.removeprefix("no") for w in ("atime", "noatime", "diratime", "nodiratime")},
    **dict.fromkeys(("relatime", "norelatime"), "relatime"),
    **dict.fromkeys(("strictatime", "nostrictatime"), "strictatime"),
    **dict.fromkeys(("sync", "async"), "sync"),
}
"""A tmpfs's flags, and what each is about: the last word on it counts."""
_TMPFS_VALUES = frozenset(("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"))
_TMPFS_DEFAULT = ("noexec", "nosuid", "nodev")


def check_mount(mount: Mapping[str, Any]) -> None:
    """Check all of a mount that needs no look at the machine.

    Raises:
        InvalidArgument: it is malformed or contradicts itself (the words are Docker's).
        Unsupported: its type, or an option, is not served.
    """
    kind, source = mount.get("Type"), mount.get("Source") or ""
    if kind not in OPTIONS:
        raise Unsupported(
            f'invalid mount config for type "{kind}": mount type unknown: use bind, volume or tmpfs'
        )
    own, known = OPTIONS[kind]
    for name, _ in OPTIONS.values():
        if name != own and any((mount.get(name) or {}).values()):
            _refuse(kind, f"field {name} must not be specified")
    options = mount.get(own) or {}
    for key, value in options.items():
        if value and key not in known:
            raise Unsupported(f"{own}.{key} is not supported")
    if kind == "bind":
        _check_bind(source, options, read_only=bool(mount.get("ReadOnly")))
    elif kind == "volume":
        _check_volume(source, options, read_only=bool(mount.get("ReadOnly")))
    else:
        if source:
            _refuse(kind, "field Source must not be specified")
        tmpfs_options(tmpfs_words(options))
    mount_target(mount.get("Target") or "")


def _refuse(kind: str, why: str) -> None:
    raise InvalidArgument(f'invalid mount config for type "{kind}": {why}')


def _check_bind(source: str, options: Mapping[str, Any], *, read_only: bool) -> None:
    recursion = [word for key, word in RECURSION.items() if options.get(key)]
    if len(recursion) > 1 or (recursion and recursion[0] != "disabled" and not read_only):
        _refuse("bind", "its recursive options contradict each other")
    propagation = options.get("Propagation")
    if propagation and propagation not in PROPAGATIONS:
        raise InvalidArgument(f"invalid propagation mode {propagation!r}")
    if not source:
        _refuse("bind", "field Source must not be empty")
    if not source.startswith("/"):
        _refuse("bind", f"invalid mount path: '{source}' mount path must be absolute")


def _check_volume(source: str, options: Mapping[str, Any], *, read_only: bool) -> None:
    driver = (options.get("DriverConfig") or {}).get("Name")
    if driver and driver != "local":
        raise Unsupported(f"volume driver {driver!r} is not supported")
    subpath = options.get("Subpath") or ""
    if subpath.startswith("/") or ".." in subpath.split("/"):
        _refuse("volume", "subpath must be a relative path within the volume")
    if read_only and not source:
        _refuse("volume", "must not set ReadOnly mode when using anonymous volumes")
    if subpath and not source:
        _refuse("volume", "must not set Subpath when using anonymous volumes")


def tmpfs_words(options: Mapping[str, Any]) -> list[str]:
    """Return TmpfsOptions as words of mount(8)."""
    words = []
    if size := options.get("SizeBytes"):
        words.append(f"size={int(size)}")
    if mode := options.get("Mode"):
        words.append(f"mode={int(mode):o}")
    return words + ["=".join(pair) for pair in options.get("Options") or ()]


def tmpfs_options(given: Iterable[str]) -> list[str]:
    """Return Docker's options of a tmpfs with those given; of contradicting ones the last.

    Raises:
        InvalidArgument: for an option a tmpfs does not have.
    """
    chosen: dict[str, str] = {}
    for word in (*_TMPFS_DEFAULT, *given):
        key, equals, _ = word.partition("=")
        if word in _TMPFS_FLAGS:
            chosen[_TMPFS_FLAGS[word]] = word
        elif equals and key in _TMPFS_VALUES:
            chosen[key] = word
        else:
            raise InvalidArgument(f'invalid tmpfs option ["{word}"]')
    return list(chosen.values())


def mount_target(target: str) -> str:
    """Return a mount's place in the container without detours.

    Raises:
        InvalidArgument: it is not absolute, or the root.
    """
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{target}' mount path must be absolute")
    normal = posixpath.normpath(target)
    if normal.strip("/") == "":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    return "/" + normal.lstrip("/")
