"""A record turned into an OCI config.json, on top of the runtime's Docker defaults."""

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from swarmapi.errors import InvalidArgument, Unsupported
from worker.engine.mounts import to_oci
from worker.engine.record import Record
from worker.engine.spec import Device, HostConfig

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM_BYTES = 64 << 20
_CAPABILITY_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP "
    "LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER "
    "SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
    "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF "
    "CHECKPOINT_RESTORE"
)
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in _CAPABILITY_NAMES.split())
_CPU_PERIOD_US = 100_000


def merge_env(image_env: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return the image's variables overlaid by the container's; `NAME` alone unsets one."""
    merged: dict[str, str | None] = {}
    for entry in (DEFAULT_PATH, *image_env, *own):
        name, equals, value = entry.partition("=")
        merged[name] = value if equals else None
    return [f"{name}={value}" for name, value in merged.items() if value is not None]


def command_of(config_cmd: Mapping[str, Any], record_config: Any) -> tuple[str, list[str]]:
    """Return (path, arguments): a given entrypoint drops the image's command.

    Raises:
        InvalidArgument: when neither names a program.
    """
    entrypoint, cmd = record_config.entrypoint, record_config.cmd
    if entrypoint is None:
        entrypoint = list(config_cmd.get("Entrypoint") or [])
        if not cmd:
            cmd = list(config_cmd.get("Cmd") or [])
    words = [*(entrypoint or []), *(cmd or [])]
    if not words:
        raise InvalidArgument("no command specified")
    return words[0], words[1:]


def build_config(
    base: dict[str, Any],
    record: Record,
    *,
    user: Mapping[str, object],
    home: str,
    files: Mapping[str, str],
    rootfs: str,
    cgroups_path: str,
) -> dict[str, Any]:
    """Return the config.json of a start.

    `base` is changed and returned; `files` maps a target like /etc/hosts to the host file bound
    there.
    """
    host = record.host
    tty = record.config.tty
    process = base["process"]
    env = [f"HOSTNAME={hostname_of(record)}", *record.env]
    if tty and not any(entry.startswith("TERM=") for entry in env):
        env.append("TERM=xterm")
    if not any(entry.startswith("HOME=") for entry in env):
        env.append(f"HOME={home}")
    process.update(
        args=[record.path, *record.args],
        env=env,
        cwd=record.config.working_dir or record.image_config.get("WorkingDir") or "/",
        user=dict(user),
        terminal=tty,
        noNewPrivileges=_security(host)["no-new-privileges"],
        oomScoreAdj=host.oom_score_adj,
    )
    process["capabilities"] = _capabilities(process.get("capabilities") or {}, host)
    if host.ulimits:
        process["rlimits"] = [
            {
                "type": f"RLIMIT_{limit.name.upper()}",
                "soft": _limit(limit.soft),
                "hard": _limit(limit.hard),
            }
            for limit in host.ulimits
        ]
    base["hostname"] = hostname_of(record)
    if record.config.domainname:
        base["domainname"] = record.config.domainname
    base["root"] = {"path": rootfs, "readonly": host.readonly_rootfs}
    base["mounts"] = _mounts(base.get("mounts") or [], record, files)
    if host.annotations:
        base["annotations"] = {**(base.get("annotations") or {}), **host.annotations}
    _linux(base["linux"], host, cgroups_path)
    return base


def hostname_of(record: Record) -> str:
    """Return the host name in force: as given, else the short id."""
    return record.config.hostname or record.id[:12]


def process_of(
    record: Record,
    base: Mapping[str, Any],
    *,
    args: Sequence[str],
    env: Sequence[str],
    cwd: str,
    user: Mapping[str, object],
    tty: bool,
    privileged: bool,
) -> dict[str, Any]:
    """Return OCI's process of an exec."""
    host = record.host
    if privileged:
        host = msgspec.structs.replace(host, privileged=True)
    return {
        "args": list(args),
        "env": list(env),
        "cwd": cwd,
        "user": dict(user),
        "terminal": tty,
        "noNewPrivileges": _security(host)["no-new-privileges"],
        "oomScoreAdj": host.oom_score_adj,
        "rlimits": base["process"].get("rlimits") or [],
        "capabilities": _capabilities(base["process"].get("capabilities") or {}, host),
    }


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


def _linux(linux: dict[str, Any], host: HostConfig, cgroups_path: str) -> None:
    linux["cgroupsPath"] = cgroups_path
    resources = linux.setdefault("resources", {})
    resources.update(resources_of(host))
    shared = {
        kind
        for kind, mode in (("ipc", host.ipc_mode), ("uts", host.uts_mode), ("pid", host.pid_mode))
        if mode == "host"
    }
    linux["namespaces"] = [ns for ns in linux["namespaces"] if ns["type"] not in shared]
    if host.sysctls:
        linux["sysctl"] = {**(linux.get("sysctl") or {}), **host.sysctls}
    devices = [_device(device) for device in host.devices]
    if devices:
        linux["devices"] = [*(linux.get("devices") or []), *(node for node, _ in devices)]
        resources["devices"] = [*(resources.get("devices") or []), *(rule for _, rule in devices)]
    security = _security(host)
    if security["seccomp"] == "unconfined" or host.privileged:
        linux.pop("seccomp", None)
    elif security["seccomp"]:
        linux["seccomp"] = msgspec.json.decode(str(security["seccomp"]))
    if host.masked_paths is not None:
        linux["maskedPaths"] = host.masked_paths
    if host.readonly_paths is not None:
        linux["readonlyPaths"] = host.readonly_paths
    if host.privileged or security["systempaths"] == "unconfined":
        linux["maskedPaths"], linux["readonlyPaths"] = [], []
    if host.privileged:
        resources["devices"] = [{"allow": True, "access": "rwm"}]


def _security(host: HostConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"no-new-privileges": False, "seccomp": "", "systempaths": ""}
    for option in host.security_opt:
        key, separator, value = option.replace(":", "=", 1).partition("=")
        if key == "no-new-privileges":
            found[key] = value != "false"
        elif key == "seccomp" and separator:
            found[key] = option.split("=" if "=" in option else ":", 1)[1]
        elif key == "systempaths" and value == "unconfined":
            found[key] = value
        elif option in ("label=disable", "label:disable", "apparmor=unconfined"):
            continue  # neither LSM is used: the container is unconfined by it anyway
        else:
            raise Unsupported(f"security option {option!r} is not supported")
    return found


def check_supported(host: HostConfig) -> None:
    """Refuse at create what would only fail at start.

    Raises:
        InvalidArgument: for a contradiction or an unknown capability or device.
        Unsupported: for a security option we do not serve.
    """
    _security(host)
    resources_of(host)
    _capabilities({}, host)


def _capabilities(base: Mapping[str, Sequence[str]], host: HostConfig) -> dict[str, list[str]]:
    if host.privileged:
        granted = list(ALL_CAPABILITIES)
    else:
        add = [_capability(name) for name in host.cap_add]
        drop = {_capability(name) for name in host.cap_drop}
        granted = [] if "ALL" in drop else list(base.get("bounding") or [])
        if "ALL" in add:
            granted = list(ALL_CAPABILITIES)
        granted = [name for name in granted if name not in drop]
        granted += [name for name in add if name != "ALL" and name not in granted]
    return {"bounding": granted, "effective": granted, "permitted": granted}


def _capability(name: str) -> str:
    full = name.upper()
    if full == "ALL":
        return full
    full = full if full.startswith("CAP_") else f"CAP_{full}"
    if full not in ALL_CAPABILITIES:
        raise InvalidArgument(f'unknown capability: "{full}"')
    return full


def _mounts(
    base: Sequence[Mapping[str, Any]], record: Record, files: Mapping[str, str]
) -> list[dict[str, Any]]:
    own = {point.target for point in record.mounts}
    host = record.host
    mounts = []
    for mount in base:
        target = mount["destination"]
        if target in own:
            continue
        options = list(mount.get("options") or [])
        if target == "/dev/shm":
            size = host.shm_size or DEFAULT_SHM_BYTES
            options = [option for option in options if not option.startswith("size=")]
            options.append(f"size={size}")
        if host.privileged and target in ("/sys", "/sys/fs/cgroup"):
            options = ["rw" if option == "ro" else option for option in options]
        mounts.append({**mount, "options": options})
    if host.ipc_mode == "host":
        mounts = [mount for mount in mounts if mount["destination"] != "/dev/shm"]
        mounts.append(_bind("/dev/shm", "/dev/shm"))
    mounts += [_bind(source, target) for target, source in files.items() if target not in own]
    return mounts + to_oci(record.mounts)


def _bind(source: str, target: str) -> dict[str, Any]:
    options = ["rbind", "rprivate"]
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _limit(value: int) -> int:
    return value if value >= 0 else (1 << 64) - 1


def _device(device: Device) -> tuple[dict[str, Any], dict[str, Any]]:
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
    numbers = {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
    node = {
        "path": device.path_in_container or device.path_on_host,
        "type": kind,
        "fileMode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        **numbers,
    }
    return node, {"allow": True, "type": kind, "access": access, **numbers}
