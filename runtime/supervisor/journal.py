"""The supervisor's memory across its own death and a reboot: an append-only file of records.

A record is `<II` (length, CRC-32) and JSON. A torn tail is cut off when it is opened. Nothing is
synced: what a power cut loses, the reboot has made void.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from typing import Any

_HEAD = struct.Struct("<II")
_COMPACT_BYTES = 1 << 20


class Journal:
    """The last record of each key; a record of None forgets the key."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        self._load()
        self._rewrite()

    def _load(self) -> None:
        try:
            with open(self.path, "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            return
        at = 0
        while at + _HEAD.size <= len(raw):
            length, crc = _HEAD.unpack_from(raw, at)
            body = raw[at + _HEAD.size : at + _HEAD.size + length]
            if len(body) < length or zlib.crc32(body) != crc:
                break
            key, record = json.loads(body)
            self._apply(key, record)
            at += _HEAD.size + length

    def _apply(self, key: str, record: dict[str, Any] | None) -> None:
        if record is None:
            self.records.pop(key, None)
        else:
            self.records[key] = record

    def _rewrite(self) -> None:
        temporary = self.path + ".new"
        fd = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_APPEND, 0o600
        )
        body = b"".join(_encode(key, record) for key, record in self.records.items())
        view = memoryview(body)
        while view:
            view = view[os.write(fd, view) :]
        os.replace(temporary, self.path)
        self._fd, self._size, self._live = fd, len(body), len(body)

    def put(self, key: str, record: dict[str, Any] | None) -> None:
        """Append one record, rewriting the file when most of it is history."""
        self._apply(key, record)
        raw = _encode(key, record)
        os.write(self._fd, raw)
        self._size += len(raw)
        if self._size > _COMPACT_BYTES + 2 * self._live:
            os.close(self._fd)
            self._rewrite()


def _encode(key: str, record: dict[str, Any] | None) -> bytes:
    body = json.dumps([key, record], separators=(",", ":")).encode()
    return _HEAD.pack(len(body), zlib.crc32(body)) + body
