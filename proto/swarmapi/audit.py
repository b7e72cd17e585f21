"""The audit log: one line of JSON for each call that asks for more than a viewer, or was refused.

It holds who called what and how it ended, never what a body, a query or a header said. Files are
rotated by size: `engine.log`, then `engine.log.1`, the one before. Each has one writer.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from swarmapi.ratelimit import MOST, PER_S

_CALLERS_MAX: Final = 256
log = logging.getLogger(__name__)
MOST_BYTES: Final = 8 << 20
KEPT: Final = 4
"""Earlier files that are kept beside the one that is written."""
BEGUN, DONE, REFUSED, FAILED = "begun", "done", "refused", "failed"


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One call. `time_ns` orders entries; `request_id` is the same on engine and manager."""

    time_ns: int = 0
    time: str = ""
    source: str = ""
    """engine or manager: who answered."""
    node: str = ""
    by: str = ""
    """socket, certificate, token, or node: the daemon itself; empty: nobody was found out."""
    who: str = ""
    role: str = ""
    uid: int = -1
    pid: int = 0
    peer: str = ""
    """Address and port of a TCP client."""
    via: str = ""
    """Id of the manager that passed it on."""
    method: str
    path: str
    object: str = ""
    object_id: str = ""
    outcome: str = DONE
    status: int = 0
    request_id: str = ""
    more: int = 0
    """So many more refusals of the same caller, with this one, had no line of their own."""


class _Span:
    """What one caller was refused since `began_s`; `last` is of those held back."""

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.count = 0
        self.last: Entry | None = None


def outcome_of(status: int) -> str:
    """Return how an answer with a status ended."""
    if status in (401, 403):
        return REFUSED
    return FAILED if status >= 400 else DONE


class Refusals:
    """Holds back a caller's refusals beyond so many in a span of time; their number is told.

    Whoever is refused could else turn the log over, and with it what others did.
    """

    def __init__(self, most: int = MOST, per_s: float = PER_S) -> None:
        self._most, self._per_s = most, per_s
        self._seen: dict[str, _Span] = {}

    def take(self, caller: str, entry: Entry, now_s: float) -> list[Entry]:
        """Return what is to be written now that `caller` was refused again."""
        span = self._seen.get(caller)
        told: list[Entry] = []
        if span is None or now_s - span.began_s >= self._per_s:
            told = self.end(now_s)
            if len(self._seen) >= _CALLERS_MAX:
                told += self.end()
            span = self._seen[caller] = _Span(now_s)
        span.count += 1
        if span.count <= self._most:
            return [*told, entry]
        span.last = entry
        return told

    def end(self, now_s: float | None = None) -> list[Entry]:
        """Forget the spans that are over, or all; return one entry for what each held back."""
        over = [
            caller
            for caller, span in self._seen.items()
            if now_s is None or now_s - span.began_s >= self._per_s
        ]
        spans = [self._seen.pop(caller) for caller in over]
        return [
            msgspec.structs.replace(span.last, more=span.count - self._most)
            for span in spans
            if span.last is not None
        ]

    @property
    def holds(self) -> bool:
        """Tell whether anything was held back that is to be told."""
        return any(span.last is not None for span in self._seen.values())


class AuditLog:
    """Appends entries to a file and rotates it. A full disk is told of in the daemon's log."""

    def __init__(
        self, path: Path, source: str, *, most_bytes: int = MOST_BYTES, kept: int = KEPT
    ) -> None:
        self._path, self._source = path, source
        self._most_bytes, self._kept = most_bytes, kept
        self._fd = -1
        self._size = 0

    def write(self, entry: Entry) -> None:
        """Append an entry, with the present time."""
        now_ns = time.time_ns()
        whole = msgspec.structs.replace(
            entry, time_ns=now_ns, time=_rfc3339(now_ns), source=self._source
        )
        line = msgspec.json.encode(whole) + b"\n"
        try:
            if self._fd < 0 or self._size + len(line) > self._most_bytes:
                self._turn()
            self._size += os.write(self._fd, line)
        except OSError as error:
            log.error("audit log %s: %s", self._path, error)

    def _turn(self) -> None:
        """Open the file, behind what it holds where that is little enough."""
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._path.exists() and self._path.stat().st_size >= self._most_bytes // 2:
            for number in range(self._kept, 0, -1):
                older = _numbered(self._path, number - 1)
                if older.exists():
                    os.replace(older, _numbered(self._path, number))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class AuditReader:
    """Reads one log, the earlier files first, and goes on where it stopped."""

    def __init__(self, path: Path, kept: int = KEPT) -> None:
        self._path, self._kept = path, kept
        self._seen: dict[int, int] = {}
        """How much was read of each file, by inode: a file keeps its own when it is renamed."""

    def entries(self) -> Iterator[Entry]:
        """Yield what was written since the last call, in order; torn lines are left out."""
        for number in range(self._kept, -1, -1):
            try:
                with _numbered(self._path, number).open("rb") as file:
                    about = os.fstat(file.fileno())
                    inode = about.st_ino
                    if about.st_size < self._seen.get(inode, 0):
                        del self._seen[inode]  # a new file in the place of one that went
                    file.seek(self._seen.get(inode, 0))
                    for line in file:
                        if not line.endswith(b"\n"):
                            break
                        self._seen[inode] = self._seen.get(inode, 0) + len(line)
                        try:
                            yield msgspec.json.decode(line, type=Entry)
                        except msgspec.DecodeError:
                            continue
            except FileNotFoundError:
                continue


FILTERS: Final = (
    "source", "node", "by", "who", "role", "method", "path", "object", "outcome", "request",
)  # fmt: skip


def matches(entry: Entry, filters: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether an entry has, for every filter, one of the values; a path may be a beginning."""
    for key, values in filters.items():
        match key:
            case "path":
                fits = entry.path.startswith(tuple(values))
            case "object":
                fits = entry.object in values or entry.object_id in values
            case "request":
                fits = entry.request_id in values
            case _:
                fits = str(getattr(entry, key)) in values
        if not fits:
            return False
    return True


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _rfc3339(time_ns: int) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time_ns // 10**9))
    return f"{seconds}.{time_ns % 10**9:09d}Z"
