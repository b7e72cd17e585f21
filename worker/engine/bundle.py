"""A record turned into an OCI config.json, on top of the runtime's Docker defaults."""

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from runtime.errors import Unsupported as RuntimeUnsupported
from runtime.oci import capability_set, default_config
from swarmapi.errors import InvalidArgument, Unsupported
from worker.engine.mounts import to_oci
from worker.engine.record import Record
from worker.engine.spec import ContainerConfig, Device, HostConfig

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM_BYTES = 64 << 20
_CPU_PERIOD_US = 100_000


def merge_env(image_env: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return the image's variables overlaid by the container's; `NAME` alone unsets one."""
    merged: dict[str, str | None] = {}
    for entry in (DEFAULT_PATH, *image_env, *own):
        name, equals, value = entry.partition("=")
        merged[name] = value if equals else None
    return [f"{name}={value}" for name, value in merged.items() if value is not None]


def command_of(image_config: Mapping[str, Any], config: ContainerConfig) -> tuple[str, list[str]]:
    """Return (path, arguments): a given entrypoint drops the image's command.

    Raises:
        InvalidArgument: when neither names a program.
    """
    entrypoint, cmd = config.entrypoint, config.cmd
    if entrypoint is None:
        entrypoint = list(image_config.get("Entrypoint") or [])
        if not cmd:
            cmd = list(image_config.get("Cmd") or [])
    words = [*(entrypoint or []), *(cmd or [])]
    if not words:
        raise InvalidArgument("no command specified")
    return words[0], words[1:]


def build_config(
    record: Record,
    *,
    user: Mapping[str, Any],
    home: str,
    files: Mapping[str, str],
    rootfs: str,
) -> dict[str, Any]:
    """Return the config.json of a start; `files` maps a target like /etc/hosts to a host file."""
    host = record.host
    security = _security(host)
    own = {point.target for point in record.mounts}
    binds = [_bind(source, target) for target, source in files.items() if target not in own]
    if host.ipc_mode == "host":
        binds.append(_bind("/dev/shm", "/dev/shm"))
    config = default_config(
        [record.path, *record.args],
        _environment(record, home),
        working_dir_of(record),
        hostname_of(record),
        rootfs,
        terminal=record.config.tty,
        uid=user["uid"],
        gid=user["gid"],
        additional_gids=user.get("additionalGids", ()),
        privileged=host.privileged,
        cap_add=host.cap_add,
        cap_drop=host.cap_drop,
        read_only=host.readonly_rootfs,
        mounts=binds + to_oci(record.mounts),
        shm_bytes=host.shm_size or DEFAULT_SHM_BYTES,
        resources=resources_of(host),
        devices=[_device(device) for device in host.devices],
        sysctls=host.sysctls,
        rlimits=_rlimits(host),
        no_new_privileges=security["no-new-privileges"],
        seccomp=security["seccomp"],
        oom_score_adj=host.oom_score_adj,
        shared_namespaces=_shared_namespaces(host),
        domainname=record.config.domainname,
    )
    linux = config["linux"]
    if host.masked_paths is not None:
        linux["maskedPaths"] = host.masked_paths
    if host.readonly_paths is not None:
        linux["readonlyPaths"] = host.readonly_paths
    if security["systempaths"] == "unconfined":
        linux["maskedPaths"], linux["readonlyPaths"] = [], []
    if host.annotations:
        config["annotations"] = dict(host.annotations)
    return config


def working_dir_of(record: Record) -> str:
    """Return the directory a process starts in: the container's, the image's, or /."""
    return record.config.working_dir or str(record.image_config.get("WorkingDir") or "/")


def hostname_of(record: Record) -> str:
    """Return the host name in force: as given, else the short id."""
    return record.config.hostname or record.id[:12]


def process_of(
    record: Record,
    *,
    args: Sequence[str],
    env: Sequence[str],
    cwd: str,
    user: Mapping[str, Any],
    tty: bool,
    privileged: bool,
) -> dict[str, Any]:
    """Return OCI's process of an exec."""
    host = record.host
    process: dict[str, Any] = default_config(
        args,
        env,
        cwd,
        terminal=tty,
        uid=user["uid"],
        gid=user["gid"],
        additional_gids=user.get("additionalGids", ()),
        privileged=privileged or host.privileged,
        cap_add=host.cap_add,
        cap_drop=host.cap_drop,
        rlimits=_rlimits(host),
        no_new_privileges=_security(host)["no-new-privileges"],
        oom_score_adj=host.oom_score_adj,
    )["process"]
    return process


def resources_of(host: HostConfig) -> dict[str, Any]:
    """Return OCI's linux.resources for the limits that are set."""
    memory: dict[str, Any] = {}
    if host.memory > 0:
        memory["limit"] = host.memory
        swap = host.memory_swap or host.memory * 2
        if 0 < swap < host.memory:
            raise InvalidArgument(
                "Minimum memoryswap limit should be larger than memory limit, see usage"
            )
        memory["swap"] = swap
    elif host.memory_swap > 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit")
    if host.memory_reservation > 0:
        memory["reservation"] = host.memory_reservation
    cpu: dict[str, Any] = {}
    if host.nano_cpus > 0:
        if host.cpu_quota > 0 or host.cpu_period > 0:
            raise InvalidArgument("Nano CPUs cannot be set together with a CPU quota or period")
        cpu |= {"period": _CPU_PERIOD_US, "quota": host.nano_cpus * _CPU_PERIOD_US // 10**9}
    for key, value in (
        ("period", host.cpu_period),
        ("quota", host.cpu_quota),
        ("shares", host.cpu_shares),
        ("cpus", host.cpuset_cpus),
        ("mems", host.cpuset_mems),
    ):
        if value:
            cpu[key] = value
    found: dict[str, Any] = {}
    if memory:
        found["memory"] = memory
    if cpu:
        found["cpu"] = cpu
    if host.pids_limit > 0:
        found["pids"] = {"limit": host.pids_limit}
    return found


def _security(host: HostConfig) -> dict[str, Any]:
    found: dict[str, Any] = {
        "no-new-privileges": False,
        "seccomp": "default",
        "systempaths": "",
    }
    for option in host.security_opt:
        key, separator, value = option.replace(":", "=", 1).partition("=")
        if key == "no-new-privileges":
            found[key] = value != "false"
        elif key == "seccomp" and separator:
            found[key] = _seccomp(option[len("seccomp") + 1 :])
        elif key == "systempaths" and value == "unconfined":
            found[key] = value
        elif option in ("label=disable", "label:disable", "apparmor=unconfined"):
            continue  # neither LSM is used: the container is unconfined by it anyway
        else:
            raise Unsupported(f"security option {option!r} is not supported")
    return found


def _seccomp(value: str) -> Any:
    if value in ("unconfined", "builtin"):
        return "unconfined" if value == "unconfined" else "default"
    try:
        profile = msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"seccomp profile is not JSON: {error}") from error
    if not isinstance(profile, dict):
        raise InvalidArgument("seccomp profile is no JSON object")
    return profile


def check_supported(host: HostConfig) -> None:
    """Refuse at create what would only fail at start.

    Raises:
        InvalidArgument: for a contradiction or an unknown capability or device.
        Unsupported: for a security option we do not serve.
    """
    _security(host)
    resources_of(host)
    for device in host.devices:
        _device(device)
    try:
        capability_set(host.cap_add, host.cap_drop)
    except RuntimeUnsupported as error:
        raise InvalidArgument(str(error)) from error


def _environment(record: Record, home: str) -> list[str]:
    env = [f"HOSTNAME={hostname_of(record)}", *record.env]
    if record.config.tty and not any(entry.startswith("TERM=") for entry in env):
        env.append("TERM=xterm")
    if not any(entry.startswith("HOME=") for entry in env):
        env.append(f"HOME={home}")
    return env


def _shared_namespaces(host: HostConfig) -> dict[str, str]:
    modes = (("ipc", host.ipc_mode), ("uts", host.uts_mode), ("pid", host.pid_mode))
    return {kind: "host" for kind, mode in modes if mode == "host"}


def _rlimits(host: HostConfig) -> list[dict[str, Any]]:
    return [
        {
            "type": f"RLIMIT_{limit.name.upper()}",
            "soft": _limit(limit.soft),
            "hard": _limit(limit.hard),
        }
        for limit in host.ulimits
    ]


def _bind(source: str, target: str) -> dict[str, Any]:
    options = ["rbind", "rprivate"]
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _limit(value: int) -> int:
    return value if value >= 0 else (1 << 64) - 1


def _device(device: Device) -> dict[str, Any]:
    try:
        found = os.stat(device.path_on_host)
    except OSError as error:
        raise InvalidArgument(
            f'error gathering device information while adding custom device "'
            f'{device.path_on_host}": {os.strerror(error.errno or 0).lower()}'
        ) from error
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise InvalidArgument(f"{device.path_on_host} is not a device node")
    access = device.cgroup_permissions or "rwm"
    if set(access) - set("rwm"):
        raise InvalidArgument(f"invalid device permissions {access!r}")
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b"
    return {
        "access": access,
        "path": device.path_in_container or device.path_on_host,
        "type": kind,
        "fileMode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
    }
