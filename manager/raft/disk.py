"""The disk port of the journal: one directory of append-only files."""

import errno
import os
from pathlib import Path
from typing import Final, Protocol

from swarmapi.durable import sync_directory

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


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error says that there is no room: nothing was written, nothing is lost."""
    return isinstance(error, OSError) and error.errno in _FULL


class Reserve:
    """Room on the disk for what must be written though it is full: votes, terms, elections.

    While it is not held the member takes no changes. Every method raises OSError.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self._size_bytes = size_bytes
        self.held = False
        self.hold()

    def hold(self) -> bool:
        """Take the room, when there is twice as much: the disk would be full again at once."""
        make_directory(self.path.parent)
        room = os.statvfs(self.path.parent)
        free_bytes = room.f_bavail * room.f_frsize
        if not self.path.exists() and free_bytes < 2 * self._size_bytes:
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
            self.release()
            if not is_full(error):
                raise
        finally:
            os.close(descriptor)
        return self.held

    def release(self) -> bool:
        """Give the room away; return whether there was any."""
        had, self.held = self.held, False
        self.path.unlink(missing_ok=True)
        return had


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
        try:
            self._append(name, data)
        except OSError as error:
            if not is_full(error) or self._reserve is None or not self._reserve.release():
                raise
            self._append(name, data)

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
