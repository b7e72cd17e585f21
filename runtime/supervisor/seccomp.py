"""Seccomp: the default profile as data, and a compiler from OCI profiles to classic BPF.

The profile's facts are Docker's default profile (moby/profiles, Apache-2.0); the filter is a binary
tree over intervals of system call numbers, so a call costs about nine comparisons.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from runtime.errors import Unsupported
from runtime.supervisor.sysnum import BY_MACHINE


def _words(text: str) -> list[str]:
    return text.split()


_ALWAYS = _words(
    """
_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset
chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64
clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range
connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve
execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64
fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents
getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid
gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr
link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr
lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir
mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at
nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2
prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64
ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom
recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename
renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list
set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid
setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid
setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd
signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid
write writev
"""
)

_BY_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": ["open_by_handle_at"],
    "CAP_SYS_ADMIN": _words(
        """
bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount
open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
umount umount2 unshare
"""
    ),
    "CAP_SYS_BOOT": ["reboot"],
    "CAP_SYS_CHROOT": ["chroot"],
    "CAP_SYS_MODULE": ["delete_module", "init_module", "finit_module"],
    "CAP_SYS_PACCT": ["acct"],
    "CAP_SYS_PTRACE": ["kcmp", "pidfd_getfd", "process_madvise"],
    "CAP_SYS_RAWIO": ["iopl", "ioperm"],
    "CAP_SYS_TIME": ["settimeofday", "stime", "clock_settime", "clock_settime64"],
    "CAP_SYS_TTY_CONFIG": ["vhangup"],
    "CAP_SYS_NICE": ["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    "CAP_SYSLOG": ["syslog"],
    "CAP_BPF": ["bpf"],
    "CAP_PERFMON": ["perf_event_open"],
}
_BY_MACHINE = {
    "x86_64": ["arch_prctl", "modify_ldt"],
    "aarch64": _words(
        """
arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint set_tls
"""
    ),
}
# CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}: clone(2) may not make namespaces without CAP_SYS_ADMIN
_CLONE_NAMESPACES = 0x7E020000
_AF_ALG, _AF_VSOCK = 38, 40
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_ENOSYS = 38


def default_profile(capabilities: frozenset[str], machine: str) -> dict[str, Any]:
    """Return the default profile for a bounding set, in OCI's `linux.seccomp` form."""
    calls: list[dict[str, Any]] = []

    def allow(names: list[str], *args: dict[str, Any]) -> None:
        rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
        calls.append(rule | {"args": list(args)} if args else rule)

    def argument(value: int, op: str, two: int = 0) -> dict[str, Any]:
        return {"index": 0, "value": value, "valueTwo": two, "op": op}

    allow([*_ALWAYS, *_BY_MACHINE.get(machine, [])])
    allow(["socket"], argument(_AF_ALG, "SCMP_CMP_LT"))
    allow(["socket"], argument(39, "SCMP_CMP_EQ"))
    allow(["socket"], argument(_AF_VSOCK, "SCMP_CMP_GT"))
    for value in _PERSONALITIES:
        allow(["personality"], argument(value, "SCMP_CMP_EQ"))
    for capability, names in _BY_CAPABILITY.items():
        if capability in capabilities:
            allow(names)
    if "CAP_SYS_ADMIN" not in capabilities:
        allow(["clone"], argument(_CLONE_NAMESPACES, "SCMP_CMP_MASKED_EQ"))
        refuse = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS}
        calls.append(refuse)
    arches = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_AARCH64"] if machine == "aarch64" else arches,
        "syscalls": calls,
    }


# ---- compiler: seccomp(2), Documentation/networking/filter.rst --------------------------------
_LD, _JA, _JEQ, _JGT, _JGE, _RET, _AND = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06, 0x54
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16
_LOW32 = 0xFFFFFFFF
_ARCHES = {
    "SCMP_ARCH_X86_64": (0xC000003E, "x86_64"),
    "SCMP_ARCH_X86": (0x40000003, "i386"),
    "SCMP_ARCH_AARCH64": (0xC00000B7, "aarch64"),
}
_MACHINE = os.uname().machine
_SKIPPED_ARCHES = {"SCMP_ARCH_X32", "SCMP_ARCH_ARM"}
_ACTIONS = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
}

Instruction = tuple[int, int, int, int]
_Rules = tuple[tuple[tuple[tuple[int, str, int, int], ...], int], ...]
_Verdict = int | _Rules


def _action(name: str, errno_value: int | None) -> int:
    if name == "SCMP_ACT_ERRNO":
        return 0x00050000 | (1 if errno_value is None else errno_value)
    if name not in _ACTIONS:
        raise Unsupported(f"seccomp action {name} is not supported")
    return _ACTIONS[name]


def _jump(op: int, value: int, then: int, otherwise: int) -> list[Instruction]:
    """Test the accumulator; the distances count from after the returned instructions."""
    if then < 256 and otherwise < 256:
        return [(op, then, otherwise, value)]
    return [(op, 0, 1, value), (_JA, 0, 0, then + 1), (_JA, 0, 0, otherwise)]


def _condition(index: int, op: str, value: int, two: int, miss: int) -> list[Instruction]:
    """Fall through when the 64-bit argument satisfies `op`, else jump `miss` past the end."""
    low, high = _OFFSET_ARGS + 8 * index, _OFFSET_ARGS + 8 * index + 4
    hi, lo = value >> 32, value & _LOW32
    if op == "SCMP_CMP_EQ":
        return [
            (_LD, 0, 0, high), (_JEQ, 0, miss + 2, hi), (_LD, 0, 0, low), (_JEQ, 0, miss, lo),
        ]  # fmt: skip
    if op == "SCMP_CMP_NE":
        return [
            (_LD, 0, 0, high), (_JEQ, 0, 2, hi), (_LD, 0, 0, low), (_JEQ, miss, 0, lo),
        ]  # fmt: skip
    if op == "SCMP_CMP_MASKED_EQ":
        return [
            (_LD, 0, 0, high), (_AND, 0, 0, hi), (_JEQ, 0, miss + 3, two >> 32),
            (_LD, 0, 0, low), (_AND, 0, 0, lo), (_JEQ, 0, miss, two & _LOW32),
        ]  # fmt: skip
    compare, wanted = {
        "SCMP_CMP_LT": (_JGE, False), "SCMP_CMP_LE": (_JGT, False),
        "SCMP_CMP_GT": (_JGT, True), "SCMP_CMP_GE": (_JGE, True),
    }.get(op, (0, False))  # fmt: skip
    if not compare:
        raise Unsupported(f"seccomp operator {op} is not supported")
    first = (_JGT, 3, 0, hi) if wanted else (_JGT, miss + 3, 0, hi)
    second = (_JEQ, 0, miss + 2, hi) if wanted else (_JEQ, 0, 2, hi)
    last = (compare, 0, miss, lo) if wanted else (compare, miss, 0, lo)
    return [(_LD, 0, 0, high), first, second, (_LD, 0, 0, low), last]


def _leaf(verdict: _Verdict, default: int) -> list[Instruction]:
    if isinstance(verdict, int):
        return [(_RET, 0, 0, verdict)]
    code: list[Instruction] = []
    for conditions, action in verdict:
        block: list[Instruction] = [(_RET, 0, 0, action)]
        for index, op, value, two in reversed(conditions):
            block = _condition(index, op, value, two, len(block)) + block
        code += block
    return [*code, (_RET, 0, 0, default)]


def _tree(intervals: list[tuple[int, _Verdict]], default: int) -> list[Instruction]:
    if len(intervals) == 1:
        return _leaf(intervals[0][1], default)
    middle = len(intervals) // 2
    below = _tree(intervals[:middle], default)
    above = _tree(intervals[middle:], default)
    return _jump(_JGE, intervals[middle][0], len(below), 0) + below + above


def _verdicts(profile: dict[str, Any], machine: str, default: int) -> dict[int, _Verdict]:
    numbers = BY_MACHINE[machine]
    plain: dict[int, int] = {}
    conditional: dict[int, list[tuple[tuple[tuple[int, str, int, int], ...], int]]] = {}
    for rule in profile.get("syscalls") or []:
        action = _action(rule["action"], rule.get("errnoRet"))
        conditions = tuple(
            (a["index"], a["op"], a["value"], a.get("valueTwo") or 0)
            for a in rule.get("args") or []
        )
        for name in rule["names"]:
            number = numbers.get(name)
            if number is None:
                continue  # not a call of this architecture
            if conditions:
                conditional.setdefault(number, []).append((conditions, action))
            elif plain.get(number) != _ACTIONS["SCMP_ACT_ALLOW"]:
                plain[number] = action
    out: dict[int, _Verdict] = dict(plain)
    for number, rules in conditional.items():
        out.setdefault(number, tuple(rules))
    return {number: verdict for number, verdict in out.items() if verdict != default}


def verdict(program: bytes, number: int, *arguments: int, machine: str = _MACHINE) -> int:
    """Return what a compiled program answers to a system call (seccomp(2), SECCOMP_RET_*)."""
    audit = next(audit for audit, name in _ARCHES.values() if name == machine)
    data = struct.pack("<IIQ6Q", number, audit, 0, *(arguments + (0,) * 6)[:6])
    code = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        op, then, otherwise, k = code[at]
        at += 1
        if op == _LD:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif op == _AND:
            accumulator &= k
        elif op == _JA:
            at += k
        elif op == _RET:
            return int(k)
        else:
            holds = {_JEQ: accumulator == k, _JGT: accumulator > k, _JGE: accumulator >= k}[op]
            at += then if holds else otherwise


def allows(program: bytes, name: str, *arguments: int) -> bool:
    """Tell whether a compiled program lets this machine's call through."""
    passed = (_ACTIONS["SCMP_ACT_ALLOW"], _ACTIONS["SCMP_ACT_LOG"])
    return verdict(program, BY_MACHINE[_MACHINE][name], *arguments) in passed


def compile_profile(profile: dict[str, Any]) -> bytes:
    """Compile an OCI `linux.seccomp` object to a `struct sock_filter` array.

    No architectures means this machine's. Names unknown to an architecture are skipped, as runc
    does. Raises Unsupported for actions, operators and architectures this compiler does not know.
    """
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    if profile.get("listenerPath"):
        raise Unsupported("seccomp listenerPath is not supported")
    code: list[Instruction] = [(_LD, 0, 0, _OFFSET_ARCH)]
    native = next((name for name, (_, machine) in _ARCHES.items() if machine == _MACHINE), "")
    for name in profile.get("architectures") or [native]:
        if name in _SKIPPED_ARCHES:
            continue  # their calls meet the default action
        if name not in _ARCHES:
            raise Unsupported(f"seccomp architecture {name} is not supported")
        audit, machine = _ARCHES[name]
        intervals: list[tuple[int, _Verdict]] = [(0, default)]
        verdicts = _verdicts(profile, machine, default)
        for number in range(max(verdicts, default=0) + 2):
            verdict = verdicts.get(number, default)
            if verdict != intervals[-1][1]:
                intervals.append((number, verdict))
        body = [(_LD, 0, 0, _OFFSET_NR), *_tree(intervals, default)]
        code += [*_jump(_JEQ, audit, 0, len(body)), *body]
    code.append((_RET, 0, 0, default))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)
