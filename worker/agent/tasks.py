"""The assigned tasks: what is stored of them, and one driver for each.

A task is written before anything is done for it, so a restarted `swarmd` takes its tasks up with
the status it had, without a manager.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from swarmapi.model.objects import SpecVersion, Task, TaskState, TaskStatus
from worker import taskmachine
from worker.agent.ports import Clock, Executor
from worker.engine.journal import Journal
from worker.taskmachine import Outcome, Plan, Standing, Step

logger = logging.getLogger(__name__)
RETRY_S = 1.0
"""Between tries of an operation that must succeed in the end."""


class Assigned(NamedTuple):
    """A task and the spec version it runs."""

    task: Task
    spec: SpecVersion


class _Stored(msgspec.Struct):
    task: Task
    spec: SpecVersion
    status: TaskStatus


class _Driver:
    """One task being driven: `operation` is what runs for it just now."""

    def __init__(self, assigned: Assigned, status: TaskStatus) -> None:
        self.assigned = assigned
        self.status = status
        self.changed = asyncio.Event()
        self.loop: asyncio.Task[None] | None = None


class TaskTable:
    """All tasks of this node; `report` is called with every new status."""

    def __init__(
        self,
        journal: Journal,
        executor: Executor,
        clock: Clock,
        report: Callable[[str, TaskStatus], None],
    ) -> None:
        self._journal = journal
        self._executor = executor
        self._clock = clock
        self._report = report
        self._drivers: dict[str, _Driver] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        """The tasks that were removed and whose containers are not gone yet."""

    def open(self) -> None:
        """Read the journal and go on with every task in it."""
        self._journal.open()
        for raw in self._journal.values():
            stored = msgspec.msgpack.decode(raw, type=_Stored)
            self._drive(Assigned(stored.task, stored.spec), stored.status)

    async def close(self) -> None:
        """Let go of the tasks; their containers go on running."""
        loops = [d.loop for d in self._drivers.values() if d.loop is not None]
        loops += self._leaving.values()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        self._journal.close()

    def statuses(self) -> dict[str, TaskStatus]:
        """Return what is known of every task: all of it is reported in a new session."""
        return {task_id: d.status for task_id, d in self._drivers.items()}

    def state_of(self, task_id: str) -> TaskStatus | None:
        """Return the status of one task, None when it is not here."""
        driver = self._drivers.get(task_id)
        return driver.status if driver else None

    async def assign_all(self, assigned: Iterable[Assigned]) -> None:
        """Take a COMPLETE set: tasks that are not in it are stopped and forgotten."""
        wanted = {a.task.id: a for a in assigned}
        strangers = set(await self._executor.known_tasks()) | set(self._drivers)
        await self.change(wanted.values(), strangers - wanted.keys())

    async def change(self, assigned: Iterable[Assigned], removed: Iterable[str]) -> None:
        """Take an INCREMENTAL set; durable before anything is done."""
        fresh = []
        for one in assigned:
            # What the node itself observed wins over the manager's copy, which is older.
            driver = self._drivers.get(one.task.id)
            if driver is None:
                fresh.append(one)
                self._store(one, _first_status(one.task))
            elif one.task.desired >= driver.assigned.task.desired:
                driver.assigned = one
                self._store(one, driver.status)
                driver.changed.set()
        await self._commit()
        for one in fresh:
            self._drive(one, _first_status(one.task))
        for task_id in removed:
            self._forget(task_id)

    def _store(self, assigned: Assigned, status: TaskStatus) -> None:
        stored = _Stored(assigned.task, assigned.spec, status)
        self._journal.put(assigned.task.id, msgspec.msgpack.encode(stored))

    def _drive(self, assigned: Assigned, status: TaskStatus) -> None:
        driver = _Driver(assigned, status)
        self._drivers[assigned.task.id] = driver
        driver.loop = asyncio.create_task(self._run(driver), name=f"task {assigned.task.id}")

    def _forget(self, task_id: str) -> None:
        """Begin to end a task; its grace period is nobody else's."""
        if task_id not in self._leaving:
            driver = self._drivers.pop(task_id, None)
            leaving = asyncio.create_task(self._leave(task_id, driver), name=f"end of {task_id}")
            self._leaving[task_id] = leaving
            leaving.add_done_callback(lambda _: self._leaving.pop(task_id))

    async def _leave(self, task_id: str, driver: _Driver | None) -> None:
        if driver is not None and driver.loop is not None:
            driver.loop.cancel()
            await asyncio.wait([driver.loop])
        while True:
            try:
                if driver is not None and not driver.status.state.is_terminal:
                    await self._executor.shut_down(driver.assigned.task, driver.assigned.spec)
                await self._executor.remove(task_id)
                break
            except Exception:
                logger.exception("task %s: its removal failed", task_id)
            await self._clock.sleep(RETRY_S)
        if task_id not in self._drivers:  # it was not assigned again meanwhile
            self._journal.delete(task_id)
            await self._commit()

    async def _commit(self) -> None:
        """Make durable what the node was told or saw.

        A full disk does not stop it: it costs what a manager will tell again. A container that
        needs the disk is refused by the engine, and the task rejected in its words.
        """
        try:
            await self._journal.commit()
        except OSError as error:
            logger.error("tasks: the disk is behind what happened: %s", error)

    async def _run(self, driver: _Driver) -> None:
        if (leaving := self._leaving.get(driver.assigned.task.id)) is not None:
            await asyncio.wait([leaving])
        while not driver.status.state.is_terminal:
            driver.changed.clear()
            task = driver.assigned.task
            status = driver.status
            plan = taskmachine.next_step(task.desired, status.state, started=bool(status.pid))
            if plan.step == Step.NOTHING:
                await driver.changed.wait()
                continue
            try:
                moved = await self._advance(driver, plan)
            except Exception:
                logger.exception("task %s: %s failed", task.id, plan.step)
                moved = False
            if not moved:
                await self._clock.sleep(RETRY_S)

    async def _advance(self, driver: _Driver, plan: Plan) -> bool:
        """Do one operation and make its result known; False when it must be tried again."""
        try:
            outcome = await self._perform(driver, plan)
        except Exception as error:
            if plan.step in (Step.WAIT, Step.SHUT_DOWN):
                raise  # the container may well be running: its end is not known
            logger.exception("task %s: %s failed", driver.assigned.task.id, plan.step)
            outcome = Outcome(error=f"internal error: {type(error).__name__}: {error}")
        if outcome is None:
            return True  # the assignment changed meanwhile: look again
        before = driver.status
        status = taskmachine.after(plan, before, outcome, self._clock.now_ns())
        if replace(status, timestamp_ns=before.timestamp_ns) != before:
            self._store(driver.assigned, status)
            await self._commit()
            driver.status = status
            self._report(driver.assigned.task.id, status)
        return status.state > before.state or not outcome.error

    async def _perform(self, driver: _Driver, plan: Plan) -> Outcome | None:
        """Do one operation; None when a changed assignment made it pointless.

        Waiting is given up for any change, preparing (perhaps a long pull) when the task shall
        end. A start ends by itself.
        """
        operation = asyncio.ensure_future(self._operation(driver, plan))
        change = asyncio.ensure_future(self._pointless(driver, plan))
        try:
            await asyncio.wait({operation, change}, return_when=asyncio.FIRST_COMPLETED)
            return operation.result() if operation.done() else None
        finally:
            operation.cancel()
            change.cancel()
            await asyncio.gather(operation, change, return_exceptions=True)

    async def _pointless(self, driver: _Driver, plan: Plan) -> None:
        """Return once a change of the assignment has made an operation pointless."""
        if plan.step not in (Step.WAIT, Step.AWAIT_HEALTH, Step.PREPARE):
            await asyncio.Future()
        await driver.changed.wait()
        while plan.step == Step.PREPARE and driver.assigned.task.desired < TaskState.SHUTDOWN:
            driver.changed.clear()
            await driver.changed.wait()

    def _say(self, driver: _Driver, message: str) -> None:
        """Report what a task's preparation is at; a restart begins it anew, so nothing is kept."""
        driver.status = replace(driver.status, message=message, timestamp_ns=self._clock.now_ns())
        self._report(driver.assigned.task.id, driver.status)

    def _take_standing(self, driver: _Driver, standing: Standing) -> None:
        """Report what a running task is worth; durable with the next commit, else told anew."""
        before = driver.status
        status = replace(
            before, ready=standing.ready, ending=standing.ending, message=standing.message
        )
        if status != before and before.state == TaskState.RUNNING:
            driver.status = replace(status, timestamp_ns=self._clock.now_ns())
            self._store(driver.assigned, driver.status)
            self._report(driver.assigned.task.id, driver.status)

    async def _operation(self, driver: _Driver, plan: Plan) -> Outcome:
        task, spec = driver.assigned
        if plan.step == Step.PREPARE:
            return await self._executor.prepare(task, spec, partial(self._say, driver))
        if plan.step == Step.START:
            return await self._executor.start(task, spec)
        if plan.step == Step.AWAIT_HEALTH:
            return await self._executor.await_health(task, spec)
        if plan.step == Step.WAIT:
            if driver.status.ending:  # a restart, or leave to stop it, came in between
                task = replace(task, status=driver.status)
            return await self._executor.wait(task, spec, partial(self._take_standing, driver))
        if plan.step == Step.SHUT_DOWN:
            return await self._executor.shut_down(task, spec)
        return Outcome()


def _first_status(task: Task) -> TaskStatus:
    """Return where a task that is new here begins; one known to have ended is not run again."""
    return task.status if task.status.state.is_terminal else TaskStatus(state=TaskState.ASSIGNED)
