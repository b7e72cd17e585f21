"""Programs of a few instructions, written as listings, in memory files that nobody can write to.

A listing has the bytes of an instruction in its first 18 columns; the rest is for people.
"""

from __future__ import annotations

import fcntl
import os
import struct

from runtime.errors import Unsupported
from runtime.supervisor.kernel import MACHINE

_BASE = 0x400000
_HEADERS_SIZE = 64 + 56
_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}


def image(listings: dict[str, str], machine: str = MACHINE) -> bytes:
    """Return the program of a machine as a static ELF file; raises Unsupported without a listing.

    One readable and executable segment: the file itself (elf(5)).
    """
    if machine not in listings:
        raise Unsupported(f"a container's own programs are not supported on {machine}")
    code = b"".join(bytes.fromhex(line[:18]) for line in listings[machine].splitlines())
    size = _HEADERS_SIZE + len(code)
    header = b"\x7fELF\2\1\1" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, _ELF_MACHINE[machine], 1, _BASE + _HEADERS_SIZE, 64, 0, 0, 64, 56, 1,
        0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


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
