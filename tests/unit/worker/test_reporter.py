"""Reports: the latest status of a task arrives at last, however often the manager is lost."""

import asyncio

from swarmapi.model.objects import TaskState, TaskStatus
from worker.agent.reporter import Reporter

_STARTING = TaskStatus(state=TaskState.STARTING)
_RUNNING = TaskStatus(state=TaskState.RUNNING)


async def _batches() -> None:
    reporter = Reporter()
    reporter.put("a", _STARTING)
    reporter.put("a", _RUNNING)
    reporter.put("b", _STARTING)
    assert await reporter.next_batch() == {"a": _RUNNING, "b": _STARTING}
    reporter.put("b", _RUNNING)
    assert await reporter.next_batch() == {"b": _RUNNING}


def test_only_the_latest_status_is_sent() -> None:
    asyncio.run(_batches())


async def _again() -> None:
    reporter = Reporter()
    reporter.put("a", _STARTING)
    await reporter.next_batch()
    reporter.put("b", _RUNNING)
    reporter.again({"a": _RUNNING, "b": _STARTING})
    assert await reporter.next_batch() == {"a": _RUNNING, "b": _RUNNING}


def test_b09_a_new_session_reports_everything_with_its_latest_status() -> None:
    asyncio.run(_again())
