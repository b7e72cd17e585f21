"""What an image has where a volume is mounted, copied into the volume while it is empty.

The copy works by descriptors of directories it made itself: a container that has the volume
already cannot lead it elsewhere with a symlink.
"""

import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from runtime.image.errors import ImageError
from runtime.image.pack import read_xattrs
from runtime.image.view import Entry, LayeredView
from runtime.supervisor.ids import IdMap

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_up(layers: Sequence[str], target: str, volume: Path, ids: IdMap | None = None) -> bool:
    """Fill an empty volume with the image's directory `target`; tell whether it was filled.

    Owner and mode of the directory itself are taken too; `ids` says what the image's owners are in
    the volume. A target that is not in the image, or
    no directory, leaves the volume alone. Raises OSError when the copy fails.
    """
    view = LayeredView(tuple(Path(layer) for layer in layers))
    try:
        _, entry = view.locate(target)
    except ImageError:
        return False
    if entry is None or not entry.is_directory:
        return False
    fd = os.open(volume, _DIRECTORY)
    try:
        with os.scandir(fd) as found:
            if next(found, None) is not None:
                return False
        _fill(view, entry, fd, ids)
    finally:
        os.close(fd)
    return True


def _fill(view: LayeredView, source: Entry, fd: int, ids: IdMap | None) -> None:
    for child in view.children(source):
        name = os.path.basename(child.path)
        if child.is_directory:
            os.mkdir(name, 0o700, dir_fd=fd)
            inner = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                _fill(view, child, inner, ids)
            finally:
                os.close(inner)
        else:
            _copy(child, name, fd, ids)
    status = source.status
    os.fchown(fd, *_owner(status, ids))
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    _set_xattrs(source, fd, ids)
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy(source: Entry, name: str, fd: int, ids: IdMap | None) -> None:
    status = source.status
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source.physical), name, dir_fd=fd)
        os.chown(name, *_owner(status, ids), dir_fd=fd, follow_symlinks=False)
        return
    if not stat.S_ISREG(status.st_mode):
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=fd)
        os.chown(name, *_owner(status, ids), dir_fd=fd, follow_symlinks=False)
        return
    reading = os.open(source.physical, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with (
        os.fdopen(reading, "rb") as file,
        os.fdopen(os.open(name, _FRESH, 0o600, dir_fd=fd), "wb") as made,
    ):
        shutil.copyfileobj(file, made)
        made.flush()
        os.fchown(made.fileno(), *_owner(status, ids))
        os.fchmod(made.fileno(), stat.S_IMODE(status.st_mode))
        _set_xattrs(source, made.fileno(), ids)
        os.utime(made.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def _owner(status: os.stat_result, ids: IdMap | None) -> tuple[int, int]:
    owner = status.st_uid, status.st_gid
    return ids.outside(*owner) if ids else owner


def _set_xattrs(source: Entry, fd: int, ids: IdMap | None) -> None:
    for name, value in read_xattrs(str(source.physical)).items():
        # The volume's file system may have no such attributes.
        with suppress(OSError):
            os.setxattr(fd, name, ids.attribute_outside(name, value) if ids else value)
