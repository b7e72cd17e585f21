"""Programs of a few instructions, written as listings, in memory files that nobody can write to.

A listing has the bytes of an instruction in its first 18 columns; the rest is for people.
"""

from __future__ import annotations

import fcntl
import os
import struct
from functools import cache

from runtime.errors import Unsupported
from runtime.supervisor.kernel import MACHINE

_BASE = 0x400000
_SEGMENT_SIZE = 56
_HEADERS_SIZE = 64 + _SEGMENT_SIZE
_PAGE = 0x1000
_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}


def image(listings: dict[str, str], machine: str = MACHINE) -> bytes:
    """Return the program of a machine as a static ELF file; raises Unsupported without a listing.

    One readable and executable segment: the file itself (elf(5)).
    """
    if machine not in listings:
        raise Unsupported(f"a container's own programs are not supported on {machine}")
    code = code_of(listings[machine])
    size = _HEADERS_SIZE + len(code)
    return _header(machine, _HEADERS_SIZE, 1) + _segment(5, 0, size) + code


def with_data(listings: dict[str, str], data: bytes, machine: str) -> bytes:
    """Return the program as a static ELF file with writable `data` at 0x401000."""
    start = _HEADERS_SIZE + _SEGMENT_SIZE
    code = code_of(listings[machine])
    size = start + len(code)
    header = _header(machine, start, 2) + _segment(5, 0, size) + _segment(6, _PAGE, len(data))
    return header + code + bytes(_PAGE - size) + data


@cache
def code_of(listing: str) -> bytes:
    """Return the instructions of a listing."""
    return b"".join(bytes.fromhex(line[:18]) for line in listing.splitlines())


def _header(machine: str, start: int, segments: int) -> bytes:
    return b"\x7fELF\2\1\1" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, _ELF_MACHINE[machine], 1, _BASE + start, 64, 0, 0, 64, 56, segments,
        0, 0, 0,
    )  # fmt: skip


def _segment(flags: int, at: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", 1, flags, at, _BASE + at, _BASE + at, size, size, _PAGE)


def open_sealed(name: str, listings: dict[str, str]) -> int:
    """Return a descriptor above 3 of this machine's program."""
    program = image(listings)
    made = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(made, program)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(made, fcntl.F_ADD_SEALS, seals)
        return fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 4)
    finally:
        os.close(made)
