"""What C code of libraries writes to stderr, limited: gRPC has a line for every failed handshake.

Our own words go past it, so that none of them is held back or lost at the end.
"""

import logging
import os
import re
import sys
import threading
import time
from typing import Final

from swarmapi.ratelimit import LimitedLog, RateLimit

_LINE_MAX_BYTES: Final = 4096
_WHERE: Final = re.compile(rb"\S+\.(?:cc|c|h):\d+")


def limit() -> None:
    """Put a pipe in the place of descriptor 2, for good; `sys.stderr` stays what it was."""
    kept = os.dup(2)
    sys.stderr = os.fdopen(kept, "w", buffering=1, errors="backslashreplace")
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    logging.getLogger("grpc._cython.cygrpc").addFilter(LimitedLog())  # of messages that are none
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    threading.Thread(target=_pump, args=(reading, kept), name="stderr", daemon=True).start()


def _pump(reading: int, kept: int) -> None:
    rates = RateLimit()
    with os.fdopen(reading, "rb") as lines:
        while line := lines.readline(_LINE_MAX_BYTES):
            if said := passed(rates, line, time.monotonic()):
                os.write(kept, said)


def passed(rates: RateLimit, line: bytes, now_s: float) -> bytes:
    """Return what is written of a line: nothing, or it and how many of its place were not."""
    where = _WHERE.search(line)
    held = rates.ask(where[0].decode("ascii", "replace") if where else "", now_s)
    if held is None:
        return b""
    if not held:
        return line
    return line.rstrip(b"\n") + b" (%d more like this were not logged)\n" % held
