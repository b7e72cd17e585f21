"""Writes directory trees as tar: an overlay upper directory as a layer, a rootfs as an export.

Headers are reproducible: names sorted, whole-second times, no user names. The walk holds a
descriptor per level and follows no symlink, so a running container cannot redirect it.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
from pathlib import Path
from typing import IO

from runtime.image.tarstream import XATTR_PREFIX
from runtime.image.unpack import OPAQUE_MARK, OPAQUE_XATTR, WHITEOUT_PREFIX

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MARK_MTIME_S = 0


def pack_layer(upper: Path, out: IO[bytes], hidden: tuple[str, ...] = ()) -> None:
    """Write an overlay upper directory as an OCI layer, its whiteouts as `.wh.` names.

    `hidden` are absolute paths of directories whose content is left out: those of volumes.
    """
    _pack(upper, out, whiteouts=True, hidden=hidden)


def pack_rootfs(root: Path | int, out: IO[bytes]) -> None:
    """Write a root file system, of a path or descriptor, as a plain tar (docker export)."""
    _pack(root, out, whiteouts=False)


def pack_entry(parent: int, name: str, base: str, out: IO[bytes]) -> None:
    """Write one file or tree, `name` in the directory `parent`, as a plain tar.

    Its entries begin with `base`; a symlink is written as itself. `name` `.` is `parent` itself.
    """
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _Walk(tar, whiteouts=False).entry(parent, name, "", base)


def _pack(
    root: Path | int, out: IO[bytes], *, whiteouts: bool, hidden: tuple[str, ...] = ()
) -> None:
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        fd = os.open(".", _DIRECTORY, dir_fd=root) if isinstance(root, int) else _open(root)
        try:
            _Walk(tar, whiteouts, hidden).directory(fd, "")
        finally:
            os.close(fd)


def _open(root: Path) -> int:
    return os.open(root, _DIRECTORY)


def tree_prefixes(paths: tuple[str, ...]) -> tuple[str, ...]:
    """What the names of a tar below these absolute paths begin with."""
    return tuple(posixpath.normpath(path.strip("/")) + "/" for path in paths if path.strip("/"))


class TarWriter:
    """Adds files by descriptor to a tar with reproducible headers."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self.tar = tar

    def add_mark(self, name: str) -> None:
        """Add an empty file, the form of a whiteout."""
        info = tarfile.TarInfo(name)
        info.mode = 0
        info.mtime = _MARK_MTIME_S
        self.tar.addfile(info)

    def add_file(self, info: tarfile.TarInfo, fd: int) -> None:
        """Add exactly `info.size` bytes of a file that may change meanwhile (zero padded)."""
        with os.fdopen(os.dup(fd), "rb") as file:
            self.add_stream(info, file)

    def add_stream(self, info: tarfile.TarInfo, file: IO[bytes]) -> None:
        """Add exactly `info.size` bytes of an open file (zero padded)."""
        self.tar.addfile(info, _Bounded(file))


class _Bounded:
    """Reads like a file of fixed length: pads with zeros where the file shrank."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = 0, /) -> bytes:
        """Return exactly `size` bytes."""
        return self._file.read(size).ljust(size, b"\0")


def describe(name: str, status: os.stat_result, xattrs: dict[str, bytes]) -> tarfile.TarInfo:
    """Make a reproducible header for a file of this status; content size only for files."""
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(status.st_mode)
    info.uid, info.gid = status.st_uid, status.st_gid
    info.mtime = int(status.st_mtime)
    kinds = {
        stat.S_IFDIR: tarfile.DIRTYPE,
        stat.S_IFLNK: tarfile.SYMTYPE,
        stat.S_IFCHR: tarfile.CHRTYPE,
        stat.S_IFBLK: tarfile.BLKTYPE,
        stat.S_IFIFO: tarfile.FIFOTYPE,
    }
    info.type = kinds.get(stat.S_IFMT(status.st_mode), tarfile.REGTYPE)
    if info.isreg():
        info.size = status.st_size
    if info.isdev():
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    info.pax_headers = {
        XATTR_PREFIX + key: value.decode("utf-8", "surrogateescape")
        for key, value in sorted(xattrs.items())
    }
    return info


def read_xattrs(target: int | str) -> dict[str, bytes]:
    """The attributes worth carrying in a layer: not overlayfs's own, not host labels."""
    try:
        names = os.listxattr(target, follow_symlinks=isinstance(target, int))
    except OSError:
        return {}
    found = {}
    for name in names:
        if name.startswith(("user.", "security.capability")) and not name.startswith(
            "user.overlay."
        ):
            if isinstance(target, int):
                found[name] = os.getxattr(target, name)
            else:
                found[name] = os.getxattr(target, name, follow_symlinks=False)
    return found


def is_whiteout(status: os.stat_result) -> bool:
    """Tell an overlayfs whiteout: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(target: int | str | Path) -> bool:
    """Tell a directory that hides everything of the layers below."""
    try:
        return os.getxattr(target, OPAQUE_XATTR) == b"y"
    except OSError:
        return False


class _Walk(TarWriter):
    def __init__(self, tar: tarfile.TarFile, whiteouts: bool, hidden: tuple[str, ...] = ()) -> None:
        super().__init__(tar)
        self._whiteouts = whiteouts
        self._hidden = set(tree_prefixes(hidden))
        self._linked: dict[tuple[int, int], str] = {}

    def directory(self, fd: int, path: str) -> None:
        self.tar.addfile(describe(path or "./", os.fstat(fd), read_xattrs(fd)))
        if self._whiteouts and is_opaque(fd):
            self.add_mark(f"{path}{OPAQUE_MARK}")
        if path in self._hidden:
            return
        for name in sorted(os.listdir(fd)):
            self.entry(fd, name, path, name)

    def entry(self, parent: int, name: str, path: str, shown: str) -> None:
        """Add what `name` in the directory is, as `shown` below `path`."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                fd = os.open(name, _DIRECTORY, dir_fd=parent)
                try:
                    self.directory(fd, f"{path}{shown}/")
                finally:
                    os.close(fd)
            elif self._whiteouts and is_whiteout(status):
                self.add_mark(f"{path}{WHITEOUT_PREFIX}{name}")
            elif not stat.S_ISSOCK(status.st_mode):
                self._leaf(parent, name, path + shown, status)
        except FileNotFoundError:
            return  # vanished while we walked

    def _leaf(self, parent: int, name: str, path: str, status: os.stat_result) -> None:
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._linked:
            info = describe(path, status, {})
            info.type, info.size, info.linkname = tarfile.LNKTYPE, 0, self._linked[key]
            self.tar.addfile(info)
            return
        self._linked[key] = path
        if stat.S_ISREG(status.st_mode):
            fd = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent
            )
            try:
                self.add_file(describe(path, os.fstat(fd), read_xattrs(fd)), fd)
            finally:
                os.close(fd)
            return
        info = describe(path, status, read_xattrs(f"/proc/self/fd/{parent}/{name}"))
        if info.issym():
            info.linkname = os.readlink(name, dir_fd=parent)
        self.tar.addfile(info)
