"""Times as Docker writes them: RFC 3339 with nanoseconds, UTC, and its zero."""

import time

ZERO = "0001-01-01T00:00:00Z"


def format_ns(time_ns: int) -> str:
    """Render nanoseconds of the epoch; 0 is Go's zero time."""
    if time_ns <= 0:
        return ZERO
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{stamp}.{digits}Z" if digits else f"{stamp}Z"
