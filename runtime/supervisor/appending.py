"""Appends that are in the file whole or not at all, also when the disk is full."""

from __future__ import annotations

import os


def append_whole(fd: int, raw: bytes, end: int) -> int:
    """Append `raw` to a file of `end` bytes and return its new length in bytes.

    write(2) may write a part of it, and then tell of the full disk only when asked for the rest:
    such a part is cut off again, or the next record would stand behind a torn one.

    Raises:
        OSError: nothing was appended (ENOSPC, EDQUOT, EFBIG, EIO).
    """
    rest = memoryview(raw)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        os.ftruncate(fd, end)
        raise
    return end + len(raw)
