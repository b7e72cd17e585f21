"""How often one and the same thing is logged: whoever can cause a line cannot fill the disk."""

import logging
import time
from collections.abc import Callable
from typing import Final

from swarmapi.override import override

MOST: Final = 20
PER_S: Final = 60.0
_KEYS_MAX: Final = 256


class RateLimit:
    """Lets a key pass so many times in a span of time, and counts what it holds back."""

    def __init__(self, most: int = MOST, per_s: float = PER_S) -> None:
        self._most, self._per_s = most, per_s
        self._seen: dict[str, tuple[float, int]] = {}

    def ask(self, key: str, now_s: float) -> int | None:
        """Return None to hold back, else how many of this key were since it last passed."""
        began_s, count = self._seen.get(key, (now_s, 0))
        if now_s - began_s >= self._per_s:
            held = max(0, count - self._most)
            self._seen[key] = (now_s, 1)
            return held
        if key not in self._seen and len(self._seen) >= _KEYS_MAX:
            self._seen.clear()
        self._seen[key] = (began_s, count + 1)
        return 0 if count < self._most else None


class LimitedLog(logging.Filter):
    """A filter of a logger: lines of one template are limited together."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._limit, self._clock = RateLimit(), clock

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """Hold a line back, or say with it how many were."""
        held = self._limit.ask(str(record.msg), self._clock())
        if held:
            record.msg = f"{record.msg} ({held} more like this were not logged)"
        return held is not None
