"""The supervisor's memory across its own death and a reboot: an append-only file of records.

A record is `<II` (length, CRC-32) and JSON. A torn tail is cut off when it is opened. Nothing is
synced: what a power cut loses, the reboot has made void. What a full disk has no room for is kept
and written with a later record.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from typing import Any

from runtime.supervisor.appending import append_whole

_HEAD = struct.Struct("<II")
_COMPACT_BYTES = 1 << 20


class Journal:
    """The last record of each key; a record of None forgets the key."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        self._unwritten: dict[str, dict[str, Any] | None] = {}
        """What memory holds and the file does not yet."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600)
        self._size = self._load()
        os.ftruncate(self._fd, self._size)
        self._compact()

    def _load(self) -> int:
        """Take every whole record and return where the last one ends."""
        with open(self.path, "rb") as file:
            raw = file.read()
        at = 0
        while at + _HEAD.size <= len(raw):
            length, crc = _HEAD.unpack_from(raw, at)
            body = raw[at + _HEAD.size : at + _HEAD.size + length]
            if len(body) < length or zlib.crc32(body) != crc:
                break
            key, record = json.loads(body)
            self._apply(key, record)
            at += _HEAD.size + length
        return at

    def _apply(self, key: str, record: dict[str, Any] | None) -> None:
        if record is None:
            self.records.pop(key, None)
        else:
            self.records[key] = record

    def _compact(self) -> None:
        """Write what is left of history into a new file; a full disk keeps the old one."""
        body = b"".join(_encode(key, record) for key, record in self.records.items())
        temporary = self.path + ".new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_APPEND
        self._live = self._size  # of the file that stays when this fails: not again at each record
        with contextlib.suppress(OSError):
            fd = os.open(temporary, flags, 0o600)
            try:
                append_whole(fd, body, 0)
                os.replace(temporary, self.path)
            except OSError:
                os.close(fd)
                os.unlink(temporary)
                raise
            os.close(self._fd)
            self._fd, self._size, self._live = fd, len(body), len(body)
            self._unwritten.clear()

    def put(self, key: str, record: dict[str, Any] | None) -> None:
        """Append one record, rewriting the file when most of it is history."""
        self._apply(key, record)
        self._unwritten[key] = record
        raw = b"".join(_encode(key, record) for key, record in self._unwritten.items())
        with contextlib.suppress(OSError):  # it happened all the same: the next record tells it
            self._size = append_whole(self._fd, raw, self._size)
            self._unwritten.clear()
        if self._size > _COMPACT_BYTES + 2 * self._live:
            self._compact()


def _encode(key: str, record: dict[str, Any] | None) -> bytes:
    body = json.dumps([key, record], separators=(",", ":")).encode()
    return _HEAD.pack(len(body), zlib.crc32(body)) + body
