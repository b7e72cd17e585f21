"""Reading a container's json-file log: newest rotation last, tail, since, until and follow."""

import asyncio
import calendar
import json
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CHUNK_BYTES = 256 * 1024
_POLL_S = 0.05
_TAIL_BATCH = 512


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
    return _seconds(whole) * 1_000_000_000 + int((fraction or "0").ljust(9, "0")[:9])


@lru_cache(maxsize=64)
def _seconds(stamp: str) -> int:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S"))


async def read_batches(
    path: Path, query: LogQuery, running: Callable[[], bool]
) -> AsyncGenerator[Sequence[LogLine], None]:
    """Yield the lines asked for as they are read, at most some hundred KiB at once.

    With `follow` until the container ends and its log is read; an empty batch says that all of
    the past has been yielded.
    """
    reader = _Reader(path)
    try:
        past = _past(path, reader, query)
        while batch := await _in_thread(next, past, None):
            yield batch
        if query.follow:
            yield []
        while query.follow:
            alive = running()
            fresh = await _in_thread(reader.read) if reader.has_more() else []
            if wanted := [line for line in fresh if query.wants(line)]:
                yield wanted
            if query.until_ns and fresh and fresh[-1].time_ns > query.until_ns:
                return
            if not fresh:
                if not alive:
                    return
                await asyncio.sleep(_POLL_S)
    finally:
        reader.close()


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Return what the work returns; a cancelled caller waits for it, as it uses its files."""
    job = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        raise


def _past(path: Path, reader: "_Reader", query: LogQuery) -> Iterator[list[LogLine]]:
    """Yield what the log holds now in batches that are not empty; blocking."""
    read = _chunks(path, reader)
    if query.tail is None:
        for lines in read:
            if wanted := [line for line in lines if query.wants(line)]:
                yield wanted
        return
    kept: deque[LogLine] = deque(maxlen=query.tail)
    for lines in read:
        kept.extend(line for line in lines if query.wants(line))
    while kept:
        yield [kept.popleft() for _ in range(min(len(kept), _TAIL_BATCH))]


def _chunks(path: Path, reader: "_Reader") -> Iterator[list[LogLine]]:
    # The newest file is opened first: what a rotation renames meanwhile is then read only once.
    newest = reader.inode()
    for older in _rotated(path):
        rotated = _Reader(older, moves=False)
        try:
            while rotated.inode() not in (0, newest) and (lines := rotated.read()):
                yield lines
        finally:
            rotated.close()
    while lines := reader.read():
        yield lines


def _rotated(path: Path) -> list[Path]:
    found = []
    for candidate in path.parent.glob(path.name + ".*"):
        suffix = candidate.name.rpartition(".")[2]
        if suffix.isdecimal():
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
    """Reads whole lines as they are appended; one that `moves` goes on in the file after it."""

    def __init__(self, path: Path, *, moves: bool = True) -> None:
        self._path = path
        self._moves = moves
        self._fd = -1
        self._rest = b""

    def inode(self) -> int:
        """Open the file and tell which it is; 0 where there is none."""
        return os.fstat(self._fd).st_ino if self._fd >= 0 or self._open() else 0

    def has_more(self) -> bool:
        """Tell whether a read may find something; costs no more than two stats."""
        if self._fd < 0:
            return self._path.exists()
        return os.fstat(self._fd).st_size > os.lseek(self._fd, 0, os.SEEK_CUR) or self._replaced()

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
            return self._moves and os.stat(self._path).st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False
