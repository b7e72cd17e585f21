"""The disk port of the journal: one directory of append-only files."""

import errno
import os
from pathlib import Path
from typing import Final, Protocol

from swarmapi.durable import sync_directory

_SLICE_BYTES: Final = 64 << 10
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Disk(Protocol):
    """A directory whose files only grow, are cut at the end, or are removed."""

    def names(self) -> list[str]:
        """Return the file names, sorted."""

    def read(self, name: str) -> bytes:
        """Return the whole file."""

    def append(self, name: str, data: bytes) -> None:
        """Add `data` at the end of the file, creating it; durable only after `sync`."""

    def sync(self, name: str) -> None:
        """Make the file and its directory entry durable."""

    def cut(self, name: str, size_bytes: int) -> None:
        """Shorten the file, durably."""

    def remove(self, name: str) -> None:
        """Remove the file, durably."""


def make_directory(path: Path) -> None:
    """Make a directory for root alone, and those above it, durably. Raises OSError."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)


def damaged_beside(directory: Path) -> Path:
    """Return where a log is kept that was set aside from a directory."""
    return directory.with_name("damaged")


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error says that there is no room: nothing was written, nothing is lost."""
    return isinstance(error, OSError) and error.errno in _FULL


class Reserve:
    """Room on the disk for what must be written though it is full: votes, terms, elections.

    While it is not held whole the member takes no changes. It is spent in slices: whoever fills
    the disk would have all that is given away at once. Every method raises OSError.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self._size_bytes = size_bytes
        self.held = False
        self.hold()

    def hold(self) -> bool:
        """Take the room, when as much again is left: the disk would be full again at once."""
        make_directory(self.path.parent)
        room = os.statvfs(self.path.parent)
        free_bytes, left_bytes = room.f_bavail * room.f_frsize, self.left_bytes
        missing_bytes = self._size_bytes - left_bytes
        if missing_bytes > 0 and free_bytes < missing_bytes + self._size_bytes:
            return False
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:  # there may be blocks, and no inode
            if not is_full(error):
                raise
            return False
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
            self.held = True
        except OSError as error:
            os.ftruncate(descriptor, left_bytes)
            if not left_bytes:
                self.path.unlink()
            if not is_full(error):
                raise
        finally:
            os.close(descriptor)
        return self.held

    @property
    def left_bytes(self) -> int:
        """What has not been spent."""
        return self.path.stat().st_size if self.path.exists() else 0

    def spend(self, need_bytes: int) -> bool:
        """Give away the slices that so many bytes need; False when that much is not left."""
        self.held, left_bytes = False, self.left_bytes
        if need_bytes > left_bytes:
            return False
        spent_bytes = _SLICE_BYTES * -(-need_bytes // _SLICE_BYTES)
        if spent_bytes < left_bytes:
            os.truncate(self.path, left_bytes - spent_bytes)
        else:
            self.path.unlink()
        return True


class FileDisk:
    """The real directory. Every method raises OSError; after one the process must end.

    But not after an `append` that found the disk full (`is_full`), which left nothing behind.

    A failed fsync may drop the dirty pages and report success the next time (see fsync(2)), so
    nothing may be concluded from a retry.
    """

    def __init__(self, path: Path, reserve: Reserve | None = None) -> None:
        make_directory(path)
        self._path = path
        self._reserve = reserve
        self._open: dict[str, int] = {}
        self._unlisted = set(os.listdir(path))
        """Files whose directory entry may not be durable, those of a killed process among them."""

    def names(self) -> list[str]:
        return sorted(os.listdir(self._path))

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def append(self, name: str, data: bytes) -> None:
        while True:
            try:
                self._append(name, data)
            except OSError as error:
                if not is_full(error) or self._reserve is None:
                    raise
                if not self._reserve.spend(len(data)):
                    raise
            else:
                return

    def sync(self, name: str) -> None:
        os.fdatasync(self._descriptor(name))
        if name in self._unlisted:
            sync_directory(self._path)
            self._unlisted.discard(name)

    def cut(self, name: str, size_bytes: int) -> None:
        descriptor = self._descriptor(name)
        os.ftruncate(descriptor, size_bytes)
        os.fsync(descriptor)

    def remove(self, name: str) -> None:
        if name in self._open:
            os.close(self._open.pop(name))
        self._unlisted.discard(name)
        os.unlink(self._path / name)
        sync_directory(self._path)

    def close(self) -> None:
        """Close the open files; nothing is synced."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _append(self, name: str, data: bytes) -> None:
        descriptor = self._descriptor(name)
        size_bytes = os.fstat(descriptor).st_size
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            os.ftruncate(descriptor, size_bytes)
            raise

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            path = self._path / name
            if not path.exists():
                self._unlisted.add(name)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._open[name] = os.open(path, flags, 0o600)
        return self._open[name]
