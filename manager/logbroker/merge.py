"""Many logs as one, in the order of their lines' times. Pure."""

import heapq
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple


class Line(NamedTuple):
    """One line of a log; `stream` is 1 stdout or 2 stderr, the time unix nanoseconds."""

    time_ns: int
    stream: int
    data: bytes
    details: str = ""
    """What the log options put on it: `key=value,…`, quoted for a URL."""


class Merge:
    """Takes the lines of each log as they arrive and hands them out by time.

    A log of whose past more is to come is waited for; a live one is not: of it, who comes first
    is first.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[Line]] = {}
        self._past: set[str] = set()
        self._missing: set[str] = set()
        """Of `_past`, those that hold no line now."""
        self._heads: list[tuple[int, int, str]] = []
        self._number = 0

    def add(self, key: str) -> None:
        """Begin a log."""
        self._lines[key] = deque()
        self._past.add(key)
        self._missing.add(key)

    def feed(self, key: str, lines: Sequence[Line]) -> None:
        """Take lines of a log, which are in order."""
        held = self._lines[key]
        if lines and not held:
            self._push(key, lines[0])
            self._missing.discard(key)
        held.extend(lines)

    def go_live(self, key: str) -> None:
        """Wait for this log no more: its past was read, or it has ended."""
        self._past.discard(key)
        self._missing.discard(key)

    def is_empty(self, key: str) -> bool:
        """Tell whether a log has no line to hand out."""
        return not self._lines[key]

    def take(self, most_bytes: int) -> list[tuple[str, Line]]:
        """Return the next lines with their logs' keys; none when more must come first."""
        taken: list[tuple[str, Line]] = []
        size = 0
        while self._heads and not self._missing and size < most_bytes:
            _, _, key = heapq.heappop(self._heads)
            held = self._lines[key]
            line = held.popleft()
            taken.append((key, line))
            size += len(line.data) + 1
            if held:
                self._push(key, held[0])
            elif key in self._past:
                self._missing.add(key)
        return taken

    def _push(self, key: str, line: Line) -> None:
        self._number += 1
        heapq.heappush(self._heads, (line.time_ns, self._number, key))
