"""A crash-safe table of small records: an append-only file of checksummed frames.

A frame is `length u32, crc32 u32, payload`, little endian, the payload msgpack `[key, value]` with
value null for a deletion. Opening replays the file, drops a torn tail and, when most of the file is
history, writes it anew (write, fsync, rename, fsync of the directory).
"""

import asyncio
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

_HEAD = struct.Struct("<II")
_MAGIC = b"SWJ1"
_COMPACT_ABOVE_BYTES = 1 << 20


class Journal:
    """The table in memory and its file; single writer, owned by one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table: dict[str, bytes] = {}
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
        good = self._replay(raw)
        if good < len(raw) or not raw or len(raw) > _COMPACT_ABOVE_BYTES:
            self._rewrite()
        else:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._size_bytes = len(raw)

    def close(self) -> None:
        """Sync and close the file."""
        if self._fd >= 0:
            os.fdatasync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def values(self) -> Iterator[bytes]:
        """Yield every record as it was put."""
        yield from self._table.values()

    def put(self, key: str, value: bytes) -> None:
        """Append a record; it is durable once `commit` returns."""
        if self._table.get(key) != value:
            self._table[key] = value
            self._append(_frame(key, value))

    def delete(self, key: str) -> None:
        """Append a deletion; durable once `commit` returns."""
        if self._table.pop(key, None) is not None:
            self._append(_frame(key, None))

    async def commit(self) -> None:
        """Make everything appended so far durable; concurrent callers share one fdatasync."""
        target = self._appended
        async with self._flush:
            if self._synced >= target or self._fd < 0:
                return
            reached = self._appended
            await asyncio.to_thread(os.fdatasync, self._fd)
            self._synced = reached
            live = sum(len(value) for value in self._table.values())
            if self._size_bytes > _COMPACT_ABOVE_BYTES + 4 * live:
                self._rewrite()

    def _append(self, frame: bytes) -> None:
        os.write(self._fd, frame)
        self._size_bytes += len(frame)
        self._appended += 1

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

    def _rewrite(self) -> None:
        fresh = self._path.with_suffix(".new")
        body = _MAGIC + b"".join(_frame(key, value) for key, value in self._table.items())
        with fresh.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size_bytes = len(body)


def _frame(key: str, value: bytes | None) -> bytes:
    payload = msgspec.msgpack.encode((key, value))
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
