"""Binds, mounts and volumes of a container: from Docker's words to mount points and to OCI."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarmapi.errors import InvalidArgument, Unsupported
from worker.engine.record import MountPoint
from worker.engine.spec import ContainerConfig, HostConfig, Mount

_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_WORDS = (
    ("ro", "rw"),
    ("z", "Z"),  # SELinux labels; without SELinux they mean nothing, to Docker too
    ("nocopy",),
    ("cached", "delegated", "consistent"),  # of Docker Desktop
    _PROPAGATIONS,
)
"""The words of a bind's mode; at most one of each kind."""
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


@dataclass(frozen=True)
class VolumeWish:
    """A volume a container mounts; made when it is not there."""

    name: str = ""
    """Empty: an anonymous one."""
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


OpenVolume = Callable[[VolumeWish], str]
"""Returns the name of a volume, made when it is not there."""


def resolve_mounts(
    config: ContainerConfig,
    host: HostConfig,
    image_volumes: Iterable[str],
    open_volume: OpenVolume,
    path_of: Callable[[str], str],
) -> list[MountPoint]:
    """Return every mount point of a container, parents before children.

    Raises:
        InvalidArgument: for a malformed or contradictory mount.
        Unsupported: for a mount type or option we do not serve.
    """
    found: dict[str, tuple[MountPoint, VolumeWish | None]] = {}

    def add(point: MountPoint, wish: VolumeWish | None = None) -> None:
        point.target = _target(point.target)
        if point.target in found:
            raise InvalidArgument(f"Duplicate mount point: {point.target}")
        found[point.target] = point, wish

    for bind in host.binds:
        add(*_from_bind(bind))
    for mount in host.mounts:
        add(*_from_mount(mount))
    for target, options in host.tmpfs.items():
        words = tmpfs_options(option for option in options.split(",") if option)
        add(MountPoint(kind="tmpfs", source="tmpfs", target=target, options=words))
    for target in (*config.volumes, *image_volumes):
        if _target(target) not in found:
            add(MountPoint(kind="volume", source="", target=target, anonymous=True), VolumeWish())
    # Nothing is made before all of them are known to be good.
    for point, wish in found.values():
        if wish is not None:
            point.name = open_volume(wish)
            point.source = path_of(point.name)
    return sorted((point for point, _ in found.values()), key=lambda p: p.target.count("/"))


def to_oci(points: Iterable[MountPoint]) -> list[dict[str, Any]]:
    """Render mount points as OCI mounts; `subpath` is our runtime's: the part of the source."""
    rendered = []
    for point in points:
        if point.kind == "tmpfs":
            options = [*point.options, *(["ro"] if point.read_only else [])]
            rendered.append(_oci("tmpfs", "tmpfs", point.target, options))
        else:
            mount = _oci("bind", point.source, point.target, _bind_options(point))
            rendered.append(mount | ({"subpath": point.subpath} if point.subpath else {}))
    return rendered


def _bind_options(point: MountPoint) -> list[str]:
    recursion = "bind" if point.recursion == "disabled" else "rbind"
    access = "rw"
    if point.read_only:
        access = "ro" if point.recursion in ("disabled", "writable") else "rro"
    return [recursion, access, point.propagation or "rprivate"]


def _oci(kind: str, source: str, target: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}


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


def _from_bind(bind: str) -> tuple[MountPoint, VolumeWish | None]:
    parts = bind.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
        raise InvalidArgument(f"invalid volume specification: '{bind}'")
    source, target = parts[0], parts[1]
    mode = parts[2] if len(parts) == 3 else ""
    words = mode.split(",") if mode else []
    for kind in _WORDS:
        if sum(word in kind for word in words) > 1:
            raise InvalidArgument(f"invalid mode: {mode}")
    if any(not any(word in kind for kind in _WORDS) for word in words):
        raise InvalidArgument(f"invalid mode: {mode}")
    is_path = source.startswith("/")
    propagation = next((word for word in words if word in _PROPAGATIONS), "")
    if (propagation and not is_path) or ("nocopy" in words and is_path):
        raise InvalidArgument(f"invalid mode: {mode}")
    point = MountPoint(
        kind="bind" if is_path else "volume",
        source=source if is_path else "",
        target=target,
        mode=mode,
        read_only="ro" in words,
        no_copy="nocopy" in words,
    )
    if not is_path:
        return point, VolumeWish(source)
    if not os.path.lexists(source):
        os.makedirs(source, exist_ok=True)
    point.propagation = propagation or "rprivate"
    return point, None


def _from_mount(mount: Mount) -> tuple[MountPoint, VolumeWish | None]:
    if mount.type == "bind":
        _only(mount, "BindOptions")
        return _bind_mount(mount), None
    if mount.type == "volume":
        _only(mount, "VolumeOptions")
        return _volume_mount(mount)
    if mount.type == "tmpfs":
        _only(mount, "TmpfsOptions")
        return _tmpfs_mount(mount), None
    raise Unsupported(f"mount type {mount.type!r} is not bind, volume or tmpfs")


def _only(mount: Mount, own: str) -> None:
    """Refuse the options of another type of mount."""
    given = {
        "BindOptions": mount.bind_options,
        "VolumeOptions": mount.volume_options,
        "TmpfsOptions": mount.tmpfs_options,
    }
    for name, options in given.items():
        if name != own and any((options or {}).values()):
            raise InvalidArgument(
                f"invalid mount config for type {mount.type!r}: field {name} must not be specified"
            )


def _volume_mount(mount: Mount) -> tuple[MountPoint, VolumeWish]:
    options = mount.volume_options or {}
    driver = options.get("DriverConfig") or {}
    for key, value in options.items():
        if value and key not in ("Labels", "NoCopy", "Subpath", "DriverConfig"):
            raise Unsupported(f"VolumeOptions.{key} is not supported")
    if driver.get("Name") not in (None, "", "local"):
        raise Unsupported(f"volume driver {driver['Name']!r} is not supported")
    subpath = options.get("Subpath") or ""
    if subpath and (subpath.startswith("/") or ".." in subpath.split("/")):
        raise InvalidArgument(
            'invalid mount config for type "volume":'
            " subpath must be a relative path within the volume"
        )
    if subpath and not mount.source:
        raise InvalidArgument(
            'invalid mount config for type "volume":'
            " must not set Subpath when using anonymous volumes"
        )
    point = MountPoint(
        kind="volume",
        source="",
        target=mount.target,
        read_only=mount.read_only,
        anonymous=not mount.source,
        no_copy=bool(options.get("NoCopy")),
        subpath=subpath,
    )
    labels, driver_options = options.get("Labels") or {}, driver.get("Options") or {}
    return point, VolumeWish(mount.source, labels, driver_options)


def _tmpfs_mount(mount: Mount) -> MountPoint:
    given = mount.tmpfs_options or {}
    if mount.source:
        raise InvalidArgument('invalid mount config for type "tmpfs": source must not be specified')
    words = []
    if size := given.get("SizeBytes"):
        words.append(f"size={int(size)}")
    if mode := given.get("Mode"):
        words.append(f"mode={int(mode):o}")
    pairs: Sequence[Sequence[str]] = given.get("Options") or []
    words += ["=".join(pair) for pair in pairs]
    return MountPoint(
        kind="tmpfs",
        source="tmpfs",
        target=mount.target,
        read_only=mount.read_only,
        options=tmpfs_options(words),
    )


def _bind_mount(mount: Mount) -> MountPoint:
    options = mount.bind_options or {}
    switches = {
        "NonRecursive": "disabled",
        "ReadOnlyNonRecursive": "writable",
        "ReadOnlyForceRecursive": "readonly",
    }
    for key, value in options.items():
        if value and key not in ("Propagation", "CreateMountpoint", *switches):
            raise Unsupported(f"BindOptions.{key} is not supported")
    recursion = [word for key, word in switches.items() if options.get(key)]
    if len(recursion) > 1 or (recursion and recursion[0] != "disabled" and not mount.read_only):
        raise InvalidArgument(
            'invalid mount config for type "bind": its recursive options contradict each other'
        )
    propagation = options.get("Propagation") or "rprivate"
    if propagation not in _PROPAGATIONS:
        raise InvalidArgument(f"invalid propagation mode {propagation!r}")
    if not mount.source.startswith("/"):
        raise InvalidArgument('invalid mount config for type "bind": source must be absolute')
    if not os.path.lexists(mount.source):
        if not options.get("CreateMountpoint"):
            raise InvalidArgument(
                'invalid mount config for type "bind": '
                f"bind source path does not exist: {mount.source}"
            )
        os.makedirs(mount.source)
    return MountPoint(
        kind="bind",
        source=mount.source,
        target=mount.target,
        read_only=mount.read_only,
        propagation=propagation,
        recursion=recursion[0] if recursion else "",
    )


def _target(target: str) -> str:
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{target}' mount path must be absolute")
    normal = os.path.normpath(target)
    if normal.strip("/") == "":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    return "/" + normal.lstrip("/")
