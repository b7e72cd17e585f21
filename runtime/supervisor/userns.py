"""User namespaces: which ids of the host a container's are, and mounts that translate them.

On a disk a container's files have the container's ids, whether it runs in a user namespace or not:
only its mounts translate (mount_setattr(2), MOUNT_ATTR_IDMAP). Image layers are shared as they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import Unsupported
from runtime.supervisor import kernel
from runtime.supervisor.ids import IdMap, text_of

_OWN = "/proc/self/ns/user"
_NS_GET_USERNS = 0xB701
_MOUNT_ATTR_IDMAP = 0x100000
_CAPSET_VERSION_3 = 0x20080522
TTY_GID = 5
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def ids_of(pid: int) -> IdMap:
    """Return the map of the user namespace a process is in, as the caller sees it."""
    texts = []
    for kind in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{kind}", encoding="utf-8") as file:
            texts.append(file.read())
    return IdMap.read(*texts)


def give_ids(pid: int, ids: IdMap) -> None:
    """Write the map of the new user namespace of a process."""
    for kind, ranges in (("uid_map", ids.uids), ("gid_map", ids.gids)):
        fd = os.open(f"/proc/{pid}/{kind}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text_of(ranges).encode())
        finally:
            os.close(fd)


def owner(namespace_fd: int) -> int:
    """Return a descriptor of the user namespace that owns another namespace."""
    return fcntl.ioctl(namespace_fd, _NS_GET_USERNS)


def is_own(fd: int) -> bool:
    """Tell whether a descriptor's user namespace is the caller's."""
    return os.path.samestat(os.fstat(fd), os.stat(_OWN))


def of_other(pid: int) -> bool:
    """Tell whether a process is in another user namespace than the caller."""
    return not os.path.samefile(f"/proc/{pid}/ns/user", _OWN)


def map_ids(mount_fd: int, userns_fd: int) -> None:
    """Let a detached mount show ids as the user namespace has them; raises SysError."""
    attributes = struct.pack("<QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, userns_fd)
    kernel.syscall("mount_setattr", mount_fd, b"", kernel.AT_EMPTY_PATH, attributes, 32)


@dataclass(frozen=True)
class UserNamespace:
    """The user namespace of a container that is being started."""

    fd: int
    ids: IdMap

    def tree(self, path: str) -> int:
        """Return a detached mount of a directory that shows it with the container's ids."""
        fd = kernel.open_tree(path, recursive=False)
        try:
            map_ids(fd, self.fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def overlay(self, layers: dict[str, Any]) -> int:
        """Return a detached overlay of these layers, the container's ids in all of them.

        `layers` are the fields of `runtime.oci.Overlay`.
        """
        fds = [self.tree(path) for path in layers["lower"]]
        try:
            top, name = os.path.split(layers["upper"])
            above, work = os.path.split(layers["work"])
            if above != top:
                raise Unsupported("upper and work directory of an overlay must lie side by side")
            fds.append(self.tree(top))  # both must be on one mount
            options = [("lowerdir+", f"/proc/self/fd/{fd}") for fd in fds[:-1]]
            options += [("upperdir", f"/proc/self/fd/{fds[-1]}/{name}")]
            options += [("workdir", f"/proc/self/fd/{fds[-1]}/{work}")]
            # the kernel makes what it needs in the layers as whoever mounts: a user these can have
            with acting_as(*self.ids.outside(0, 0)):
                return _mounted("overlay", options)
        finally:
            for fd in fds:
                os.close(fd)

    def devices(
        self, options: Sequence[str], attributes: int, nodes: Sequence[dict[str, Any]]
    ) -> int:
        """Return a detached tmpfs as /dev with OCI's `nodes`: in a user namespace none can be made.

        Like those of every container they are its own: what it does to one is seen nowhere else.
        """
        uid, gid = self.ids.outside(0, 0)
        settings = [("uid", str(uid)), ("gid", str(gid))]
        words = (word.partition("=")[::2] for word in options if "=" in word)
        fd = _mounted("tmpfs", [*settings, *words], attributes)
        try:
            for node in nodes:
                self._node(fd, node)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _node(self, root: int, node: dict[str, Any]) -> None:
        directories, _, name = node["path"].removeprefix("/dev/").rpartition("/")
        place = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            for part in filter(None, directories.split("/")):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=place)
                    os.chown(part, *self.ids.outside(0, 0), dir_fd=place)
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                inner = os.open(part, flags, dir_fd=place)
                os.close(place)
                place = inner
            with contextlib.suppress(FileExistsError):
                mode = _KINDS[node["type"]] | (node.get("fileMode") or 0o666)
                number = os.makedev(node.get("major") or 0, node.get("minor") or 0)
                os.mknod(name, mode, number, dir_fd=place)
                os.chmod(name, stat.S_IMODE(mode), dir_fd=place)  # whatever our umask is
                ids = self.ids.outside(node.get("uid") or 0, node.get("gid") or 0)
                os.chown(name, *ids, dir_fd=place, follow_symlinks=False)
        finally:
            os.close(place)


def give(ids: IdMap, streams: Sequence[int], user: dict[str, Any]) -> None:
    """Make a process's pipes and terminal its user's, who may then open /dev/stdout."""
    uid, _ = ids.outside(int(user.get("uid", 0)), 0)
    for fd in streams:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode):
            os.fchown(fd, uid, ids.outside(0, 0)[1])
        elif os.isatty(fd):
            os.fchown(fd, uid, ids.outside(0, TTY_GID)[1])


def _mounted(kind: str, options: Sequence[tuple[str, str]], attributes: int = 0) -> int:
    context = kernel.syscall("fsopen", kind.encode(), 1)
    try:
        for key, value in [("source", kind), *options]:
            kernel.syscall("fsconfig", context, 1, key.encode(), value.encode(), 0, path=value)
        kernel.syscall("fsconfig", context, 6, None, None, 0, path=kind)
        return kernel.syscall("fsmount", context, 1, attributes)
    finally:
        os.close(context)


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Make files as this user for a while, with every capability all the same."""
    low, high = _PERMITTED & 0xFFFFFFFF, _PERMITTED >> 32
    header = struct.pack("<Ii", _CAPSET_VERSION_3, 0)
    everything = struct.pack("<6I", low, low, 0, high, high, 0)
    kernel.raw_syscall(kernel.NR["setfsgid"], gid)
    kernel.raw_syscall(kernel.NR["setfsuid"], uid)
    try:
        kernel.syscall("capset", header, everything)  # setfsuid(2) took those of files away
        yield
    finally:
        kernel.raw_syscall(kernel.NR["setfsuid"], 0)
        kernel.raw_syscall(kernel.NR["setfsgid"], 0)


_PERMITTED = kernel.permitted_capabilities()
