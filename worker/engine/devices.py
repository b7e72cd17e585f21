"""Devices of the host in a container: named ones, all of a privileged one, rules of the cgroup."""

import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from swarmapi.errors import InvalidArgument
from worker.engine.spec import Device, HostConfig

_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")
_NOT_OURS = frozenset(("pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"))
"""Names below /dev that every container has for itself (moby's list)."""


def devices_of(host: HostConfig) -> list[dict[str, Any]]:
    """Return OCI's linux.devices, each with its `access`.

    Raises:
        InvalidArgument: for what is no device of this host.
    """
    found = [one for device in host.devices for one in _asked(device)]
    if host.privileged:
        taken = {one["path"] for one in found}
        found += [one for one in _below("/dev", "/dev", "rwm") if one["path"] not in taken]
    return found


def rules_of(host: HostConfig) -> list[dict[str, Any]]:
    """Return OCI's linux.resources.devices of the rules asked for.

    Raises:
        InvalidArgument: for a malformed one.
    """
    rules = []
    for text in host.device_cgroup_rules:
        match = _RULE.fullmatch(text)
        if not match:
            raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
        rule: dict[str, Any] = {"allow": True, "type": match[1], "access": match[4]}
        for key, value in (("major", match[2]), ("minor", match[3])):
            if value != "*":
                rule[key] = int(value)
        rules.append(rule)
    return rules


def _asked(device: Device) -> list[dict[str, Any]]:
    access = device.cgroup_permissions or "rwm"
    if set(access) - set("rwm"):
        raise InvalidArgument(f"invalid device permissions {access!r}")
    source = device.path_on_host
    target = device.path_in_container or source
    try:
        status = os.stat(source)
    except OSError as error:
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{source}": '
            f"{os.strerror(error.errno or 0).lower()}"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        found = list(_below(source, target, access))
        if found:
            return found
    elif _is_device(status):
        return [_oci(target, status, access)]
    raise InvalidArgument(
        f'error gathering device information while adding custom device "{source}": '
        "not a device node"
    )


def _below(source: str, target: str, access: str) -> Iterator[dict[str, Any]]:
    for entry in os.scandir(source):
        if entry.is_symlink() or entry.name in _NOT_OURS:
            continue
        path = f"{target.rstrip('/')}/{entry.name}"
        if entry.is_dir():
            yield from _below(entry.path, path, access)
        elif _is_device(status := entry.stat(follow_symlinks=False)):
            yield _oci(path, status, access)


def _is_device(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)


def _oci(path: str, status: os.stat_result, access: str) -> dict[str, Any]:
    return {
        "access": access,
        "path": path,
        "type": "c" if stat.S_ISCHR(status.st_mode) else "b",
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
    }
