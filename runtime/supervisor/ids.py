"""The ids of a user namespace and what they are outside of it; pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import StartFailed, Unsupported

_OCI = ("containerID", "hostID", "size")
_CAPABILITY = "security.capability"
_REVISION_MASK, _REVISION_2, _REVISION_3 = 0xFF000000, 0x02000000, 0x03000000
Range = tuple[int, int, int]
"""First id inside, first id outside, how many."""


@dataclass(frozen=True)
class IdMap:
    """The user and group ids of a user namespace, by those of its parent."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]

    @classmethod
    def from_oci(cls, linux: dict[str, Any]) -> IdMap:
        """Read OCI's linux.uidMappings and gidMappings; raises Unsupported where one is missing."""
        found = []
        for kind in ("uidMappings", "gidMappings"):
            if not linux.get(kind):
                raise Unsupported(f"a user namespace needs linux.{kind}")
            lines = (" ".join(str(int(one[key])) for key in _OCI) for one in linux[kind])
            found.append(_ranges(lines))
        return cls(*found)

    @classmethod
    def read(cls, uid_map: str, gid_map: str) -> IdMap:
        """Read what /proc/PID/uid_map and gid_map say."""
        return cls(_ranges(uid_map.splitlines()), _ranges(gid_map.splitlines()))

    def to_oci(self) -> dict[str, list[dict[str, int]]]:
        """Return the two fields of OCI's linux."""
        return {
            "uidMappings": [dict(zip(_OCI, one, strict=True)) for one in self.uids],
            "gidMappings": [dict(zip(_OCI, one, strict=True)) for one in self.gids],
        }

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """Return what a user and group of the container are outside; raises StartFailed."""
        return _outside(self.uids, uid, "user"), _outside(self.gids, gid, "group")

    def attribute_outside(self, name: str, value: bytes) -> bytes:
        """Return what a file's extended attribute is outside.

        A file's capabilities name the root they hold for, capabilities(7): without one they would
        be the host's root's to give. Raises StartFailed.
        """
        if name != _CAPABILITY or len(value) not in (20, 24):
            return value
        (magic,) = struct.unpack_from("<I", value)
        root = 0
        if magic & _REVISION_MASK == _REVISION_3 and len(value) == 24:
            (root,) = struct.unpack_from("<I", value, 20)
        elif magic & _REVISION_MASK != _REVISION_2:
            return value
        magic = magic & ~_REVISION_MASK | _REVISION_3
        owner, _ = self.outside(root, 0)
        return struct.pack("<I", magic) + value[4:20] + struct.pack("<I", owner)


def _ranges(lines: Iterable[str]) -> tuple[Range, ...]:
    words = (line.split() for line in lines)
    return tuple((int(inside), int(outside), int(size)) for inside, outside, size in words)


def text_of(ranges: Sequence[Range]) -> str:
    """Return ranges as the kernel takes them."""
    return "".join(f"{inside} {outside} {size}\n" for inside, outside, size in ranges)


def _outside(ranges: Sequence[Range], number: int, kind: str) -> int:
    for inside, outside, size in ranges:
        if inside <= number < inside + size:
            return outside + number - inside
    raise StartFailed(f"{kind} {number} is not among the ids of the container's user namespace")
