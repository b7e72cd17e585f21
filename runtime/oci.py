"""Containers in OCI's words: what a start needs, what a state says, Docker's default config."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from runtime.errors import Unsupported
from runtime.supervisor.capabilities import CAPABILITIES
from runtime.supervisor.health import HealthCheck
from runtime.supervisor.ids import IdMap
from runtime.supervisor.process import STOP_SIGNAL as STOP_SIGNAL
from runtime.supervisor.restart import RestartPolicy
from runtime.supervisor.seccomp import default_profile


@dataclass(frozen=True)
class Overlay:
    """A root of layers: lower ones topmost first, and the directories of the writable layer.

    With `copied`, overlayfs is not used: `upper` is the whole root, a copy of the lower layers.
    """

    lower: tuple[str, ...]
    upper: str
    work: str
    merged: str
    copied: bool = field(default=False, kw_only=True)

    @property
    def shown(self) -> list[str]:
        """The directories whose merge the container sees, topmost first."""
        return [self.upper] if self.copied else [self.upper, *self.lower]


@dataclass(frozen=True)
class LogConfig:
    """Where output goes: driver `json-file` or `none`; max_bytes 0 means no rotation.

    `attributes` are repeated in every line of the file.
    """

    driver: str
    path: str
    max_bytes: int = 0
    max_files: int = 1
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Launch:
    """A request to start; netns is `new`, `host`, `fd` or `container:PID`.

    With `init` the program is the child of one that reaps orphans and passes signals on.
    `restart` and `health` are the supervisor's to obey, whoever is away.
    """

    container_id: str
    config: dict[str, Any]
    overlay: Overlay | None
    log: LogConfig
    stdin_open: bool = False
    netns: str = "new"
    init: bool = False
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    health: HealthCheck | None = None


@dataclass(frozen=True)
class ContainerState:
    """What the supervisor knows: status is created, running, paused, restarting or stopped.

    Without an exit code, a stopped container's end was seen by nobody. `health` has the fields of
    `runtime.supervisor.health.Health`.
    """

    container_id: str
    status: str
    pid: int
    exit_code: int | None
    oom_killed: bool
    started_ns: int
    finished_ns: int
    error: str
    warnings: tuple[str, ...]
    restart_count: int = 0
    stop_asked: bool = False
    health: dict[str, Any] | None = None


# Docker's defaults: moby oci/caps/defaults.go and oci/defaults.go
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_NO_EXEC = ["nosuid", "noexec", "nodev"]
_DEVICE_RULES = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", 1, 3, "rwm"),
    ("c", 1, 5, "rwm"),
    ("c", 1, 7, "rwm"),
    ("c", 1, 8, "rwm"),
    ("c", 1, 9, "rwm"),
    ("c", 5, 0, "rwm"),
    ("c", 5, 1, "rwm"),
    ("c", 5, 2, "rwm"),
    ("c", 136, None, "rwm"),
)


@lru_cache(maxsize=64)
def _profile(capabilities: frozenset[str]) -> dict[str, Any]:
    """Return one shared object per capability set, so that clients send it once."""
    return default_profile(capabilities, os.uname().machine)


def _mounts(shm_bytes: int, privileged: bool) -> list[dict[str, Any]]:
    read_only = [] if privileged else ["ro"]

    def mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {
            "destination": destination,
            "type": kind,
            "source": source,
            "options": list(options),
        }

    return [
        mount("/proc", "proc", "proc", *_NO_EXEC),
        mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec",
            "newinstance", "ptmxmode=0666", "mode=0620", "gid=5",
        ),
        mount("/sys", "sysfs", "sysfs", *_NO_EXEC, *read_only),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", *_NO_EXEC, *read_only),
        mount("/dev/mqueue", "mqueue", "mqueue", *_NO_EXEC),
        mount("/dev/shm", "tmpfs", "shm", *_NO_EXEC, "mode=1777", f"size={shm_bytes}"),
    ]  # fmt: skip


def capability_set(add: Iterable[str] = (), drop: Iterable[str] = ()) -> tuple[str, ...]:
    """Return Docker's default capabilities plus `add` minus `drop`; ALL and short names count."""

    def names(words: Iterable[str]) -> set[str]:
        out: set[str] = set()
        for word in words:
            name = word.upper()
            if name == "ALL":
                out.update(CAPABILITIES)
                continue
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name not in CAPABILITIES:
                raise Unsupported(f"unknown capability {word}")
            out.add(name)
        return out

    added, dropped, given = names(add), names(drop), {word.upper() for word in drop}
    kept = set() if "ALL" in given else set(DEFAULT_CAPABILITIES) - dropped
    if "ALL" in {word.upper() for word in add}:
        added -= names(word for word in drop if word.upper() != "ALL")
    return tuple(name for name in CAPABILITIES if name in kept | added)


def default_config(
    args: Sequence[str],
    env: Sequence[str] = (),
    cwd: str = "/",
    hostname: str = "",
    rootfs: str = "",
    *,
    terminal: bool = False,
    uid: int = 0,
    gid: int = 0,
    additional_gids: Sequence[int] = (),
    privileged: bool = False,
    cap_add: Sequence[str] = (),
    cap_drop: Sequence[str] = (),
    read_only: bool = False,
    mounts: Sequence[Mapping[str, Any]] = (),
    tmpfs: Mapping[str, str] | None = None,
    shm_bytes: int = 64 << 20,
    resources: Mapping[str, Any] | None = None,
    devices: Sequence[Mapping[str, Any]] = (),
    sysctls: Mapping[str, str] | None = None,
    rlimits: Sequence[Mapping[str, Any]] = (),
    no_new_privileges: bool = False,
    seccomp: Mapping[str, Any] | str = "default",
    oom_score_adj: int | None = None,
    shared_namespaces: Mapping[str, str] | None = None,
    domainname: str = "",
) -> dict[str, Any]:
    """Return Docker's default OCI config.json for these settings.

    `mounts` are OCI mounts appended in order, `tmpfs` maps a path to mount options, `resources` is
    OCI `linux.resources`, `devices` are OCI `linux.devices` (allowed rwm, or by their `access`),
    `seccomp` is `default`, `unconfined` or an OCI profile, `shared_namespaces` maps a namespace
    type to a path to join, or to `host`. The network namespace comes from Launch.netns.
    """
    caps = CAPABILITIES if privileged else capability_set(cap_add, cap_drop)
    limits = dict(resources or {})
    limits["devices"] = _device_rules(devices, privileged) + list(limits.get("devices") or [])
    linux: dict[str, Any] = {
        "namespaces": _namespaces(shared_namespaces or {}),
        "resources": limits,
        "devices": [{k: v for k, v in d.items() if k != "access"} for d in devices],
        "sysctl": dict(sysctls or {}),
        "maskedPaths": [] if privileged else list(MASKED_PATHS),
        "readonlyPaths": [] if privileged else list(READONLY_PATHS),
    }
    profile = _chosen_profile(seccomp, privileged, frozenset(caps))
    if profile:
        linux["seccomp"] = profile
    extra = _extra_mounts(mounts, tmpfs or {})
    base = _mounts_without(extra, shm_bytes, privileged)
    process: dict[str, Any] = {
        "terminal": terminal,
        "user": {"uid": uid, "gid": gid, "additionalGids": list(additional_gids)},
        "args": list(args),
        "env": list(env),
        "cwd": cwd,
        "capabilities": _capability_sets(list(caps), uid),
        "rlimits": [dict(limit) for limit in rlimits],
        "noNewPrivileges": no_new_privileges,
    } | ({} if oom_score_adj is None else {"oomScoreAdj": oom_score_adj})
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": rootfs, "readonly": read_only},
        "hostname": hostname,
        "domainname": domainname,
        "mounts": base + extra,
        "linux": linux,
    }


def map_ids(config: dict[str, Any], ids: IdMap) -> None:
    """Run a config in a user namespace: its network namespace's, or a new one with these ids."""
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"] |= ids.to_oci()


def _mounts_without(
    extra: list[dict[str, Any]], shm_bytes: int, privileged: bool
) -> list[dict[str, Any]]:
    """A later mount on the place of a default one replaces it, as with Docker."""
    taken = {os.path.normpath(mount["destination"]) for mount in extra}
    return [m for m in _mounts(shm_bytes, privileged) if m["destination"] not in taken]


def _capability_sets(caps: list[str], uid: int) -> dict[str, list[str]]:
    """Give a user other than root none but the bounding set, as Docker does."""
    active = [] if uid else caps
    return {"bounding": caps, "effective": active, "permitted": active}


def _namespaces(shared: Mapping[str, str]) -> list[dict[str, str]]:
    namespaces = []
    for kind in ("mount", "pid", "ipc", "uts", "cgroup"):
        where = shared.get(kind, "")
        if where != "host":
            namespaces.append({"type": kind, "path": where} if where else {"type": kind})
    return namespaces


def _chosen_profile(
    seccomp: Mapping[str, Any] | str, privileged: bool, caps: frozenset[str]
) -> dict[str, Any]:
    if not isinstance(seccomp, str):
        return dict(seccomp)
    if seccomp == "default":
        return {} if privileged else _profile(caps)
    if seccomp != "unconfined":
        raise Unsupported(f"seccomp {seccomp!r} is not default, unconfined or a profile")
    return {}


def _extra_mounts(
    mounts: Sequence[Mapping[str, Any]], tmpfs: Mapping[str, str]
) -> list[dict[str, Any]]:
    extra = [dict(mount) for mount in mounts]
    for path, options in tmpfs.items():
        given = [option for option in options.split(",") if option]
        words = ["nosuid", "nodev", *([] if "exec" in given else ["noexec"]), *given]
        extra.append({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": words})
    return extra


def _device_rules(devices: Sequence[Mapping[str, Any]], privileged: bool) -> list[dict[str, Any]]:
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for kind, major, minor, access in _DEVICE_RULES:
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        if major is not None:
            rule["major"] = major
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    rules += [
        {
            "allow": True,
            "type": "b" if device["type"] == "b" else "c",
            "major": device["major"],
            "minor": device["minor"],
            "access": device.get("access", "rwm"),
        }
        for device in devices
    ]
    return rules
