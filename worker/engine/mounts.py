"""Binds, mounts and volumes of a container: from Docker's words to mount points and to OCI."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from swarmapi.errors import InvalidArgument, Unsupported
from worker.engine.record import MountPoint
from worker.engine.spec import ContainerConfig, HostConfig, Mount

_PROPAGATIONS = {"private", "rprivate", "shared", "rshared", "slave", "rslave"}
_MODES = {"rw", "ro", "z", "Z", "nocopy", "cached", "delegated", "consistent"} | _PROPAGATIONS
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")
_TMPFS_DEFAULT = ["noexec", "nosuid", "nodev"]

OpenVolume = Callable[[str], str]
"""Volume name (empty: an anonymous one's fresh name is asked for by the caller) → its directory."""


def resolve_mounts(
    config: ContainerConfig,
    host: HostConfig,
    image_volumes: Iterable[str],
    open_volume: OpenVolume,
    fresh_name: Callable[[], str],
) -> list[MountPoint]:
    """Return every mount point of a container, parents before children.

    Raises:
        InvalidArgument: for a malformed or contradictory mount.
        Unsupported: for a mount type or option we do not serve.
    """
    points: dict[str, MountPoint] = {}

    def add(point: MountPoint) -> None:
        point.target = _target(point.target)
        if point.target in points:
            raise InvalidArgument(f"Duplicate mount point: {point.target}")
        points[point.target] = point

    for bind in host.binds:
        add(_from_bind(bind, open_volume))
    for mount in host.mounts:
        add(_from_mount(mount, open_volume, fresh_name))
    for target, options in host.tmpfs.items():
        chosen = [option for option in options.split(",") if option]
        add(
            MountPoint(kind="tmpfs", source="tmpfs", target=target, options=_TMPFS_DEFAULT + chosen)
        )
    for target in (*config.volumes, *image_volumes):
        if _target(target) not in points:
            name = fresh_name()
            add(
                MountPoint(
                    kind="volume",
                    source=open_volume(name),
                    target=target,
                    name=name,
                    anonymous=True,
                )
            )
    return sorted(points.values(), key=lambda point: point.target.count("/"))


def to_oci(points: Iterable[MountPoint]) -> list[dict[str, Any]]:
    """Render mount points as OCI mounts."""
    rendered = []
    for point in points:
        access = "ro" if point.read_only else "rw"
        if point.kind == "tmpfs":
            options = [*point.options, *(["ro"] if point.read_only else [])]
            rendered.append(_oci("tmpfs", "tmpfs", point.target, options))
        else:
            options = ["rbind", access, point.propagation or "rprivate"]
            rendered.append(_oci("bind", point.source, point.target, options))
    return rendered


def _oci(kind: str, source: str, target: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _from_bind(bind: str, open_volume: OpenVolume) -> MountPoint:
    parts = bind.split(":")
    if len(parts) not in (2, 3) or not parts[0]:
        raise InvalidArgument(f"invalid volume specification: '{bind}'")
    source, target = parts[0], parts[1]
    mode = parts[2] if len(parts) == 3 else ""
    words = [word for word in mode.split(",") if word]
    for word in words:
        if word not in _MODES:
            raise InvalidArgument(f"invalid mode: {mode}")
    propagation = next((word for word in words if word in _PROPAGATIONS), "")
    common = {"target": target, "mode": mode, "read_only": "ro" in words}
    if source.startswith("/"):
        os.makedirs(source, exist_ok=True) if not os.path.lexists(source) else None
        return MountPoint(
            kind="bind", source=source, propagation=propagation or "rprivate", **_typed(common)
        )
    if not _VOLUME_NAME.match(source):
        raise InvalidArgument(
            f'"{source}" includes invalid characters for a local volume name, '
            'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'
        )
    return MountPoint(kind="volume", source=open_volume(source), name=source, **_typed(common))


def _typed(common: Mapping[str, Any]) -> dict[str, Any]:
    return dict(common)


def _from_mount(mount: Mount, open_volume: OpenVolume, fresh_name: Callable[[], str]) -> MountPoint:
    if mount.type == "bind":
        return _bind_mount(mount)
    if mount.type == "volume":
        for key, value in (mount.volume_options or {}).items():
            driver = key == "DriverConfig" and (value or {}).get("Name") in (None, "", "local")
            plain = driver and not (value or {}).get("Options")
            if value and key not in ("Labels", "NoCopy") and not plain:
                raise Unsupported(f"VolumeOptions.{key} is not supported")
        name = mount.source or fresh_name()
        if not _VOLUME_NAME.match(name):
            raise InvalidArgument(f"invalid volume name {name!r}")
        return MountPoint(
            kind="volume",
            source=open_volume(name),
            target=mount.target,
            name=name,
            read_only=mount.read_only,
            anonymous=not mount.source,
        )
    if mount.type == "tmpfs":
        options = list(_TMPFS_DEFAULT)
        given = mount.tmpfs_options or {}
        if size := given.get("SizeBytes"):
            options.append(f"size={int(size)}")
        if mode := given.get("Mode"):
            options.append(f"mode={int(mode):o}")
        if given.get("Options"):
            raise Unsupported("TmpfsOptions.Options is not supported")
        return MountPoint(
            kind="tmpfs",
            source="tmpfs",
            target=mount.target,
            read_only=mount.read_only,
            options=options,
        )
    raise Unsupported(f"mount type {mount.type!r} is not bind, volume or tmpfs")


def _bind_mount(mount: Mount) -> MountPoint:
    options = mount.bind_options or {}
    for key, value in options.items():
        if value and key not in ("Propagation", "CreateMountpoint"):
            raise Unsupported(f"BindOptions.{key} is not supported")
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
    )


def _target(target: str) -> str:
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{target}' mount path must be absolute")
    normal = os.path.normpath(target)
    if normal == "/":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    return "/" + normal.lstrip("/")
