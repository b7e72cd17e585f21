"""Binds, mounts and volumes of a container: from Docker's words to mount points and to OCI."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from swarmapi.errors import InvalidArgument, NotFound
from swarmapi.model.mounts import (
    PROPAGATIONS,
    RECURSION,
    check_mount,
    mount_target,
    tmpfs_options,
    tmpfs_words,
)
from worker.engine.record import MountPoint
from worker.engine.spec import ContainerConfig, HostConfig, Mount

_WORDS = (
    ("ro", "rw"),
    ("z", "Z"),  # SELinux labels; without SELinux they mean nothing, to Docker too
    ("nocopy",),
    ("cached", "delegated", "consistent"),  # of Docker Desktop
    PROPAGATIONS,
)
"""The words of a bind's mode; at most one of each kind."""


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
    inherited: Iterable[MountPoint] = (),
    root: tuple[int, int] | None = None,
) -> list[MountPoint]:
    """Return every mount point of a container, parents before children.

    The container's own replace those `inherited` from others at the same place. Directories of the
    host that are made for it are the user's and group's of `root`, what its root is on the host.

    Raises:
        InvalidArgument: for a malformed or contradictory mount.
        Unsupported: for a mount type or option we do not serve.
    """
    found: dict[str, tuple[MountPoint, VolumeWish | None]] = {}

    def add(point: MountPoint, wish: VolumeWish | None = None) -> None:
        point.target = mount_target(point.target)
        if point.target in found:
            raise InvalidArgument(f"Duplicate mount point: {point.target}")
        found[point.target] = point, wish

    inheritance = {point.target: point for point in inherited}
    for bind in host.binds:
        add(*_from_bind(bind, root))
    for mount in host.mounts:
        add(*_from_mount(mount, root))
    for target, options in host.tmpfs.items():
        words = tmpfs_options(option for option in options.split(",") if option)
        add(MountPoint(kind="tmpfs", source="tmpfs", target=target, options=words))
    for target in (*config.volumes, *image_volumes):
        if mount_target(target) not in found and mount_target(target) not in inheritance:
            add(MountPoint(kind="volume", source="", target=target, anonymous=True), VolumeWish())
    found = {target: (point, None) for target, point in inheritance.items()} | found
    # Nothing is made before all of them are known to be good.
    for point, wish in found.values():
        if wish is not None:
            point.name = open_volume(wish)
            point.source = path_of(point.name)
    return sorted((point for point, _ in found.values()), key=lambda p: p.target.count("/"))


def inherit(
    wishes: Iterable[str], mounts_of: Callable[[str], Iterable[MountPoint]]
) -> list[MountPoint]:
    """Return what a container mounts of others, by Docker's `VolumesFrom`: `container[:ro]`.

    Raises:
        InvalidArgument: for a malformed wish, or a container that is not here (NotFound would make
            clients pull the image).
    """
    found = []
    for wish in wishes:
        reference, _, mode = wish.partition(":")
        words = mode.split(",") if mode else []
        if not reference:
            raise InvalidArgument(f"invalid volumes-from specification: '{wish}'")
        if not set(words) <= {"ro", "rw", "z", "Z"} or {"ro", "rw"} <= set(words):
            raise InvalidArgument(f"invalid mode: {mode}")
        try:
            points = mounts_of(reference)
        except NotFound as error:
            raise InvalidArgument(error.message) from None
        for point in points:
            if point.kind != "tmpfs":
                read_only = point.read_only or "ro" in words
                found.append(replace(point, read_only=read_only, no_copy=True))
    return found


def to_oci(points: Iterable[MountPoint], *, mapped: bool = False) -> list[dict[str, Any]]:
    """Render mount points as OCI mounts; `subpath` is our runtime's: the part of the source.

    `mapped`: the container is in a user namespace. Its volumes have its ids all the same.
    """
    rendered = []
    for point in points:
        if point.kind == "tmpfs":
            options = [*point.options, *(["ro"] if point.read_only else [])]
            rendered.append(_oci("tmpfs", "tmpfs", point.target, options))
        else:
            words = ["idmap"] if mapped and point.translated else []
            mount = _oci("bind", point.source, point.target, [*_bind_options(point), *words])
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


def _from_bind(bind: str, root: tuple[int, int] | None) -> tuple[MountPoint, VolumeWish | None]:
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
    propagation = next((word for word in words if word in PROPAGATIONS), "")
    if (propagation and not is_path) or ("nocopy" in words and is_path):
        raise InvalidArgument(f"invalid mode: {mode}")
    point = MountPoint(
        kind="bind" if is_path else "volume",
        source=source if is_path else "",
        target=target,
        mode=mode if mode or is_path else "z",
        read_only="ro" in words,
        no_copy="nocopy" in words,
    )
    if not is_path:
        return point, VolumeWish(source)
    _make_source(source, root)
    point.propagation = propagation or "rprivate"
    return point, None


def _make_source(path: str, root: tuple[int, int] | None) -> None:
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        os.makedirs(directory, exist_ok=True)
        if root is not None:
            os.chown(directory, *root)


def _from_mount(mount: Mount, root: tuple[int, int] | None) -> tuple[MountPoint, VolumeWish | None]:
    check_mount(msgspec.to_builtins(mount))
    if mount.type == "bind":
        return _bind_mount(mount, root), None
    if mount.type == "volume":
        return _volume_mount(mount)
    return _tmpfs_mount(mount), None


def _volume_mount(mount: Mount) -> tuple[MountPoint, VolumeWish]:
    options = mount.volume_options or {}
    driver = options.get("DriverConfig") or {}
    point = MountPoint(
        kind="volume",
        source="",
        target=mount.target,
        read_only=mount.read_only,
        anonymous=not mount.source,
        no_copy=bool(options.get("NoCopy")),
        subpath=options.get("Subpath") or "",
    )
    labels, driver_options = options.get("Labels") or {}, driver.get("Options") or {}
    return point, VolumeWish(mount.source, labels, driver_options)


def _tmpfs_mount(mount: Mount) -> MountPoint:
    words = tmpfs_words(mount.tmpfs_options or {})
    return MountPoint(
        kind="tmpfs",
        source="tmpfs",
        target=mount.target,
        read_only=mount.read_only,
        options=tmpfs_options(words),
    )


def _bind_mount(mount: Mount, root: tuple[int, int] | None) -> MountPoint:
    options = mount.bind_options or {}
    recursion = [word for key, word in RECURSION.items() if options.get(key)]
    if not os.path.lexists(mount.source):
        if not options.get("CreateMountpoint"):
            raise InvalidArgument(
                'invalid mount config for type "bind": '
                f"bind source path does not exist: {mount.source}"
            )
        _make_source(mount.source, root)
    return MountPoint(
        kind="bind",
        source=mount.source,
        target=mount.target,
        read_only=mount.read_only,
        propagation=options.get("Propagation") or "rprivate",
        recursion=recursion[0] if recursion else "",
    )
