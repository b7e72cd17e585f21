"""Reports of tasks, gathered from all sessions and stored in few transactions."""

import asyncio
import logging

from msgspec.structs import replace

from manager.replica import Store
from manager.store.changes import SetTaskStatus
from manager.store.effects import says_nothing_new
from swarmapi.errors import Forbidden, Internal, InvalidArgument, SwarmError
from swarmapi.model.objects import TaskState, TaskStatus

log = logging.getLogger(__name__)
FLUSH_AFTER_S = 0.01
LARGEST_BATCH = 200
LONGEST_TEXT = 1000
"""Of a message or an error; a batch of the longest still fits one transaction."""
_MANAGERS_STATES = (TaskState.REMOVE, TaskState.ORPHANED)


class ReportBatcher:
    """Keeps the latest report of each task until one transaction stores them all."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, TaskStatus] = {}
        self._stored: dict[str, asyncio.Future[None]] = {}
        self._flusher: asyncio.Task[None] | None = None

    def check(self, node_id: str, task_id: str, status: TaskStatus) -> None:
        """Refuse what this node's agent may not say.

        Raises:
            Forbidden: the task is another node's.
            InvalidArgument: the state is not an agent's to report.
        """
        task = self._store.view.tasks.get(task_id)
        if task is not None and task.node_id != node_id:
            raise Forbidden(f"task {task_id} is not on node {node_id}")
        if status.state in _MANAGERS_STATES:
            raise InvalidArgument(f"task {task_id}: {status.state.name} is no agent's report")

    async def store(self, reports: dict[str, TaskStatus]) -> list[str]:
        """Store reports; return the ids once they are committed, or not worth storing.

        Raises:
            SwarmError: when they could not be committed.
        """
        waits = []
        for task_id, reported in reports.items():
            status = _clipped(reported)
            task = self._store.view.tasks.get(task_id)
            if task is None or status.state < max(task.status.state, TaskState.ACCEPTED):
                continue
            before = self._waiting.get(task_id)
            if before is None and says_nothing_new(task.status, status):
                continue  # all that a node reports again in a new session
            if before is None or status.state >= before.state:
                self._waiting[task_id] = status
            if task_id not in self._stored:
                self._stored[task_id] = asyncio.get_running_loop().create_future()
            waits.append(self._stored[task_id])
        if waits:
            if self._flusher is None or self._flusher.done():
                self._flusher = asyncio.create_task(self._flush())
            # Not gather: a session that ends must not cancel what a newer one waits for.
            done, _ = await asyncio.wait(waits)
            for future in done:
                future.result()
        return list(reports)

    async def _flush(self) -> None:
        while self._waiting:
            await asyncio.sleep(FLUSH_AFTER_S)
            ids = list(self._waiting)[:LARGEST_BATCH]
            batch = {i: self._waiting.pop(i) for i in ids}
            futures = [self._stored.pop(i) for i in ids]
            try:
                await self._store.propose(
                    SetTaskStatus(task_id=i, status=s, reason="reported") for i, s in batch.items()
                )
            except Exception as error:
                if not isinstance(error, SwarmError):
                    log.exception("%d reports not stored", len(batch))
                    error = Internal(f"reports not stored: {type(error).__name__}: {error}")
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # its session may have ended: then nobody looks
                continue
            for future in futures:
                if not future.done():
                    future.set_result(None)


def _clipped(status: TaskStatus) -> TaskStatus:
    if max(len(status.message), len(status.error)) <= LONGEST_TEXT:
        return status
    return replace(status, message=status.message[:LONGEST_TEXT], error=status.error[:LONGEST_TEXT])
