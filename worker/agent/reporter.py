"""Reports to the leader: only the latest status of a task, all of them in each new session."""

import asyncio

from swarmapi.model.objects import TaskStatus


class Reporter:
    """The statuses that wait to be sent.

    `put` never blocks. A session takes batches with `next_batch`, and a new one begins with
    `again`, so nothing is lost with a connection. The leader ends a session whose reports it
    cannot store.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, TaskStatus] = {}
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
        return batch

    def again(self, statuses: dict[str, TaskStatus]) -> None:
        """Report everything anew, as at the start of a session."""
        self._waiting = {**statuses, **self._waiting}
        if self._waiting:
            self._some.set()
