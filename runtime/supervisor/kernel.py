"""System calls Python does not offer, through ctypes, for x86_64 and aarch64.

PyDLL keeps the interpreter lock during a call: a raw clone must not race with another thread for
it. Flag values are those of the uapi headers named beside them.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable

from runtime.errors import SysError
from runtime.supervisor.sysnum import BY_MACHINE

MACHINE = os.uname().machine
NR = BY_MACHINE.get(MACHINE, {})

# sched.h
CLONE_PIDFD, CLONE_PARENT = 0x1000, 0x8000
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_INTO_CGROUP = 0x200000000
# mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS = 1, 2, 4, 8, 16
MS_REMOUNT, MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC = 32, 1024, 2048, 4096, 16384
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_RELATIME, MS_STRICTATIME = 1 << 21, 1 << 24
MOUNT_WORDS = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "sync": MS_SYNCHRONOUS,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
}
"""The words of mount(8) that set a flag."""
MNT_DETACH = 2
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
# openat2.h
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_IN_ROOT = 0x02, 0x04, 0x10
# prctl.h
PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_DUMPABLE = 8, 24, 4
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
PR_CAP_AMBIENT_RAISE = 2
# ioctls.h; Python's termios knows none of them
SIOCSIFFLAGS = 0x8914
TIOCSPTLCK, TIOCGPTPEER, TIOCSCTTY, TIOCSPGRP = 0x40045431, 0x5441, 0x540E, 0x5410
DEVPTS_SUPER_MAGIC = 0x1CD1

libc = ctypes.PyDLL(None, use_errno=True)
raw_syscall = libc.syscall
raw_syscall.restype = ctypes.c_long


def syscall(name: str, *arguments: int | bytes | None, path: str = "") -> int:
    """Make a system call; raises SysError with its errno."""
    values = [
        ctypes.c_long(a) if isinstance(a, int) else (None if a is None else ctypes.c_char_p(a))
        for a in arguments
    ]
    result: int = raw_syscall(NR[name], *values)
    if result < 0:
        raise SysError(name, ctypes.get_errno(), path)
    return result


_pidfd = ctypes.c_int(-1)
_clone_args = (ctypes.c_uint64 * 11)()
_clone_args_size = ctypes.sizeof(_clone_args)


def _clone(arguments: object, size: int) -> int:
    result: int = raw_syscall(NR["clone3"], arguments, size)
    if result < 0:
        raise SysError("clone3", ctypes.get_errno())
    return result


def clone3(
    flags: int, cgroup_fd: int = -1, make: Callable[[object, int], int] = _clone
) -> tuple[int, int]:
    """Fork with `flags`; returns (0, -1) in the child and (pid, pidfd) in the caller.

    The child belongs to the caller's parent (CLONE_PARENT), which alone can reap it; its exit
    signal is then the caller's own, so the field must be zero (clone(2)). `make` makes the call.
    """
    flags |= CLONE_PIDFD | CLONE_PARENT
    if cgroup_fd >= 0:
        flags |= CLONE_INTO_CGROUP
    _clone_args[0] = flags
    _clone_args[1] = ctypes.addressof(_pidfd)
    _clone_args[10] = max(cgroup_fd, 0)
    pid = make(ctypes.byref(_clone_args), _clone_args_size)
    return pid, _pidfd.value if pid else -1


def prctl(option: int, value: int) -> None:
    """Set a process attribute that takes one number."""
    syscall("prctl", option, value, 0, 0, 0)


def openat2(dir_fd: int, path: str, flags: int, resolve: int) -> int:
    """Open below `dir_fd` under openat2(2)'s resolve rules."""
    how = struct.pack("<QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return syscall("openat2", dir_fd, path.encode(), how, len(how), path=path)


def open_tree(path: str, recursive: bool) -> int:
    """Return a detached copy of the mount at `path`."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return syscall("open_tree", AT_FDCWD, os.fsencode(path), flags, path=path)


def open_tree_in(mount_ns: str, path: str) -> int:
    """Return a detached copy of the mount at `path` in another mount namespace.

    Only the namespace a mount belongs to can copy it, so we go there and back; nothing of it that
    is a link is followed. The caller must have no other thread.
    """
    own, root, cwd, there = (
        os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        for place in ("/proc/self/ns/mnt", "/", ".", mount_ns)
    )
    try:
        syscall("setns", there, CLONE_NEWNS, path=mount_ns)
        try:
            rules = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
            place = openat2(AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY, rules)
            try:
                flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
                return syscall("open_tree", place, b"", flags, path=path)
            finally:
                os.close(place)
        finally:
            syscall("setns", own, CLONE_NEWNS)
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(cwd)
    finally:
        for fd in (own, root, cwd, there):
            os.close(fd)


def mount_setattr(fd: int, attr_set: int, recursive: bool, propagation: int = 0) -> None:
    """Set attributes (and propagation) of the detached mount `fd`."""
    attr = struct.pack("<QQQQ", attr_set, 0, propagation, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall("mount_setattr", fd, b"", flags, attr, len(attr))


def open_null() -> int:
    """Open /dev/null so that who is given it cannot change its mode or owner.

    The node is the whole host's, and a container's root may chmod(2) what it holds open; behind a
    read-only mount of our own that fails with EROFS, reading and writing do not.
    """
    mount = null_mount()
    try:
        fd = os.open(f"/proc/self/fd/{mount}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(mount)
    return fd


def null_mount() -> int:
    """Return a detached read-only mount of the host's /dev/null."""
    fd = open_tree("/dev/null", False)
    mount_setattr(fd, MOUNT_ATTR_RDONLY, False)
    return fd


def new_devpts(options: dict[str, str]) -> int:
    """Return a detached devpts instance of its own."""
    context = syscall("fsopen", b"devpts", 1)
    try:
        for key, value in options.items():
            syscall("fsconfig", context, 1, key.encode(), value.encode(), 0, path="devpts")
        syscall("fsconfig", context, 6, None, None, 0, path="devpts")
        return syscall("fsmount", context, 1, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
    finally:
        os.close(context)


def open_pty(devpts_fd: int) -> tuple[int, int]:
    """Return (master, slave) of a new terminal in the devpts at `devpts_fd`.

    The slave comes from TIOCGPTPEER, never from a path a container could replace.
    """
    master = openat2(
        devpts_fd, "ptmx", os.O_RDWR | os.O_NOCTTY, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
    )
    try:
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise
    return master, slave


def new_netns(own_fd: int) -> int:
    """Return a new network namespace with lo up; `own_fd` is the caller's, to go back to."""
    syscall("unshare", CLONE_NEWNET)
    try:
        fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _bring_up_lo()
    finally:
        syscall("setns", own_fd, CLONE_NEWNET)
    return fd


def bring_up_lo(fd: int, own_fd: int) -> None:
    """Bring up the loopback link of another network namespace; `own_fd` is the caller's."""
    syscall("setns", fd, CLONE_NEWNET)
    try:
        _bring_up_lo()
    finally:
        syscall("setns", own_fd, CLONE_NEWNET)


def _bring_up_lo() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("<16sh22x", b"lo", 0x41))


def filesystem_magic(fd: int) -> int:
    """Return statfs(2)'s f_type of the file behind `fd`."""
    buffer = ctypes.create_string_buffer(256)
    if raw_syscall(NR["fstatfs"], fd, buffer) < 0:
        raise SysError("fstatfs", ctypes.get_errno())
    return int(struct.unpack_from("<q", buffer.raw)[0])


def permitted_capabilities() -> int:
    """Return this process's permitted capability set as a bit mask."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0
