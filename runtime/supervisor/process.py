"""The last part of every plan: limits, identity, capabilities, seccomp and execve."""

from __future__ import annotations

import os
import resource
import signal
import struct
from dataclasses import dataclass
from typing import Any

from runtime.errors import StartFailed, Unsupported
from runtime.supervisor import demands, kernel, pidone, usher
from runtime.supervisor.capabilities import CAPABILITIES
from runtime.supervisor.plan import (
    EXISTS_OK,
    IGNORE,
    REPORT_SIZE,
    SEARCH,
    Plan,
    Slot,
    unpack_report,
)


@dataclass(frozen=True)
class Door:
    """How a process gets into a pid namespace: `usher` as a file, and its report's descriptor."""

    program_fd: int
    report_fd: int


STOP_SIGNAL = "org.opencontainers.image.stopSignal"
_BIT = dict(zip(CAPABILITIES, range(len(CAPABILITIES)), strict=True))
_SYS_RESOURCE = 1 << _BIT["CAP_SYS_RESOURCE"]
_RLIMITS = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
]
_CAPSET_VERSION_3 = 0x20080522
_CLOSE_RANGE_CLOEXEC = 4
_RESET_SIGNALS = (1, 13, 25)  # SIGHUP, which the fork server ignores; what Python ignores
_ROOT_SLOT, _WORK_SLOT, _PARENT_SLOT, _FILE_SLOT = 1, 2, 3, 6
_WRITE_ONLY = 0o2000001  # with O_CLOEXEC

with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as _file:
    LAST_CAPABILITY = int(_file.read())
PERMITTED = kernel.permitted_capabilities()


def stop_signal_of(config: dict[str, Any]) -> int:
    """Return the number an OCI config's annotation names, SIGTERM where there is none.

    `org.opencontainers.image.stopSignal` (image-spec, annotations.md), as a number.
    """
    text = str((config.get("annotations") or {}).get(STOP_SIGNAL, ""))
    number = int(text) if text.isdecimal() else 0
    return number if 0 < number < signal.NSIG else signal.SIGTERM


def mask_of(names: list[str], warnings: list[str]) -> int:
    """Return the bit mask of capabilities, clamped to what this host grants."""
    mask = 0
    for name in names:
        bit = _BIT.get(name)
        if bit is None:
            raise Unsupported(f"unknown capability {name}")
        if bit > LAST_CAPABILITY or not PERMITTED >> bit & 1:
            warnings.append(f"capability {name} is not available on this host: dropped")
        else:
            mask |= 1 << bit
    return mask


def make_directories(plan: Plan, path: str, root_slot: int, leaf_is_file: bool = False) -> None:
    """Create `path` below the root, resolving nothing outside of it; what exists stays."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for i, part in enumerate(parts):
        parent = "/".join(parts[:i]) or "."
        resolve_directory(plan, parent, root_slot, _PARENT_SLOT)
        if leaf_is_file and i == len(parts) - 1:
            mode = 0o100644
            plan.call("mknodat", Slot(_PARENT_SLOT), part, mode, 0, allow=EXISTS_OK, label=path)
        else:
            plan.call("mkdirat", Slot(_PARENT_SLOT), part, 0o755, allow=_MKDIR_OK, label=path)
        plan.call("close", Slot(_PARENT_SLOT))


_MKDIR_OK = frozenset({17, 30})  # EEXIST; EROFS shows again when the directory is opened
_O_PATH, _O_DIRECTORY, _O_CLOEXEC = 0o10000000, 0o200000, 0o2000000
if kernel.MACHINE == "aarch64":
    _O_DIRECTORY = 0o40000


def resolve_directory(plan: Plan, path: str, root_slot: int, slot: int) -> None:
    """Open a directory by path inside the root; magic links do not resolve."""
    resolve_any(plan, path, root_slot, slot, _O_DIRECTORY)


def resolve_any(plan: Plan, path: str, root_slot: int, slot: int, flags: int = 0) -> None:
    """Open anything by path inside the root as O_PATH."""
    how = struct.pack(
        "<QQQ",
        _O_PATH | _O_CLOEXEC | flags,
        0,
        kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS,
    )
    plan.call("openat2", Slot(root_slot), path or ".", plan.buffer(how), 24, slot=slot, label=path)


def write_file(plan: Plan, path: str, value: str, allow: frozenset[int] | None = None) -> None:
    """Write a control file; `allow` names the errnos of the write that do no harm."""
    plan.call("openat", kernel.AT_FDCWD, path, _WRITE_ONLY, 0, slot=_FILE_SLOT, label=path)
    plan.call("write", Slot(_FILE_SLOT), value, len(value.encode()), allow=allow, label=path)
    plan.call("close", Slot(_FILE_SLOT))


def adjust_oom_score(plan: Plan, process: dict[str, Any]) -> None:
    """Set what the process asks for; must come before the host's /proc is out of sight."""
    adjust = process.get("oomScoreAdj")
    if adjust is not None:  # lowering it takes CAP_SYS_RESOURCE, which a host may lack
        write_file(plan, "/proc/self/oom_score_adj", str(adjust), frozenset({1, 13}))


def become_root(plan: Plan) -> None:
    """Be root of the user namespace just entered, with all its capabilities."""
    plan.call("setgroups", 0, 0)
    plan.call("setresgid", 0, 0, 0)
    plan.call("setresuid", 0, 0, 0)


def open_root(plan: Plan, slot: int = _ROOT_SLOT) -> int:
    """Open the current root; returns the slot."""
    plan.call("openat", kernel.AT_FDCWD, "/", _O_PATH | _O_DIRECTORY | _O_CLOEXEC, 0, slot=slot)
    return slot


def finish(
    plan: Plan,
    process: dict[str, Any],
    stdio: tuple[int, int, int],
    bpf: bytes,
    warnings: list[str],
    init_fd: int = -1,
    make_cwd: bool = True,
    door: Door | None = None,
    *,
    mapped: bool = False,
) -> None:
    """Append everything from the working directory to execve.

    A container's first process has its working directory made; a later one must find it. With
    `init_fd` this process becomes that program and the user's program is its child; with a `door`
    it becomes the usher, and so is the user's program. `mapped`: it is in a user namespace, where
    nobody may set limits or give streams away; that was done outside.
    """
    demands.check_process(process)
    cwd = process.get("cwd") or "/"
    if not cwd.startswith("/"):
        raise StartFailed(f"cwd {cwd} must be an absolute path")
    if cwd != "/" and make_cwd:
        make_directories(plan, cwd, _ROOT_SLOT)
    resolve_directory(plan, cwd, _ROOT_SLOT, _WORK_SLOT)
    plan.labels[-1] = f"chdir to cwd ({cwd!r})"
    _streams(plan, process, stdio, door)
    user = process.get("user") or {}
    uid, gid = int(user.get("uid", 0)), int(user.get("gid", 0))
    if not mapped:
        limit(plan, process, warnings)
        _give_streams(plan, uid)
    plan.call("fchdir", Slot(_WORK_SLOT), label=f"chdir to cwd ({cwd!r})")
    plan.call("close_range", 3, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC)
    if door is not None:
        plan.call("dup3", door.report_fd, usher.REPORT, 0)
    no_new_privs = bool(process.get("noNewPrivileges"))
    if bpf and not no_new_privs:
        _seccomp(plan, bpf)  # needs CAP_SYS_ADMIN, which the next lines give away
    _identity(plan, process, uid, gid, warnings)
    action = plan.buffer(b"\0" * 32)
    for number in _RESET_SIGNALS:
        plan.call("rt_sigaction", number, action, 0, 8)
    masked = b"\0" if init_fd < 0 else b"\xff"
    plan.call("rt_sigprocmask", 2, plan.buffer(masked * 8), 0, 8)
    umask = user.get("umask")
    plan.call("umask", 0o22 if umask is None else int(umask))
    if no_new_privs:
        plan.call("prctl", kernel.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, label="no_new_privs")
        if bpf:
            _seccomp(plan, bpf)
    if init_fd >= 0:
        _become_init(plan, process, init_fd)
    if door is None:
        _execve(plan, process)
    else:
        _become_usher(plan, process, door)


def _streams(
    plan: Plan, process: dict[str, Any], stdio: tuple[int, int, int], door: Door | None
) -> None:
    for target, fd in enumerate(stdio):
        plan.call("dup3", fd, target, 0)
    if process.get("terminal") and door is None:
        plan.call("ioctl", 0, kernel.TIOCSCTTY, 0, label="controlling terminal")


def _give_streams(plan: Plan, uid: int) -> None:
    for fd in range(3 if uid else 0):  # so that /dev/stdout can be opened by the user, as runc does
        plan.call("fchown", fd, uid, -1, allow=IGNORE)


def _become_usher(plan: Plan, process: dict[str, Any], door: Door) -> None:
    letter = "t" if process.get("terminal") else "-"
    arguments = plan.strings([letter, *_candidates(process), "", *process["args"]])
    environment = plan.strings(process.get("env") or [])
    flags = kernel.AT_EMPTY_PATH
    plan.call("execveat", door.program_fd, "", arguments, environment, flags, label="execve")


def _become_init(plan: Plan, process: dict[str, Any], init_fd: int) -> None:
    plan.fork()
    arguments = plan.strings(["/sbin/docker-init", "--", *process["args"]])
    nothing = plan.strings([])
    plan.call("execveat", init_fd, "", arguments, nothing, kernel.AT_EMPTY_PATH, label="init")
    # a process group of its own, so that the terminal's signals do not reach it twice
    plan.call("setpgid", 0, 0)
    if process.get("terminal"):
        group = plan.buffer(struct.pack("<i", pidone.MAIN_PID))
        plan.call("ioctl", 0, kernel.TIOCSPGRP, group, label="foreground of the terminal")
    plan.call("rt_sigprocmask", 2, plan.buffer(b"\0" * 8), 0, 8)


def limit(plan: Plan, process: dict[str, Any], warnings: list[str]) -> None:
    """Set the process's rlimits, clamped to what this host grants."""
    for entry in process.get("rlimits") or []:
        name = str(entry["type"]).removeprefix("RLIMIT_")
        if name not in _RLIMITS:
            raise Unsupported(f"unknown rlimit {entry['type']}")
        number = _RLIMITS.index(name)
        soft, hard = int(entry["soft"]), int(entry["hard"])
        host = resource.getrlimit(number)[1]
        unlimited = host == resource.RLIM_INFINITY
        if not PERMITTED & _SYS_RESOURCE and not unlimited and not 0 <= hard <= host:
            warnings.append(f"rlimit {name} {hard} is above this host's {host}: clamped")
            hard = host
            soft = soft if 0 <= soft <= hard else hard
        values = struct.pack("<QQ", soft & (1 << 64) - 1, hard & (1 << 64) - 1)
        plan.call("prlimit64", 0, number, plan.buffer(values), 0, label=f"rlimit {name}")


def _identity(plan: Plan, process: dict[str, Any], uid: int, gid: int, warnings: list[str]) -> None:
    sets = process.get("capabilities") or {}
    bounding = mask_of(sets.get("bounding") or [], warnings)
    muted: list[str] = []
    permitted = mask_of(sets.get("permitted") or [], muted) & bounding
    effective = mask_of(sets.get("effective") or [], muted) & permitted
    inheritable = mask_of(sets.get("inheritable") or [], muted) & bounding
    ambient = mask_of(sets.get("ambient") or [], muted) & permitted & inheritable
    for bit in range(LAST_CAPABILITY + 1):
        if not bounding >> bit & 1:
            plan.call("prctl", kernel.PR_CAPBSET_DROP, bit, 0, 0, 0, label="drop capability")
    plan.call("prctl", kernel.PR_SET_KEEPCAPS, 1, 0, 0, 0)
    groups = [int(g) for g in (process.get("user") or {}).get("additionalGids") or []]
    packed = struct.pack(f"<{len(groups)}I", *groups)
    plan.call("setgroups", len(groups), plan.buffer(packed) if groups else 0)
    plan.call("setresgid", gid, gid, gid)
    plan.call("setresuid", uid, uid, uid)
    header = plan.buffer(struct.pack("<Ii", _CAPSET_VERSION_3, 0))
    low = [mask & 0xFFFFFFFF for mask in (effective, permitted, inheritable)]
    high = [mask >> 32 for mask in (effective, permitted, inheritable)]
    plan.call("capset", header, plan.buffer(struct.pack("<6I", *low, *high)))
    for bit in range(LAST_CAPABILITY + 1):
        if ambient >> bit & 1:
            plan.call("prctl", kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, bit, 0, 0)


def _seccomp(plan: Plan, bpf: bytes) -> None:
    program = plan.buffer(bpf)
    header = plan.pointing(struct.pack("<HxxxxxxQ", len(bpf) // 8, 0), 8, program)
    plan.call("seccomp", 1, 0, header, label="seccomp")


def _execve(plan: Plan, process: dict[str, Any]) -> None:
    vector = plan.strings(process["args"])
    environment = plan.strings(process.get("env") or [])
    candidates = _candidates(process)
    for candidate in candidates:
        allow = SEARCH if len(candidates) > 1 else None
        plan.call("execve", candidate, vector, environment, allow=allow, label="execve")


def _candidates(process: dict[str, Any]) -> list[str]:
    """Return the paths at which the program may be."""
    name = process["args"][0]
    if "/" in name:
        return [name]
    env = process.get("env") or []
    path = next((item[5:] for item in env if item.startswith("PATH=")), "")
    directories = path.split(":") if path else ["/usr/local/bin", "/usr/bin", "/bin"]
    return [f"{directory or '.'}/{name}" for directory in directories]


def report_words(report: bytes, labels: list[str], args: list[str]) -> str:
    """Say what a failed plan reported; who can trace its process may have forged that."""
    if len(report) == REPORT_SIZE:
        index, code = unpack_report(report)
        if -1 <= index < len(labels):
            return failure_words(labels[index], code, args)
    return "the process did not say why it failed"


def failure_words(label: str, code: int, args: list[str]) -> str:
    """Say a failed plan in runc's words, which Docker clients map to 126 and 127."""
    reason = os.strerror(code).lower()
    if label != "execve":
        return f"{label}: {reason}"
    name = args[0]
    if code in (2, 20):
        if "/" not in name:
            return f'exec: "{name}": executable file not found in $PATH'
        return f'exec: "{name}": stat {name}: no such file or directory'
    return f'exec: "{name}": {reason}'
