"""The kernel calls of the lab that Python 3.11 has no wrapper for, and iproute2 in batches."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

NETNS_DIR = Path("/run/netns")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Leave the named namespaces of the calling thread: unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join the namespaces behind an nsfs file or a pidfd: setns(2), pidfds since Linux 5.8."""
    _check(_libc.setns(fd, flags), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount: mount(2). Magic links such as /proc/self/fd/N are followed, unlike in mount(8)."""
    arguments = [text.encode() if text else None for text in (source, target, kind)]
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() if data else None)
    _check(result, f"mount {source} on {target}")


def unmount(target: str) -> None:
    """Detach a mount point: umount2(2) with MNT_DETACH."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"unmount {target}")


def create_netns(name: str) -> None:
    """Create a network namespace that /run/netns/NAME keeps alive, as `ip netns add` does.

    Unlike `ip netns add` it leaves no mount on /run/netns itself behind.
    """
    NETNS_DIR.mkdir(parents=True, exist_ok=True)
    target = NETNS_DIR / name
    target.touch(exist_ok=False)
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare(CLONE_NEWNET)
        mount("/proc/self/ns/net", str(target), flags=MS_BIND)
        setns(before, CLONE_NEWNET)
    finally:
        os.close(before)
    ip(["link set lo up"], netns=name)


def delete_netns(name: str) -> None:
    """Drop the name of a network namespace; the kernel frees it with its last process."""
    target = NETNS_DIR / name
    if not target.exists():
        return
    try:
        unmount(str(target))
    except OSError as error:
        if error.errno != 22:  # EINVAL: an interrupted run left a plain file
            raise
    target.unlink()
    try:
        NETNS_DIR.rmdir()
    except OSError:
        return  # other namespaces live there


def ip(commands: Sequence[str], netns: str) -> None:
    """Run ip(8) commands as one batch inside a named network namespace."""
    done = subprocess.run(
        ["ip", "-n", netns, "-batch", "-"],
        input="".join(f"{command}\n" for command in commands),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"ip in {netns}: {done.stderr.strip()}")
