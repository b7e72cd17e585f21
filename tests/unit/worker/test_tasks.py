"""Assigned tasks are driven to what is desired, survive a restart, and report what happened."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
from msgspec.structs import replace

from swarmapi.model.objects import SpecVersion, Task, TaskEndpointLease, TaskState, TaskStatus
from swarmapi.model.spec import ServiceSpec
from tests.fakes.executor import EagerClock, FakeExecutor
from worker.agent.tasks import Assigned, TaskTable
from worker.engine.journal import Journal
from worker.taskmachine import Standing

_SPEC = SpecVersion(service_id="s", version=1, spec=ServiceSpec(name="web"))


def _assigned(task_id: str, desired: TaskState = TaskState.RUNNING) -> Assigned:
    return Assigned(Task(id=task_id, service_id="s", spec_version=1, desired=desired), _SPEC)


class _Node:
    """A task table on a journal, with a queue of its reports."""

    def __init__(self, path: Path, executor: FakeExecutor, journal: Journal | None = None) -> None:
        self.executor = executor
        self.reports: asyncio.Queue[tuple[str, TaskStatus]] = asyncio.Queue()
        self.table = TaskTable(
            journal or Journal(path),
            executor,
            EagerClock(),
            lambda i, s: self.reports.put_nowait((i, s)),
        )
        self.table.open()

    async def until(self, task_id: str, state: TaskState) -> TaskStatus:
        """Wait for a report of that state."""
        async with asyncio.timeout(5):
            while True:
                reported, status = await self.reports.get()
                if reported == task_id and status.state == state:
                    return status


def _run(story: Callable[[Path], Coroutine[None, None, None]], path: Path) -> None:
    asyncio.run(story(path / "tasks"))


async def _drives(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    await node.table.change([_assigned("a")], [])
    running = await node.until("a", TaskState.RUNNING)
    assert running.container_id == "c-a"
    node.executor.end("a", 3)
    failed = await node.until("a", TaskState.FAILED)
    assert failed.exit_code == 3
    await node.table.close()


def test_a_task_runs_and_its_end_is_reported(tmp_path: Path) -> None:
    _run(_drives, tmp_path)


async def _proves(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    for name in ("well", "ill", "late"):
        node.executor.checked[name] = asyncio.get_running_loop().create_future()
        await node.table.change([_assigned(name)], [])
        while True:
            started = await node.until(name, TaskState.STARTING)
            if started.pid:
                break
    node.executor.checked["well"].set_result("")
    await node.until("well", TaskState.RUNNING)
    node.executor.checked["ill"].set_result("task: unhealthy container")
    assert (await node.until("ill", TaskState.FAILED)).error == "task: unhealthy container"
    # one that never becomes healthy can still be stopped
    await node.table.change([_assigned("late", TaskState.SHUTDOWN)], [])
    await node.until("late", TaskState.SHUTDOWN)
    await node.table.close()


def test_a_task_waits_for_its_health_check(tmp_path: Path) -> None:
    _run(_proves, tmp_path)


async def _stands(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    await node.table.change([_assigned("a")], [])
    await node.until("a", TaskState.RUNNING)
    await node.executor.awaited("a")
    node.executor.tells["a"](Standing(ready=False, message="not ready: no"))
    node.executor.tells["a"](Standing(ready=False, message="not ready: no"))
    node.executor.tells["a"](Standing())
    told = [await node.until("a", TaskState.RUNNING) for _ in range(2)]
    assert [(s.ready, s.message) for s in told] == [(False, "not ready: no"), (True, "started")]
    node.executor.tells["a"](Standing(ready=False, ending=True, message="unhealthy"))
    assert (await node.until("a", TaskState.RUNNING)).ending
    let_go = replace(_assigned("a").task, endpoint=TaskEndpointLease(drained=True))
    await node.table.change([Assigned(let_go, _SPEC)], [])
    waited_for = await node.executor.awaited("a")
    assert (waited_for.endpoint.drained, waited_for.status.ending) == (True, True)
    await node.table.close()


def test_what_a_running_task_is_worth_is_told_once(tmp_path: Path) -> None:
    _run(_stands, tmp_path)


async def _parks(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    await node.table.change([_assigned("a", TaskState.READY)], [])
    await node.until("a", TaskState.READY)
    assert ("start", "a") not in node.executor.calls
    await node.table.change([_assigned("a", TaskState.RUNNING)], [])
    await node.until("a", TaskState.RUNNING)
    await node.table.change([_assigned("a", TaskState.READY)], [])
    await node.table.change([_assigned("a", TaskState.SHUTDOWN)], [])
    await node.until("a", TaskState.SHUTDOWN)
    await node.table.close()


def test_b03_a_parked_task_starts_when_allowed_and_stops_when_asked(tmp_path: Path) -> None:
    _run(_parks, tmp_path)


async def _rejects(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    node.executor.fail["prepare"] = "No such image: x"
    await node.table.change([_assigned("a")], [])
    rejected = await node.until("a", TaskState.REJECTED)
    assert rejected.error == "No such image: x"
    await node.table.close()


def test_b04_what_cannot_be_prepared_is_rejected(tmp_path: Path) -> None:
    _run(_rejects, tmp_path)


async def _gives_up(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    for name in ("moved", "stopped", "removed"):
        node.executor.pulling[name] = asyncio.Event()
        await node.table.change([_assigned(name, TaskState.READY)], [])
        while (await node.until(name, TaskState.PREPARING)).message != "pulling":
            pass
    await node.table.change([_assigned("moved", TaskState.RUNNING)], [])
    await node.table.change([_assigned("stopped", TaskState.SHUTDOWN)], ["removed"])
    assert (await node.until("stopped", TaskState.SHUTDOWN)).container_id == ""
    await node.executor.removed("removed")
    assert set(node.executor.containers) == set()
    node.executor.pulling["moved"].set()
    running = await node.until("moved", TaskState.RUNNING)
    assert running.message == "started"
    assert node.executor.calls.count(("prepare", "moved")) == 1
    await node.table.close()


def test_a_pull_is_told_and_given_up_when_its_task_shall_end(tmp_path: Path) -> None:
    _run(_gives_up, tmp_path)


async def _restarts(path: Path) -> None:
    executor = FakeExecutor()
    first = _Node(path, executor)
    await first.table.change([_assigned("a")], [])
    await first.until("a", TaskState.RUNNING)
    await first.table.close()
    assert ("shut down", "a") not in executor.calls

    second = _Node(path, executor)
    known = second.table.state_of("a")
    assert known is not None
    assert known.state == TaskState.RUNNING
    executor.end("a", 0)
    await second.until("a", TaskState.COMPLETE)
    assert executor.calls.count(("start", "a")) == 1
    await second.table.close()


def test_b06_a_restarted_agent_goes_on_without_a_manager(tmp_path: Path) -> None:
    _run(_restarts, tmp_path)


async def _removes_strangers(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    await node.table.change([_assigned("a"), _assigned("b")], [])
    await node.until("b", TaskState.RUNNING)
    await node.table.assign_all([_assigned("a")])
    assert set(node.table.statuses()) == {"a"}
    await node.executor.removed("b")
    assert ("shut down", "b") in node.executor.calls
    assert list(node.executor.containers) == ["a"]
    assert set(node.table.statuses()) == {"a"}
    await node.table.close()


def test_b07_a_complete_set_removes_strangers(tmp_path: Path) -> None:
    _run(_removes_strangers, tmp_path)


async def _keeps_its_own_status(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    await node.table.change([_assigned("a")], [])
    await node.until("a", TaskState.RUNNING)
    task, spec = _assigned("a")
    stale = msgspec.structs.replace(task, status=TaskStatus(state=TaskState.ACCEPTED))
    await node.table.change([Assigned(stale, spec)], [])
    known = node.table.state_of("a")
    assert known is not None
    assert known.state == TaskState.RUNNING
    await node.table.close()


def test_b08_the_local_status_is_authoritative(tmp_path: Path) -> None:
    _run(_keeps_its_own_status, tmp_path)


async def _stops_in_the_end(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    await node.table.change([_assigned("a")], [])
    await node.until("a", TaskState.RUNNING)
    node.executor.fail["shut down"] = "the supervisor is away"
    await node.table.change([_assigned("a", TaskState.SHUTDOWN)], [])
    told = await node.until("a", TaskState.RUNNING)
    assert told.error == "the supervisor is away"
    stopped = await node.until("a", TaskState.SHUTDOWN)
    assert not stopped.error
    assert node.executor.calls.count(("shut down", "a")) == 2
    await node.table.close()


def test_a_task_that_could_not_be_stopped_still_runs_and_is_tried_again(tmp_path: Path) -> None:
    _run(_stops_in_the_end, tmp_path)


async def _waits_again(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    node.executor.fail["wait"] = "connection reset"
    await node.table.change([_assigned("a")], [])
    await node.until("a", TaskState.RUNNING)
    node.executor.end("a", 0)
    ended = await node.until("a", TaskState.COMPLETE)
    assert not ended.error
    await node.table.close()


def test_a_lost_supervisor_is_not_the_end_of_a_task(tmp_path: Path) -> None:
    _run(_waits_again, tmp_path)


async def _goes_on_after_a_full_disk(path: Path) -> None:
    journal = Journal(path)
    node = _Node(path, FakeExecutor(), journal)
    commit, full = journal.commit, [OSError(28, "No space left on device")] * 3

    async def commit_or_fail() -> None:
        if full:
            raise full.pop()
        await commit()

    await node.table.change([_assigned("a")], [])
    setattr(journal, "commit", commit_or_fail)  # noqa: B010 - mypy knows it as a method
    await node.table.change([_assigned("b")], [])
    await node.until("b", TaskState.RUNNING)
    assert not full
    await node.table.close()
    again = _Node(path, node.executor)
    assert set(again.table.statuses()) == {"a", "b"}
    await again.table.close()


def test_a_full_disk_does_not_end_the_care_for_a_task(tmp_path: Path) -> None:
    _run(_goes_on_after_a_full_disk, tmp_path)


async def _knows_what_has_ended(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    task, spec = _assigned("a")
    failed = msgspec.structs.replace(task, status=TaskStatus(state=TaskState.FAILED))
    await node.table.change([Assigned(failed, spec), _assigned("b")], [])
    await node.until("b", TaskState.RUNNING)
    assert not [call for call in node.executor.calls if call[1] == "a"]
    await node.table.close()


def test_a_node_without_memory_does_not_run_an_ended_task_again(tmp_path: Path) -> None:
    _run(_knows_what_has_ended, tmp_path)


async def _ends_beside_others(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    await node.table.change([_assigned("slow")], [])
    await node.until("slow", TaskState.RUNNING)
    grace = node.executor.stopping["slow"] = asyncio.Event()
    async with asyncio.timeout(5):
        await node.table.change([], ["slow"])
        await node.table.change([_assigned("next")], ["slow"])
        await node.until("next", TaskState.RUNNING)
    assert "slow" in node.executor.containers
    assert "slow" not in node.table.statuses()
    # one that comes back waits until its container of before is gone
    await node.table.change([_assigned("slow")], [])
    grace.set()
    await node.until("slow", TaskState.RUNNING)
    calls = [name for name, task_id in node.executor.calls if task_id == "slow"]
    assert calls == ["prepare", "start", "shut down", "remove", "prepare", "start"]
    await node.table.close()
    again = _Node(path, node.executor)
    assert set(again.table.statuses()) == {"slow", "next"}
    await again.table.close()


def test_a_removed_task_takes_its_grace_without_holding_up_others(tmp_path: Path) -> None:
    _run(_ends_beside_others, tmp_path)


async def _removes_in_the_end(path: Path) -> None:
    node = _Node(path, FakeExecutor())
    await node.table.change([_assigned("a")], [])
    await node.until("a", TaskState.RUNNING)
    node.executor.fail["remove"] = "the supervisor is away"
    await node.table.change([], ["a"])
    await node.executor.removed("a")
    assert node.executor.calls.count(("remove", "a")) == 2
    await node.table.close()


def test_a_removal_that_failed_is_tried_again(tmp_path: Path) -> None:
    _run(_removes_in_the_end, tmp_path)
