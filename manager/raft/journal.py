"""The write-ahead journal: entries, term and vote in CRC-framed append-only segments.

One frame is written per sync and only after the previous one is durable, so only the last frame
of the last segment can be torn: it is cut. Damage anywhere else refuses to start, because what
was acknowledged may be gone.

segment  magic(8)
frame    mark(4) length(u32) crc32(u32) | sequence(u64) cipher(u8) nonce(12) records
record   length(u32) type(u8) payload

Cipher 0 is plain text, its nonce is zero; cipher 1 is AES-256-GCM under the node's keyring, bound
to the sequence. Sequences count frames over all segments without a gap. A segment starts with the
term and vote of its time, so earlier segments can be dropped. A journal with a keyring that finds
frames of another kind or key writes the whole log anew and drops them.
"""

import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from manager.raft.disk import Disk, is_full
from swarmapi.keyring import NONCE_BYTES, Keyring, WrongKey

MAGIC: Final = b"SWRAFT1\n"
SEGMENT_MAX_BYTES: Final = 64 << 20
_MARK: Final = b"FRM1"
_FRAME: Final = struct.Struct("<4sII")
_HEAD: Final = struct.Struct("<QB12s")
_BOUND: Final = struct.Struct("<QB")
_RECORD: Final = struct.Struct("<IB")
_INDEX: Final = struct.Struct("<Q")
_ENTRY: Final = struct.Struct("<QQ")
_PLAIN, _AES_GCM = 0, 1
_NO_NONCE: Final = bytes(NONCE_BYTES)
_R_ENTRY, _R_TRUNCATE, _R_HARD, _R_COMMIT, _R_RESET = 1, 2, 3, 4, 5
_log = logging.getLogger(__name__)

Entry = tuple[bytes, int, int]
"""(command, index, term): the shape PySyncObj's core keeps its log in."""


class SyncFailed(Exception):
    """What was written may be lost, and a second try would not tell: see fsync(2)."""


class Corrupt(Exception):
    """Durable data is damaged: the node must not start from it."""


class Sealed(Corrupt):
    """Durable data is sealed with a key that is not in the ring: with it, the data may be whole."""


@dataclass(frozen=True)
class Write:
    """One frame on its way to the disk: `Journal.write` it in any thread, then `synced` it."""

    segment: str
    data: bytes
    last_index: int


class Journal:
    """The log in memory and its journal on `disk`; changes are durable after a sync.

    Without a `keyring` frames are plain. Only `write` may run in another thread. Raises Corrupt
    when the disk is damaged, or sealed with a key that is not in the ring.
    """

    def __init__(
        self,
        disk: Disk,
        segment_max_bytes: int = SEGMENT_MAX_BYTES,
        keyring: Keyring | None = None,
    ) -> None:
        self._disk = disk
        self._keyring = keyring
        self._stale = False
        """Whether a frame on the disk is not as one would be written now."""
        self._segment_max_bytes = segment_max_bytes
        self._buffer = bytearray()
        self._sequence = 0
        self._segments: dict[str, int] = {}
        self._size_bytes = 0
        self._pending_max = 0
        self._unchanged = 0  # entries up to here are as the frame in flight has them
        self.entries: list[Entry] = []
        self.term = 0
        self.vote: str | None = None
        self.commit = 0
        self.synced_index = 0
        self._recover()

    @property
    def dirty(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._buffer)

    @property
    def last_index(self) -> int:
        """The index of the last entry, 0 for an empty log."""
        return self.entries[-1][1] if self.entries else 0

    def add(self, command: bytes, index: int, term: int) -> None:
        """Append an entry; its index must follow the last one."""
        self._push(command, index, term)
        self._pending_max = max(self._pending_max, index)
        self._record(_R_ENTRY, _ENTRY.pack(index, term) + command)

    def truncate(self, index: int) -> None:
        """Drop the entries from `index` on."""
        self._truncate(index)
        self.synced_index = min(self.synced_index, index - 1)
        self._unchanged = min(self._unchanged, index - 1)
        self._record(_R_TRUNCATE, _INDEX.pack(index))

    def set_hard_state(self, term: int, vote: str | None) -> None:
        """Record term and vote; neither may be acted on before the next sync."""
        if (term, vote) != (self.term, self.vote):
            self.term, self.vote = term, vote
            self._record(_R_HARD, self._hard_state())

    def set_commit(self, index: int) -> None:
        """Record how far the log is committed: a hint that saves time after a restart."""
        if index > self.commit:
            self.commit = index
            self._record(_R_COMMIT, _INDEX.pack(index))

    def take(self) -> Write:
        """Return everything buffered as one frame; the previous one must be synced."""
        segment = next(reversed(self._segments), "")
        prefix = b""
        if not segment or self._size_bytes >= self._segment_max_bytes:
            segment = f"{self._sequence:016x}.wal"
            self._segments[segment] = 0
            self._size_bytes = 0
            prefix = MAGIC
            self._buffer[:0] = _pack_record(_R_HARD, self._hard_state())
        data = prefix + self._pack_frame(bytes(self._buffer))
        self._segments[segment] = max(self._segments[segment], self._pending_max)
        self._sequence += 1
        self._size_bytes += len(data)
        self._pending_max = 0
        self._buffer.clear()
        self._unchanged = self.last_index
        return Write(segment, data, self.last_index)

    def write(self, write: Write) -> None:
        """Put a frame on the disk.

        Raises:
            OSError: it could not be appended; after one that `is_full` it may be tried again.
            SyncFailed: it could not be synced, for whatever reason: the process must end.
        """
        self._disk.append(write.segment, write.data)
        try:
            self._disk.sync(write.segment)
        except OSError as error:
            raise SyncFailed(str(error)) from error

    def synced(self, write: Write) -> None:
        """Note that a frame is durable: its entries may be acknowledged."""
        self.synced_index = min(write.last_index, self._unchanged)

    def sync(self) -> None:
        """Write what is buffered and wait for the disk."""
        if self._buffer:
            write = self.take()
            self.write(write)
            self.synced(write)

    def compact(self, base: int) -> None:
        """Forget the entries before `base` and drop the segments that hold nothing else.

        A snapshot of at least `base` must be durable. `base` stays as the anchor of the log.
        """
        if not self.entries or base <= self.entries[0][1]:
            return
        if base > self.last_index:
            raise ValueError(f"compaction to {base} is past the end of the log {self.last_index}")
        self.sync()
        del self.entries[: base - self.entries[0][1]]
        self._drop_below(base)

    def reset(self, command: bytes, index: int, term: int) -> None:
        """Replace the whole log by one anchor: a snapshot of `index` was installed, durably."""
        self.entries.clear()
        self._record(_R_RESET, b"")
        self.add(command, index, term)
        self.commit = max(self.commit, index)
        self._size_bytes = self._segment_max_bytes
        self.sync()
        for segment in list(self._segments)[:-1]:
            self._remove(segment)

    def rewrite(self) -> None:
        """Write the whole log anew, sealed as frames are now, and drop what was before.

        Raises OSError: it could not be written. After one that `is_full` all is as it was.
        """
        if not self._segments:
            return
        before = bytes(self._buffer), self._sequence, self._size_bytes, self._unchanged
        pending_max, segments = self._pending_max, dict(self._segments)
        self._buffer.clear()
        self._record(_R_RESET, b"")
        for command, index, term in self.entries:
            self._record(_R_ENTRY, _ENTRY.pack(index, term) + command)
        self._record(_R_COMMIT, _INDEX.pack(self.commit))
        self._pending_max = self.last_index
        self._size_bytes = self._segment_max_bytes
        try:
            self.sync()
        except OSError:
            fresh = self._segments.keys() - segments.keys()
            for name in fresh.intersection(self._disk.names()):
                self._disk.remove(name)
            buffered, self._sequence, self._size_bytes, self._unchanged = before
            self._buffer[:], self._pending_max, self._segments = buffered, pending_max, segments
            raise
        for segment in list(self._segments)[:-1]:
            self._remove(segment)
        self._stale = False

    @property
    def segments(self) -> list[str]:
        """The files of the log, oldest first."""
        return list(self._segments)

    def _drop_below(self, base: int) -> None:
        for segment, last in list(self._segments.items())[:-1]:
            if last >= base:
                return
            self._remove(segment)

    def _remove(self, segment: str) -> None:
        self._disk.remove(segment)
        del self._segments[segment]

    def _hard_state(self) -> bytes:
        vote = b"" if self.vote is None else b"=" + self.vote.encode()
        return _INDEX.pack(self.term) + vote

    def _record(self, kind: int, payload: bytes) -> None:
        self._buffer += _pack_record(kind, payload)

    def _push(self, command: bytes, index: int, term: int) -> None:
        if self.entries and index != self.last_index + 1:
            raise Corrupt(f"journal has entry {index} after {self.last_index}")
        self.entries.append((command, index, term))

    def _truncate(self, index: int) -> None:
        if self.entries:
            del self.entries[max(0, index - self.entries[0][1]) :]

    def _recover(self) -> None:
        names = self._disk.names()
        for position, name in enumerate(names):
            self._recover_segment(name, last=position == len(names) - 1)
        if self._segments:
            # A process that was killed may have left its last frame in the page cache only; from
            # here on it is acknowledged.
            self._disk.sync(next(reversed(self._segments)))
        self.commit = min(self.commit, self.last_index)
        self.synced_index = self.last_index
        if self._stale:
            try:
                self.rewrite()
            except OSError as error:
                if not is_full(error):
                    raise
                _log.warning("no room to seal the log anew, it stays as it was: %s", error)

    def _recover_segment(self, name: str, last: bool) -> None:
        data = self._disk.read(name)
        if not self._segments:
            self._sequence = _sequence_of(name)
        elif _sequence_of(name) != self._sequence:
            raise Corrupt(f"journal segment {name} does not follow frame {self._sequence}")
        self._segments[name] = 0
        end = self._replay_frames(name, data)
        self._size_bytes = end
        if end == len(data) and end > len(MAGIC):
            return
        if not last or _has_frame(data, end + 1):
            raise Corrupt(f"journal segment {name} is damaged at byte {end}; restore this member")
        if end > len(MAGIC):
            self._disk.cut(name, end)
        elif len(self._segments) > 1 or not _has_frame(data, 0):
            self._remove(name)
            previous = next(reversed(self._segments), "")
            self._size_bytes = len(self._disk.read(previous)) if previous else 0

    def _replay_frames(self, name: str, data: bytes) -> int:
        if not data.startswith(MAGIC):
            return 0
        offset = len(MAGIC)
        while end := _frame_end(data, offset):
            for kind, payload in _records(self._frame_records(name, data, offset, end)):
                self._replay(name, kind, payload)
            self._sequence += 1
            offset = end
        return offset

    def _pack_frame(self, records: bytes) -> bytes:
        cipher, sealed = _PLAIN, _NO_NONCE + records
        if self._keyring is not None:
            cipher = _AES_GCM
            sealed = self._keyring.seal(records, _BOUND.pack(self._sequence, cipher))
        body = _BOUND.pack(self._sequence, cipher) + sealed
        return _FRAME.pack(_MARK, len(body), zlib.crc32(body)) + body

    def _frame_records(self, name: str, data: bytes, offset: int, end: int) -> bytes:
        """Return the records of a valid frame, in clear."""
        start = offset + _FRAME.size
        sequence, cipher, _ = _HEAD.unpack_from(data, start)
        if sequence != self._sequence:
            raise Corrupt(f"journal segment {name} has frame {sequence}, not {self._sequence}")
        if cipher == _PLAIN:
            self._stale = self._stale or self._keyring is not None
            return data[start + _HEAD.size : end]
        if cipher != _AES_GCM:
            raise Corrupt(f"journal segment {name} uses the unknown cipher {cipher}")
        if self._keyring is None:
            raise Sealed(f"journal segment {name} is sealed and no keys are given")
        try:
            records, newest = self._keyring.open(
                data[start + _BOUND.size : end], _BOUND.pack(sequence, cipher)
            )
        except WrongKey:
            raise Sealed(
                f"journal segment {name} is sealed with a key this node does not have; "
                "restore its raft.keys"
            ) from None
        self._stale = self._stale or not newest
        return records

    def _replay(self, segment: str, kind: int, payload: bytes) -> None:
        if kind == _R_ENTRY:
            index, term = _ENTRY.unpack_from(payload)
            self._push(payload[_ENTRY.size :], index, term)
            self._segments[segment] = max(self._segments[segment], index)
        elif kind == _R_TRUNCATE:
            self._truncate(_INDEX.unpack(payload)[0])
        elif kind == _R_HARD:
            self.term = _INDEX.unpack_from(payload)[0]
            vote = payload[_INDEX.size :]
            self.vote = vote[1:].decode() if vote else None
        elif kind == _R_COMMIT:
            self.commit = _INDEX.unpack(payload)[0]
        elif kind == _R_RESET:
            self.entries.clear()
        else:
            raise Corrupt(f"journal segment {segment} has the unknown record type {kind}")


def _sequence_of(name: str) -> int:
    stem, dot, suffix = name.partition(".")
    if len(stem) != 16 or not dot or suffix != "wal":
        raise Corrupt(f"journal directory holds the foreign file {name}; move it away")
    return int(stem, 16)


def _pack_record(kind: int, payload: bytes) -> bytes:
    return _RECORD.pack(len(payload), kind) + payload


def _frame_end(data: bytes, offset: int) -> int:
    """Return where the valid frame at `offset` ends, 0 when there is none."""
    if offset + _FRAME.size > len(data):
        return 0
    mark, length, crc = _FRAME.unpack_from(data, offset)
    start = offset + _FRAME.size
    if mark != _MARK or length < _HEAD.size or start + length > len(data):
        return 0
    return start + length if zlib.crc32(memoryview(data)[start : start + length]) == crc else 0


def _has_frame(data: bytes, offset: int) -> bool:
    """Tell whether a valid frame starts anywhere from `offset` on."""
    while (offset := data.find(_MARK, offset)) >= 0:
        if _frame_end(data, offset):
            return True
        offset += 1
    return False


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(data):
        length, kind = _RECORD.unpack_from(data, offset)
        offset += _RECORD.size
        yield kind, data[offset : offset + length]
        offset += length
