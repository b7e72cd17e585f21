"""Snapshot files: a header and parts, each with a CRC, replaced atomically.

file    magic(8) part* end
part    length(u32) crc32(u32) bytes; the first one is the header in msgpack
end     0xffffffff crc32(u32) of all the parts' CRCs, so that no part can be missing

With the second magic each part is sealed under the node's keyring, bound to its place. What is
sent to a follower is plain: it travels in TLS, and the follower seals it with keys of its own.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec

from manager.raft.journal import Corrupt, Sealed
from swarmapi.durable import sync_directory
from swarmapi.keyring import Keyring, WrongKey

MAGIC: Final = b"SWSNAP1\n"
SEALED_MAGIC: Final = b"SWSNAP2\n"
_PART: Final = struct.Struct("<II")
_END: Final = 0xFFFFFFFF
_PLACE: Final = struct.Struct("<Q")


@dataclass(frozen=True)
class SnapshotHeader:
    """What a snapshot covers: the last entry in it, and the members as of that entry."""

    index: int
    term: int
    members: tuple[tuple[str, str], ...]
    """(node id, address), sorted."""


def pack_snapshot(
    header: SnapshotHeader, parts: Iterable[bytes], keyring: Keyring | None = None
) -> Iterator[bytes]:
    """Yield the file's bytes, sealed with a `keyring`; `parts` is drawn one at a time."""
    total = 0
    yield MAGIC if keyring is None else SEALED_MAGIC
    for place, clear in enumerate(chain([_pack_header(header)], parts)):
        part = clear if keyring is None else keyring.seal(clear, _bound(place))
        crc = zlib.crc32(part)
        total = zlib.crc32(struct.pack("<I", crc), total)
        yield _PART.pack(len(part), crc) + part
    yield _PART.pack(_END, total)


def write_snapshot(
    path: Path, header: SnapshotHeader, parts: Iterable[bytes], keyring: Keyring | None = None
) -> None:
    """Replace the snapshot at `path`; it is durable on return. Raises OSError.

    Meant for a worker thread: `parts` is drawn one at a time.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("wb") as file:
            for piece in pack_snapshot(header, parts, keyring):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.rename(path)
    sync_directory(path.parent)


def read_snapshot(
    data: bytes, keyring: Keyring | None = None
) -> tuple[SnapshotHeader, list[bytes]]:
    """Return the header and the parts of a snapshot file's bytes.

    Raises Corrupt unless every byte is as written and its keys are in the ring: a node never
    starts from half a state.
    """
    if not data.startswith((MAGIC, SEALED_MAGIC)):
        raise Corrupt("snapshot has a damaged start; restore this member")
    parts: list[bytes] = []
    offset, total = len(MAGIC), 0
    while True:
        if offset + _PART.size > len(data):
            raise Corrupt(f"snapshot ends early at byte {offset}; restore this member")
        length, crc = _PART.unpack_from(data, offset)
        offset += _PART.size
        if length == _END:
            break
        part = data[offset : offset + length]
        if len(part) != length or zlib.crc32(part) != crc:
            raise Corrupt(f"snapshot is damaged at byte {offset}; restore this member")
        total = zlib.crc32(struct.pack("<I", crc), total)
        parts.append(part)
        offset += length
    if crc != total or offset != len(data) or not parts:
        raise Corrupt("snapshot has a damaged end; restore this member")
    if data.startswith(SEALED_MAGIC):
        parts = _opened(parts, keyring)
    shape = tuple[int, int, tuple[tuple[str, str], ...]]
    index, term, members = msgspec.msgpack.decode(parts[0], type=shape)
    return SnapshotHeader(index, term, members), parts[1:]


def _pack_header(header: SnapshotHeader) -> bytes:
    return msgspec.msgpack.encode((header.index, header.term, header.members))


def _opened(parts: list[bytes], keyring: Keyring | None) -> list[bytes]:
    if keyring is None:
        raise Sealed("snapshot is sealed and no keys are given")
    try:
        return [keyring.open(part, _bound(place))[0] for place, part in enumerate(parts)]
    except WrongKey:
        raise Sealed(
            "snapshot is sealed with a key this node does not have; restore its raft.keys"
        ) from None


def _bound(place: int) -> bytes:
    return SEALED_MAGIC + _PLACE.pack(place)
