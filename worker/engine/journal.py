"""A crash-safe table of small records: an append-only file of checksummed frames.

A frame is `length u32, crc32 u32, payload`, little endian, the payload msgpack `[key, value]` with
value null for a deletion. Opening replays the file, drops a torn tail and, when most of the file is
history, writes it anew (write, fsync, rename, fsync of the directory).

On a full disk memory runs ahead of the file: what was put stays put and is written with the next
that fits, but `commit` fails, so whoever must not go on without the disk does not.
"""

import asyncio
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from runtime.image.durable import sync_directory
from runtime.supervisor.appending import append_whole

_HEAD = struct.Struct("<II")
_MAGIC = b"SWJ1"
_COMPACT_ABOVE_BYTES = 1 << 20

log = logging.getLogger(__name__)


class Journal:
    """The table in memory and its file; single writer, owned by one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table: dict[str, bytes] = {}
        self._unwritten: dict[str, bytes | None] = {}
        """What the file does not hold yet, for want of room."""
        self._suspect = False
        """A sync failed, after which the kernel may have dropped pages: write it anew."""
        self._fd = -1
        self._size_bytes = 0
        self._appended = 0
        self._synced = 0
        self._flush = asyncio.Lock()

    def open(self) -> None:
        """Replay the file, or create it.

        Raises:
            OSError: when the file cannot be read or written, or is no journal.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        raw = self._path.read_bytes() if self._path.exists() else b""
        if raw and not raw.startswith(_MAGIC[: len(raw)]):
            raise OSError(f"{self._path} is not a journal of containers")
        if len(raw) < len(_MAGIC):
            self._rewrite()
            return
        good = self._replay(raw)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size_bytes = good
        if good < len(raw):
            os.ftruncate(self._fd, good)
            os.fsync(self._fd)
        if good > _COMPACT_ABOVE_BYTES:
            self._compact()

    def close(self) -> None:
        """Sync and close the file, with all of what was put that it has room for."""
        if self._fd >= 0:
            try:
                self._write()
                os.fdatasync(self._fd)
            except OSError as error:
                log.error("%s is not complete: %s", self._path, error)
            os.close(self._fd)
            self._fd = -1

    def values(self) -> Iterator[bytes]:
        """Yield every record as it was put."""
        yield from self._table.values()

    def put(self, key: str, value: bytes) -> None:
        """Append a record; it is durable once `commit` returns."""
        if self._table.get(key) != value:
            self._table[key] = value
            self._append(key, value)

    def delete(self, key: str) -> None:
        """Append a deletion; durable once `commit` returns."""
        if self._table.pop(key, None) is not None:
            self._append(key, None)

    async def commit(self) -> None:
        """Make everything appended so far durable; concurrent callers share one fdatasync.

        Raises:
            OSError: it is not durable (ENOSPC: no room); a later commit tries again.
        """
        target = self._appended
        async with self._flush:
            if self._synced >= target or self._fd < 0:
                return
            reached = self._appended
            self._write()
            try:
                await asyncio.to_thread(os.fdatasync, self._fd)
            except OSError:
                self._suspect = True
                raise
            self._synced = reached
            live = sum(len(value) for value in self._table.values())
            if self._size_bytes > _COMPACT_ABOVE_BYTES + 4 * live:
                self._compact()

    def _append(self, key: str, value: bytes | None) -> None:
        self._unwritten[key] = value
        self._appended += 1
        try:
            self._write()
        except OSError as error:  # `commit` tells who waits for it
            log.error("%s: %s", self._path, error)

    def _write(self) -> None:
        if self._suspect:
            self._rewrite()
        elif self._unwritten:
            raw = b"".join(_frame(key, value) for key, value in self._unwritten.items())
            self._size_bytes = append_whole(self._fd, raw, self._size_bytes)
            self._unwritten.clear()

    def _replay(self, raw: bytes) -> int:
        at = len(_MAGIC)
        while at + _HEAD.size <= len(raw):
            length, crc = _HEAD.unpack_from(raw, at)
            payload = raw[at + _HEAD.size : at + _HEAD.size + length]
            if len(payload) < length or zlib.crc32(payload) != crc:
                break
            key, value = msgspec.msgpack.decode(payload, type=tuple[str, bytes | None])
            if value is None:
                self._table.pop(key, None)
            else:
                self._table[key] = value
            at += _HEAD.size + length
        return at

    def _compact(self) -> None:
        try:
            self._rewrite()
        except OSError as error:  # nothing is lost: the long file stays
            log.warning("%s stays long: %s", self._path, error)

    def _rewrite(self) -> None:
        fresh = self._path.with_suffix(".new")
        body = _MAGIC + b"".join(_frame(key, value) for key, value in self._table.items())
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(fresh, flags, 0o600)
        try:
            append_whole(fd, body, 0)
            os.fsync(fd)
            fresh.rename(self._path)
        except OSError:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size_bytes, self._suspect = fd, len(body), False
        self._unwritten.clear()
        sync_directory(self._path.parent)


def _frame(key: str, value: bytes | None) -> bytes:
    payload = msgspec.msgpack.encode((key, value))
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
