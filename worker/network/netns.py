"""Network namespaces by file descriptor: made, pinned, and entered by a thread of their own."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
MS_BIND = 4096
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def current() -> int:
    """Return a descriptor of the calling thread's namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(fd: int) -> None:
    """Move the calling thread into the namespace (setns(2))."""
    _check(_libc.setns(fd, CLONE_NEWNET), "setns")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open the namespace at `path` for the length of the block."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def inside(fd: int, action: Callable[[], T]) -> T:
    """Run `action` in the namespace of `fd` and return to the thread's own.

    Only for threads nothing else runs on: for its duration every call of the thread sees
    the other namespace.
    """
    home = current()
    try:
        enter(fd)
        try:
            return action()
        finally:
            enter(home)
    finally:
        os.close(home)


def create() -> int:
    """Return a descriptor of a new namespace; it lives as long as something refers to it.

    Links that come into it have no IPv6 until it is asked for.
    """
    home = current()
    try:
        _check(_libc.unshare(CLONE_NEWNET), "unshare")
        try:
            with suppress(FileNotFoundError):  # a kernel without IPv6
                write_sysctl("ipv6/conf/default/disable_ipv6", 1)
            return current()
        finally:
            enter(home)
    finally:
        os.close(home)


def pin(fd: int, path: Path) -> None:
    """Keep a namespace alive at `path` beyond this process (a bind mount)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    source = f"/proc/thread-self/fd/{fd}".encode()
    _check(_libc.mount(source, os.fsencode(path), None, MS_BIND, None), f"pin {path}")


def unpin(path: Path) -> None:
    """Undo `pin`; a path that is not there or not pinned is fine."""
    if not path.exists():
        return
    while path.is_file() and _libc.umount2(os.fsencode(path), MNT_DETACH) == 0:
        continue
    path.unlink(missing_ok=True)


def open_pinned(path: Path) -> int | None:
    """Return a descriptor of the namespace pinned at `path`, or None."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    # An unpinned leftover is an empty file on the disk, not an nsfs inode.
    if not _is_namespace(fd):
        os.close(fd)
        return None
    return fd


def _is_namespace(fd: int) -> bool:
    return bool(_libc.ioctl(fd, 0xB703) == CLONE_NEWNET)  # NS_GET_NSTYPE


def write_sysctl(name: str, value: int) -> None:
    """Write `net/…` of the calling thread's namespace."""
    Path("/proc/sys/net", name).write_text(str(value), encoding="ascii")


def allow_ipv6(link: str, *, local: bool = True) -> None:
    """Let a link of the calling thread's namespace have IPv6 addresses, usable at once.

    Without `local` it gives itself none.
    """
    if not local:
        write_sysctl(f"ipv6/conf/{link}/addr_gen_mode", 1)
    write_sysctl(f"ipv6/conf/{link}/disable_ipv6", 0)
    write_sysctl(f"ipv6/conf/{link}/accept_dad", 0)
    write_sysctl(f"ipv6/conf/{link}/accept_ra", 0)


def ipv6_is_off(link: str) -> bool:
    """Tell whether a link of the calling thread's namespace, or `all`, is to have no IPv6."""
    return _conf(link, "disable_ipv6") == "1"


def was_told_off(link: str) -> bool:
    """Tell whether a link has no IPv6 on purpose: `allow_ipv6` once gave it leave."""
    return ipv6_is_off(link) and _conf(link, "accept_dad") == "0"


def _conf(link: str, name: str) -> str:
    return Path(f"/proc/sys/net/ipv6/conf/{link}/{name}").read_text(encoding="ascii").strip()


def forward_ipv6() -> None:
    """Let the calling thread's namespace forward IPv6.

    A link that takes router advertisements goes on doing so: forwarding alone would end that.
    """
    root = Path("/proc/sys/net/ipv6/conf")
    if (root / "all/forwarding").read_text().strip() == "1":
        return
    for link in root.iterdir():
        # What comes later with `default` are links of others, which have no business here.
        if link.name not in ("all", "default") and (link / "accept_ra").read_text().strip() == "1":
            (link / "accept_ra").write_text("2")
    write_sysctl("ipv6/conf/all/forwarding", 1)


def has_ipv6() -> bool:
    """Tell whether the kernel knows IPv6 at all."""
    return Path("/proc/sys/net/ipv6").exists()
