"""The cluster's events as this manager tells them: what is remembered, then what comes."""

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from operator import attrgetter
from typing import Final, NamedTuple

from manager.replica import Replica
from manager.store.apply import Applied, Key, Moved
from manager.store.events import KINDS, TASK, difference, events_of
from swarmapi.events import Event, EventBatch

REMEMBERED: Final = 1024
TASKS_REMEMBERED: Final = 2048
_QUEUE_LIMIT: Final = 4096


class _Change(NamedTuple):
    at: int
    """Raft index."""
    now_ns: int
    key: Key
    moved: Moved

    def event(self) -> Iterable[Event]:
        return events_of({self.key: self.moved}, self.now_ns)


class EventLog:
    """Remembers the last changes of the View; made before the log is started.

    A member that starts again tells what its log holds since the last snapshot. A listener that
    falls 4096 transactions behind is cut off; it may come back with the last index it saw.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._view = replica.view
        self._past: deque[_Change] = deque(maxlen=REMEMBERED)
        self._tasks: deque[_Change] = deque(maxlen=TASKS_REMEMBERED)
        self._queues: set[asyncio.Queue[list[_Change]]] = set()
        replica.subscribe(self._on_applied)
        replica.on_restore(self._on_restore)

    def _on_applied(self, applied: Applied) -> None:
        self._tell(applied.index, applied.changed)

    def _on_restore(self) -> None:
        """Tell what a snapshot changed; the first state of a member is no news."""
        before, self._view = self._view, self._replica.view
        if before.index:
            self._tell(self._view.index, difference(before, self._view))

    def _tell(self, index: int, changed: Mapping[Key, Moved]) -> None:
        now_ns = self._replica.view.now_ns
        told = []
        for key, moved in changed.items():
            if key[0] in KINDS or key[0] == TASK:
                told.append(_Change(index, now_ns, key, moved))
                (self._tasks if key[0] == TASK else self._past).append(told[-1])
        for queue in list(self._queues) if told else ():
            queue.put_nowait(told)
            if queue.qsize() > _QUEUE_LIMIT:
                self._queues.discard(queue)

    async def stream(
        self, *, since_ns: int | None = None, after: int = 0, tasks: bool = False
    ) -> AsyncGenerator[EventBatch, None]:
        """Yield what is remembered in one batch, then a batch for each transaction.

        Without `since_ns` (cluster time) and `after` (an index) nothing is remembered. Tasks are
        told of on request only.
        """
        queue: asyncio.Queue[list[_Change]] = asyncio.Queue()
        self._queues.add(queue)
        try:
            past: list[_Change] = []
            if since_ns is not None or after:
                known = heapq.merge(self._past, self._tasks if tasks else (), key=attrgetter("at"))
                past = [c for c in known if c.at > after and c.now_ns >= (since_ns or 0)]
            after = max(after, self._replica.view.index)  # a member that starts may be behind it
            yield EventBatch(after, tuple(event for one in past for event in one.event()))
            while queue in self._queues or not queue.empty():
                told = await queue.get()
                events = [
                    event
                    for one in told
                    if one.at > after and (tasks or one.key[0] != TASK)
                    for event in one.event()
                ]
                if events:
                    yield EventBatch(told[0].at, tuple(events))
        finally:
            self._queues.discard(queue)
