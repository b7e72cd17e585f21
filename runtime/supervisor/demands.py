"""What may be asked of the fork server: names of fields, and types that would show late; pure.

A bundle's field that is not known here and not empty is refused, whatever it would have meant.
"""

from __future__ import annotations

from typing import Any

from runtime.errors import StartFailed, Unsupported

_KNOWN = {
    "": "ociVersion process root hostname domainname mounts linux annotations",
    "root": "path readonly",
    "mounts": "destination type source options subpath namespace",
    "linux": (
        "namespaces uidMappings gidMappings resources devices sysctl maskedPaths readonlyPaths "
        "seccomp cgroupsPath"
    ),
    "linux.namespaces": "type path",
    "linux.uidMappings": "containerID hostID size",
    "linux.gidMappings": "containerID hostID size",
    "linux.devices": "type path major minor fileMode uid gid",
    "linux.resources": "devices memory cpu pids blockIO unified",
    "linux.resources.devices": "allow type major minor access",
    "linux.resources.memory": "limit swap reservation swappiness disableOOMKiller",
    "linux.resources.cpu": "shares quota period cpus mems",
    "linux.resources.pids": "limit",
    "linux.resources.blockIO": (
        "weight weightDevice throttleReadBpsDevice throttleWriteBpsDevice throttleReadIOPSDevice "
        "throttleWriteIOPSDevice"
    ),
    "process": (
        "terminal consoleSize user args env cwd capabilities rlimits noNewPrivileges oomScoreAdj"
    ),
    "process.user": "uid gid umask additionalGids username",
    "process.capabilities": "bounding effective inheritable permitted ambient",
    "process.rlimits": "type soft hard",
}
"""OCI runtime-spec 1.2, config.md and config-linux.md: the fields that are obeyed."""
_FIELDS = {place: frozenset(names.split()) for place, names in _KNOWN.items()}
_NUMBER = (int, float)
_TYPES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "start": {
        "container": str, "config": dict, "seccomp": str, "log": dict, "stdin_open": bool,
        "netns": str, "init": bool, "restart": dict,
    },
    "log": {"driver": str, "path": str, "max_bytes": int, "max_files": int},
    "restart": {"name": str, "max_retries": int},
    "health": {
        "process": dict, "interval_s": _NUMBER, "timeout_s": _NUMBER, "start_period_s": _NUMBER,
        "start_interval_s": _NUMBER, "retries": int,
    },
}  # fmt: skip


def check_bundle(config: dict[str, Any]) -> None:
    """Raise Unsupported for the first field of an OCI config that would not be obeyed."""
    _check("", config)


def check_process(process: dict[str, Any]) -> None:
    """Raise Unsupported for the first field of an OCI process that would not be obeyed.

    Raises StartFailed for one that has nothing to run.
    """
    _check("process", process)
    if not process.get("args"):
        raise StartFailed("process.args is empty: nothing to run")


def check_resources(resources: dict[str, Any]) -> None:
    """Raise Unsupported for the first limit that cannot be set."""
    _check("linux.resources", resources)


def _check(place: str, value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _check(place, item)
        return
    if not isinstance(value, dict):
        raise TypeError(f"{place or 'config'} is no object")
    for name, inner in value.items():
        path = f"{place}.{name}" if place else name
        if name not in _FIELDS[place]:
            if inner:
                raise Unsupported(f"{path} is not supported")
        elif path in _FIELDS and inner:
            _check(path, inner)


def check_start(request: dict[str, Any]) -> None:
    """Raise TypeError for a field of a start that is missing or of another type than it must be."""
    _typed("start", request)
    for part in ("log", "restart"):
        _typed(part, request[part])
    if request.get("health") is not None:
        _typed("health", request["health"])
        check_process(request["health"]["process"])


def check_restart(policy: dict[str, Any]) -> None:
    """Raise TypeError for what is no restart policy."""
    _typed("restart", policy)


def _typed(part: str, fields: Any) -> None:
    for name, kind in _TYPES[part].items():
        if not isinstance(fields, dict) or not isinstance(fields.get(name), kind):
            raise TypeError(f"{part} has no {name} of the right type")
