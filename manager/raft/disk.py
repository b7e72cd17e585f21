"""The disk port of the journal: one directory of append-only files."""

import os
from pathlib import Path
from typing import Protocol

from swarmapi.durable import sync_directory


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


class FileDisk:
    """The real directory. Every method raises OSError; after one the process must end.

    A failed fsync may drop the dirty pages and report success the next time (see fsync(2)), so
    nothing may be concluded from a retry.
    """

    def __init__(self, path: Path) -> None:
        make_directory(path)
        self._path = path
        self._open: dict[str, int] = {}
        self._unlisted = set(os.listdir(path))
        """Files whose directory entry may not be durable, those of a killed process among them."""

    def names(self) -> list[str]:
        return sorted(os.listdir(self._path))

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def append(self, name: str, data: bytes) -> None:
        rest = memoryview(data)
        descriptor = self._descriptor(name)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

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

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            path = self._path / name
            if not path.exists():
                self._unlisted.add(name)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._open[name] = os.open(path, flags, 0o600)
        return self._open[name]
