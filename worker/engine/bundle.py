"""A record turned into an OCI config.json, on top of the runtime's Docker defaults."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from runtime.errors import Unsupported as RuntimeUnsupported
from runtime.oci import STOP_SIGNAL, capability_set, default_config, map_ids
from runtime.supervisor.ids import IdMap
from swarmapi.errors import InvalidArgument
from worker.engine.devices import devices_of, rules_of
from worker.engine.limits import check_limits, resources_of
from worker.engine.mounts import to_oci
from worker.engine.record import Record
from worker.engine.security import check_sysctls, security_options
from worker.engine.signals import signal_number, stop_signal_of
from worker.engine.spec import ContainerConfig, HostConfig

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM_BYTES = 64 << 20


def merge_env(image_env: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return the container's variables, then the image's others; `NAME` alone unsets one."""
    merged: dict[str, str | None] = {}
    for entry in own:
        name, equals, value = entry.partition("=")
        merged[name] = value if equals else None
    for entry in image_env:
        name, _, value = entry.partition("=")
        merged.setdefault(name, value)
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
    pid_owner: int = 0,
    ipc_owner: int = 0,
    link_env: Sequence[str] = (),
    ids: IdMap | None = None,
) -> dict[str, Any]:
    """Return the config.json of a start; `files` maps a target like /etc/hosts to a host file.

    The owners are first processes of containers whose namespaces are shared, 0 for none; `link_env`
    are the variables of its links; with `ids` it is in a user namespace.
    """
    host = record.host
    security = security_options(host)
    config = default_config(
        [record.path, *record.args],
        _environment(record, home, link_env),
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
        # Parents before children: a volume at /etc must not hide /etc/hosts.
        mounts=sorted(
            [
                *_binds(record, files, ipc_owner, mapped=ids is not None),
                *to_oci(record.mounts, mapped=ids is not None),
            ],
            key=lambda mount: mount["destination"].count("/"),
        ),
        shm_bytes=host.shm_size or DEFAULT_SHM_BYTES,
        resources=resources_of(host) | {"devices": rules_of(host)},
        devices=devices_of(host),
        sysctls=host.sysctls,
        rlimits=_rlimits(host),
        no_new_privileges=security.no_new_privileges,
        seccomp=security.seccomp,
        oom_score_adj=host.oom_score_adj,
        shared_namespaces=_shared_namespaces(host, pid_owner, ipc_owner),
        domainname=record.config.domainname,
    )
    if ids is not None:
        map_ids(config, ids)
    linux = config["linux"]
    if host.ipc_mode == "none":
        config["mounts"] = [one for one in config["mounts"] if one["destination"] != "/dev/shm"]
    if host.masked_paths is not None:
        linux["maskedPaths"] = host.masked_paths
    if host.readonly_paths is not None:
        linux["readonlyPaths"] = host.readonly_paths
    if security.bare_paths:
        linux["maskedPaths"], linux["readonlyPaths"] = [], []
    if parent := host.cgroup_parent.strip("/"):
        linux["cgroupsPath"] = f"/{parent}/{record.id}"
    config["annotations"] = _annotations(record)
    return config


def _binds(
    record: Record, files: Mapping[str, str], ipc_owner: int, *, mapped: bool
) -> list[dict[str, Any]]:
    own = {point.target for point in record.mounts}
    words = (["ro"] if record.host.readonly_rootfs else []) + (["idmap"] if mapped else [])
    binds = [_bind(source, target, *words) for target, source in files.items() if target not in own]
    if record.host.ipc_mode == "host":
        binds.append(_bind("/dev/shm", "/dev/shm"))
    if ipc_owner:
        binds.append(_bind("/dev/shm", "/dev/shm") | {"namespace": f"/proc/{ipc_owner}/ns/mnt"})
    return binds


def _annotations(record: Record) -> dict[str, str]:
    annotations = dict(record.host.annotations or {})
    with suppress(InvalidArgument):  # an image's own, which nobody checked
        annotations[STOP_SIGNAL] = str(signal_number(stop_signal_of(record)))
    return annotations


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
        no_new_privileges=security_options(host).no_new_privileges,
        oom_score_adj=host.oom_score_adj,
    )["process"]
    return process


def check_supported(host: HostConfig) -> None:
    """Refuse at create what would only fail at start.

    Raises:
        InvalidArgument: for a contradiction or an unknown capability, device or sysctl.
        Unsupported: for an option we do not serve.
    """
    security_options(host)
    check_limits(host)
    check_sysctls(host)
    devices_of(host)
    rules_of(host)
    try:
        capability_set(host.cap_add, host.cap_drop)
    except RuntimeUnsupported as error:
        raise InvalidArgument(str(error)) from error


def base_environment(record: Record, link_env: Sequence[str]) -> list[str]:
    """Return what every process of a container has, whatever else it is told."""
    env = [f"HOSTNAME={hostname_of(record)}", *link_env, *record.env]
    return env if any(entry.startswith("PATH=") for entry in env) else [DEFAULT_PATH, *env]


def _environment(record: Record, home: str, link_env: Sequence[str]) -> list[str]:
    env = base_environment(record, link_env)
    if record.config.tty and not any(entry.startswith("TERM=") for entry in env):
        env.append("TERM=xterm")
    if not any(entry.startswith("HOME=") for entry in env):
        env.append(f"HOME={home}")
    return env


def _shared_namespaces(host: HostConfig, pid_owner: int, ipc_owner: int) -> dict[str, str]:
    modes = {
        "ipc": host.ipc_mode,
        "uts": host.uts_mode,
        "pid": host.pid_mode,
        "cgroup": host.cgroupns_mode,
    }
    shared = {kind: "host" for kind, mode in modes.items() if mode == "host"}
    owners = {"pid": pid_owner, "ipc": ipc_owner}
    return shared | {kind: f"/proc/{pid}/ns/{kind}" for kind, pid in owners.items() if pid}


def _rlimits(host: HostConfig) -> list[dict[str, Any]]:
    return [
        {
            "type": f"RLIMIT_{limit.name.upper()}",
            "soft": _limit(limit.soft),
            "hard": _limit(limit.hard),
        }
        for limit in host.ulimits
    ]


def _bind(source: str, target: str, *more: str) -> dict[str, Any]:
    options = ["rbind", "rprivate", *more]
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _limit(value: int) -> int:
    return value if value >= 0 else (1 << 64) - 1
