"""The last lines of tasks that ended, kept on every manager's disk: their node may go, or a leader.

The leader reads them as a client would, when it learns of the end, and hands them to the managers
that can be reached then. What is kept is bounded: of each task the last 64 KiB, together 64 MiB,
the oldest go first; a task's tail goes with its record.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from manager.logbroker.broker import LogBroker
from manager.logbroker.merge import Line
from manager.logbroker.subscription import Query, Selector
from manager.replica import Store
from manager.store.apply import Applied
from swarmapi.errors import InvalidArgument, SwarmError
from swarmapi.model.objects import Task, TaskState

log = logging.getLogger(__name__)
TAIL_BYTES: Final = 64 << 10
TOTAL_BYTES: Final = 64 << 20
MOST_WAITING: Final = 4096
_LINES: Final = (1024, TAIL_BYTES)
"""How many lines are asked for: usually the first is enough to fill the bytes."""


class Tails:
    """A file for each task; `total_bytes` is what the files may hold together."""

    def __init__(self, folder: Path, total_bytes: int = TOTAL_BYTES) -> None:
        self._folder = folder
        self._total_bytes = total_bytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        self._sizes = OrderedDict((path.name, path.stat().st_size) for path in found)
        self._held_bytes = sum(self._sizes.values())

    def keep(self, task_id: str, lines: Iterable[Line]) -> None:
        """Store a task's last lines, as many as `TAIL_BYTES` hold. Raises OSError: none is kept."""
        kept: deque[Line] = deque()
        size_bytes = 0
        for line in lines:
            kept.append(line)
            size_bytes += len(line.data)
            while size_bytes > TAIL_BYTES and len(kept) > 1:
                size_bytes -= len(kept.popleft().data)
        packed = msgspec.msgpack.encode([tuple(line) for line in kept])
        self.forget(task_id)
        path = self._path(task_id)
        try:
            path.write_bytes(packed)
        except OSError:
            path.unlink(missing_ok=True)  # a part of it would be kept for ever, and never counted
            raise
        self._sizes[task_id] = len(packed)
        self._held_bytes += len(packed)
        while self._held_bytes > self._total_bytes:
            self.forget(next(iter(self._sizes)))

    def take(self, task_id: str, packed: bytes) -> None:
        """Store what another manager kept.

        Raises:
            InvalidArgument: it is no tail.
        """
        try:
            self.keep(task_id, msgspec.msgpack.decode(packed, type=list[Line]))
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"the log of task {task_id} cannot be read: {error}") from error

    def packed(self, task_id: str) -> bytes:
        """Return a task's last lines as they are stored; empty where none are kept."""
        return self._path(task_id).read_bytes() if task_id in self._sizes else b""

    def read(self, task_id: str) -> list[Line]:
        """Return a task's last lines, none where none are kept; a torn file holds none."""
        try:
            packed = self.packed(task_id)
            return msgspec.msgpack.decode(packed, type=list[Line]) if packed else []
        except (OSError, msgspec.DecodeError) as error:
            log.warning("kept log of task %s: %s", task_id, error)
            return []

    def forget(self, task_id: str) -> None:
        """Drop a task's lines."""
        size_bytes = self._sizes.pop(task_id, None)
        if size_bytes is not None:
            self._held_bytes -= size_bytes
            self._path(task_id).unlink(missing_ok=True)

    def _path(self, task_id: str) -> Path:
        return self._folder / task_id


class TailKeeper:
    """While this manager leads, reads the last lines of every task that ends."""

    def __init__(
        self,
        store: Store,
        broker: LogBroker,
        tails: Tails,
        share: Callable[[str, bytes], Awaitable[None]],
    ) -> None:
        """Hand what was kept to `share`, packed: the other managers shall have it, too."""
        self._store = store
        self._share = share
        self._broker = broker
        self._tails = tails
        self._ended: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)
        store.replica.subscribe(self._on_applied)

    def _on_applied(self, applied: Applied) -> None:
        leads = self._store.log.status.is_leader
        for (kind, task_id), moved in applied.changed.items():
            if kind != "task":
                continue
            if moved.after is None:
                self._tails.forget(task_id)
            elif leads and _has_ended(moved.before, moved.after) and not self._ended.full():
                self._ended.put_nowait(task_id)

    async def run(self) -> None:
        """Keep one tail after the other, until cancelled."""
        while True:
            task_id = await self._ended.get()
            try:
                await self._keep(task_id)
            except (SwarmError, OSError) as error:
                log.info("last lines of task %s are not kept: %s", task_id, error)

    async def _keep(self, task_id: str) -> None:
        lines: list[Line] = []
        for count in _LINES:
            lines = []
            with self._broker.subscribe(Selector(task_id=task_id), Query(tail=count)) as reading:
                async for records in reading.records():
                    lines += [record.line for record in records]
            if reading.problems:
                return
            if len(lines) < count or sum(len(line.data) for line in lines) >= TAIL_BYTES:
                break
        if lines and task_id in self._store.view.tasks:
            self._tails.keep(task_id, lines)
            await self._share(task_id, self._tails.packed(task_id))


def _has_ended(before: object, after: object) -> bool:
    """Tell whether a task that had a container ended where its node can still be asked."""
    if not isinstance(after, Task) or not after.status.container_id:
        return False
    if not after.status.state.is_terminal or after.status.state == TaskState.ORPHANED:
        return False
    return not isinstance(before, Task) or not before.status.state.is_terminal
