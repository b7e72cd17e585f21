"""Reports to the leader: only the latest status of a task, repeated until it is stored."""

import asyncio

from swarmapi.model.objects import TaskStatus


class Reporter:
    """The statuses that the leader has not confirmed yet.

    `put` never blocks. A session takes batches with `next_batch`, confirms with `stored`, and a
    new session begins with `again`, so nothing is lost with a connection.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, TaskStatus] = {}
        self._sent: dict[str, TaskStatus] = {}
        self._some = asyncio.Event()

    def put(self, task_id: str, status: TaskStatus) -> None:
        """Take a status, in place of an older one of the same task."""
        self._waiting[task_id] = status
        self._some.set()

    async def next_batch(self) -> dict[str, TaskStatus]:
        """Wait for something to report and return all of it."""
        await self._some.wait()
        batch, self._waiting = self._waiting, {}
        self._some.clear()
        self._sent.update(batch)
        return batch

    def stored(self, task_id: str, status: TaskStatus) -> None:
        """Forget a report that is on disk on a majority, unless a newer one was sent."""
        if self._sent.get(task_id) == status:
            del self._sent[task_id]

    def again(self, statuses: dict[str, TaskStatus]) -> None:
        """Report everything anew, as at the start of a session."""
        self._sent.clear()
        self._waiting = {**statuses, **self._waiting}
        if self._waiting:
            self._some.set()

    @property
    def unconfirmed(self) -> int:
        """How many tasks' latest status is not confirmed."""
        return len(self._waiting.keys() | self._sent.keys())
