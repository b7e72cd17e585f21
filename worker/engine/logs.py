"""Reading a container's json-file log: newest rotation last, tail, since, until and follow."""

import asyncio
import calendar
import json
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_CHUNK_BYTES = 256 * 1024
_POLL_S = 0.05


@dataclass(frozen=True)
class LogLine:
    """One record of the log; `data` is as written, usually ending in a newline."""

    stream: int
    """1 stdout, 2 stderr."""
    data: bytes
    stamp: str
    """RFC 3339 with nanoseconds, UTC."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What the log options put on every line."""

    @property
    def time_ns(self) -> int:
        """The stamp in nanoseconds of the epoch."""
        return parse_stamp(self.stamp)


@dataclass(frozen=True)
class LogQuery:
    """Which lines are wanted; `tail` None is all of them."""

    stdout: bool = True
    stderr: bool = True
    since_ns: int = 0
    until_ns: int = 0
    tail: int | None = None
    follow: bool = False

    def wants(self, line: LogLine) -> bool:
        """Whether stream and time match."""
        if not (self.stdout if line.stream == 1 else self.stderr):
            return False
        if not self.since_ns and not self.until_ns:
            return True
        at = line.time_ns
        return at >= self.since_ns and (not self.until_ns or at <= self.until_ns)


def parse_stamp(stamp: str) -> int:
    """Return nanoseconds of the epoch for `2026-01-02T03:04:05.123456789Z`."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0")[:9])


async def read_log(
    path: Path, query: LogQuery, running: Callable[[], bool]
) -> AsyncIterator[LogLine]:
    """Yield the lines asked for; with `follow`, until the container ends and its log is read."""
    reader = _Reader(path)
    try:
        past = await asyncio.to_thread(_past, path, reader, query)
        for line in past:
            yield line
        while query.follow:
            alive = running()
            fresh = await asyncio.to_thread(reader.read)
            for line in fresh:
                if query.until_ns and line.time_ns > query.until_ns:
                    return
                if query.wants(line):
                    yield line
            if not fresh:
                if not alive:
                    return
                await asyncio.sleep(_POLL_S)
    finally:
        reader.close()


def _past(path: Path, reader: "_Reader", query: LogQuery) -> list[LogLine]:
    if query.tail == 0:
        while reader.read():
            continue
        return []
    kept: deque[LogLine] = deque(maxlen=query.tail)
    for older in _rotated(path):
        kept.extend(line for line in _lines_of(older.read_bytes()) if query.wants(line))
    while fresh := reader.read():
        kept.extend(line for line in fresh if query.wants(line))
    return list(kept)


def _rotated(path: Path) -> list[Path]:
    found = []
    for candidate in path.parent.glob(path.name + ".*"):
        suffix = candidate.name.rpartition(".")[2]
        if suffix.isdigit():
            found.append((int(suffix), candidate))
    return [candidate for _, candidate in sorted(found, reverse=True)]


def _lines_of(raw: bytes) -> Iterator[LogLine]:
    for entry in raw.splitlines():
        try:
            record = json.loads(entry)
            yield LogLine(
                2 if record["stream"] == "stderr" else 1,
                record["log"].encode(),
                record["time"],
                record.get("attrs") or {},
            )
        except (ValueError, KeyError):
            continue  # a line torn by a power cut says nothing


class _Reader:
    """Reads whole lines as they are appended, across rotations by rename."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._rest = b""

    def read(self) -> list[LogLine]:
        if self._fd < 0 and not self._open():
            return []
        data = os.read(self._fd, _CHUNK_BYTES)
        if not data and self._replaced():
            data = os.read(self._fd, _CHUNK_BYTES)
            if not data:
                os.close(self._fd)
                self._fd = -1
                return self.read() if self._open() else []
        whole, newline, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest
        lines = list(_lines_of(whole)) if newline else []
        return lines if lines or not data else self.read()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _open(self) -> bool:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        return True

    def _replaced(self) -> bool:
        try:
            return os.stat(self._path).st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False
