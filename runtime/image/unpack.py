"""Unpacks a tar stream below a directory that nothing in the stream can leave.

Every member's parent is opened with openat2(RESOLVE_IN_ROOT) and the last component is created
relative to that descriptor and never followed: absolute names, symlinks and hard links to the
outside end inside the root or are refused.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import StartFailed
from runtime.image.bounds import DEFAULT_LIMITS, Readable, UnpackLimits
from runtime.image.durable import FULL, open_in_root
from runtime.image.errors import BadArchive
from runtime.image.tarstream import TarReader, decompress, mtime_ns, xattrs
from runtime.supervisor.ids import IdMap

WHITEOUT_PREFIX = ".wh."
OPAQUE_MARK = ".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@dataclass(frozen=True)
class UnpackOptions:
    """How to unpack: `whiteouts` makes overlayfs ones of OCI ones, `devices` allows nodes.

    `owner` (uid, gid) replaces the members' own; `ids` says what they are outside of the user
    namespace the tree is seen from outside of; `keep_kinds` refuses to replace a directory by
    something else or the other way round.
    """

    whiteouts: bool = False
    devices: bool = False
    owner: tuple[int, int] | None = None
    ids: IdMap | None = None
    keep_kinds: bool = False
    limits: UnpackLimits = DEFAULT_LIMITS


LAYER = UnpackOptions(whiteouts=True, devices=True)


def clean_name(name: str) -> tuple[str, ...]:
    """Split a member name into components below the root.

    Raises BadArchive where `..` would climb above the root.
    """
    parts: list[str] = []
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            raise BadArchive(f"tar member {name!r} leaves the root")
    return tuple(parts)


def unpack(
    source: Readable,
    root: Path | int,
    options: UnpackOptions = UnpackOptions(),
    below: str = "",
) -> int:
    """Unpack a plain or compressed tar below an existing directory; return the bytes of files.

    `root` bounds what symlinks can reach; members are created in its directory `below`, which
    itself is left as it is. Raises BadArchive; owners are applied when running as root.
    """
    plain, _ = decompress(source, options.limits)
    with Unpacker(root, options, below) as unpacker:
        reader = TarReader(plain)
        try:
            for member in reader:
                unpacker.add(member, reader)
        except (ValueError, OverflowError) as error:
            raise BadArchive(f"tar member that cannot be: {error}") from error
        except OSError as error:
            if error.errno in FULL:
                raise
            raise BadArchive(f"unpack: {error.strerror or error}: {error.filename!r}") from error
        unpacker.finish()
        return unpacker.size_bytes


class Unpacker:
    """Creates members one by one below a root; use as a context manager."""

    def __init__(self, root: Path | int, options: UnpackOptions, below: str = "") -> None:
        self._options = options
        if isinstance(root, int):
            self._root = os.dup(root)
        else:
            self._root = os.open(root, _DIRECTORY | os.O_CLOEXEC)
        self._below = tuple(part for part in below.split("/") if part)
        self._owners = os.geteuid() == 0
        self._directories: dict[tuple[str, ...], int] = {}
        self._entries = 0
        self._holes_bytes = 0
        self.size_bytes = 0

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def finish(self) -> None:
        """Set the times of directories, children first."""
        for parts in sorted(self._directories, key=len, reverse=True):
            try:
                fd = self._open(parts)
            except OSError:
                continue  # replaced by a later member
            try:
                os.utime(fd, ns=(self._directories[parts],) * 2)
            finally:
                os.close(fd)

    def add(self, member: tarfile.TarInfo, reader: TarReader) -> None:
        """Create one member; its bytes come from the reader."""
        self._count(member)
        parts = clean_name(member.name)
        if not parts:
            if member.isdir() and not self._below:
                self._describe_directory(self._root, member, ())
            return
        name = parts[-1]
        with self._parent(parts[:-1]) as parent:
            if self._options.whiteouts and name.startswith(WHITEOUT_PREFIX):
                self._whiteout(parent, name)
                return
            if self._options.keep_kinds:
                _check_kinds(parent, name, member)
            if member.isdir():
                self._directory(parent, name, member, parts)
            else:
                _clear(parent, name)
                self._leaf(parent, name, member, reader)

    def _count(self, member: tarfile.TarInfo) -> None:
        limits = self._options.limits
        self._entries += 1
        if member.isreg():
            self.size_bytes += member.size
        if member.issparse():
            self._holes_bytes += member.size
        if self._holes_bytes > limits.ratio_from_bytes:
            raise BadArchive("tar has sparse files of too many bytes")
        if self._entries > limits.entries:
            raise BadArchive(f"tar has more than {limits.entries} members")
        if self.size_bytes > limits.size_bytes:
            raise BadArchive(f"tar unpacks to more than {limits.size_bytes} bytes")
        if len(os.fsencode(member.name)) > limits.path_bytes or "\0" in member.name:
            raise BadArchive(f"tar member name is too long or not a path: {member.name[:64]!r}")

    @contextmanager
    def _parent(self, parts: tuple[str, ...]) -> Iterator[int]:
        try:
            fd = self._open(parts)
        except FileNotFoundError:
            fd = self._make_parents(parts)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, parts: tuple[str, ...]) -> int:
        return open_in_root(self._root, "/".join((*self._below, *parts)), _DIRECTORY)

    def _make_parents(self, parts: tuple[str, ...]) -> int:
        """Create missing directories one at a time, each below a descriptor inside the root."""
        fd = self._open(())
        for depth, part in enumerate(parts, 1):
            try:
                try:
                    os.mkdir(part, 0o755, dir_fd=fd)
                except FileExistsError:
                    pass
            finally:
                os.close(fd)
            fd = self._open(parts[:depth])
        return fd

    def _whiteout(self, parent: int, name: str) -> None:
        if name == OPAQUE_MARK:
            os.setxattr(parent, OPAQUE_XATTR, b"y")
            return
        hidden = name.removeprefix(WHITEOUT_PREFIX)
        if hidden.startswith(WHITEOUT_PREFIX):
            return  # other aufs bookkeeping names hide nothing
        if hidden in ("", ".", ".."):
            raise BadArchive(f"whiteout {name!r} hides no name")
        try:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            return  # the layer itself puts something there: that wins

    def _directory(
        self, parent: int, name: str, member: tarfile.TarInfo, parts: tuple[str, ...]
    ) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._describe_directory(fd, member, parts)
        finally:
            os.close(fd)

    def _describe_directory(self, fd: int, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        self._describe(fd, member)
        self._directories[parts] = mtime_ns(member)

    def _leaf(self, parent: int, name: str, member: tarfile.TarInfo, reader: TarReader) -> None:
        if member.islnk():
            self._hard_link(parent, name, member)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
            self._describe_unopened(parent, name, member)
        elif member.isfifo() or member.ischr() or member.isblk():
            self._node(parent, name, member)
        elif member.isreg():
            self._file(parent, name, member, reader)
        else:
            raise BadArchive(f"tar member {member.name!r} has unknown type {member.type!r}")

    def _file(self, parent: int, name: str, member: tarfile.TarInfo, reader: TarReader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            for chunk in reader.content(member):
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
            self._describe(fd, member)
            os.utime(fd, ns=(mtime_ns(member),) * 2)
        finally:
            os.close(fd)

    def _describe(self, fd: int, member: tarfile.TarInfo) -> None:
        if self._owners:
            os.fchown(fd, *self._owner(member))
        os.fchmod(fd, member.mode & 0o7777)  # after chown, which clears setuid
        for key, value in self._xattrs(member):
            _set_xattr(fd, key, value)

    def _xattrs(self, member: tarfile.TarInfo) -> list[tuple[str, bytes]]:
        found = xattrs(member).items()
        ids = self._options.ids
        return [(key, ids.attribute_outside(key, value) if ids else value) for key, value in found]

    def _owner(self, member: tarfile.TarInfo) -> tuple[int, int]:
        owner = self._options.owner or (member.uid, member.gid)
        try:
            return self._options.ids.outside(*owner) if self._options.ids else owner
        except StartFailed as error:
            raise BadArchive(f"tar member {member.name!r}: {error}") from error

    def _describe_unopened(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        if self._owners:
            os.chown(name, *self._owner(member), dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(mtime_ns(member),) * 2, dir_fd=parent, follow_symlinks=False)
        for key, value in self._xattrs(member):
            _set_xattr(f"/proc/self/fd/{parent}/{name}", key, value)

    def _node(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        kind = stat.S_IFIFO
        if not member.isfifo():
            if not self._options.devices:
                raise BadArchive(f"tar member {member.name!r} is a device: not allowed here")
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        device = 0 if member.isfifo() else os.makedev(member.devmajor, member.devminor)
        os.mknod(name, kind | 0o600, device, dir_fd=parent)
        self._describe_unopened(parent, name, member)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:  # who lives in the tree may have put a link there: chmod of a link's O_PATH fails
            os.chmod(f"/proc/self/fd/{fd}", member.mode & 0o7777)
        finally:
            os.close(fd)

    def _hard_link(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        target = clean_name(member.linkname)
        if not target:
            raise BadArchive(f"hard link {member.name!r} points to the root")
        with self._parent(target[:-1]) as source:
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


def _set_xattr(target: int | str, key: str, value: bytes) -> None:
    """Set one attribute; overlayfs's own are ours alone, others may lack a place to live."""
    if key.startswith(("trusted.overlay.", "user.overlay.")):
        return
    try:
        if isinstance(target, int):
            os.setxattr(target, key, value)
        else:
            os.setxattr(target, key, value, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise


def _check_kinds(parent: int, name: str, member: tarfile.TarInfo) -> None:
    try:
        there = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return
    if there and not member.isdir():
        raise BadArchive(f"cannot overwrite directory {name!r} with non-directory {member.name!r}")
    if member.isdir() and not there:
        raise BadArchive(f"cannot overwrite non-directory {name!r} with directory {member.name!r}")


def _clear(parent: int, name: str) -> None:
    """Remove what is in the way of a non-directory."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=parent)
