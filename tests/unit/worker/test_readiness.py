"""Readiness told once for every change, after enough failures in a row."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmapi.model.readiness import Readiness
from tests.unit.worker.test_engine import World, play
from worker import readiness
from worker.engine.spec import ContainerConfig, ContainerCreate
from worker.taskmachine import Standing

CHECK = Readiness(("ask",), interval_s=7.0, retries=2)


class Asked:
    """Answers as it was told to, and remembers the pauses."""

    def __init__(self, answers: str) -> None:
        self._answers: Iterator[str] = iter(answers)
        self.pauses: list[float] = []

    async def ask(self) -> str:
        answer = next(self._answers, None)
        if answer is None:
            raise asyncio.CancelledError
        return "" if answer == "+" else answer

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def told(answers: str) -> list[Standing]:
    found, asked = list[Standing](), Asked(answers)

    async def story() -> None:
        try:
            await readiness.follow(asked.ask, CHECK, asked.pause, found.append)
        except asyncio.CancelledError:
            return

    asyncio.run(story())
    assert set(asked.pauses) == {7.0}
    return found


def test_a_change_is_told_once() -> None:
    unready = Standing(ready=False, message="not ready: b")
    assert told("++ab") == [Standing(), unready]
    assert told("a+b+") == [Standing()]
    assert told("abcd++ab") == [unready, Standing(), unready]


def test_the_first_success_is_asked_for_often() -> None:
    asked = Asked("ab+")
    asyncio.run(readiness.until_ready(asked.ask, CHECK, asked.pause))
    assert asked.pauses == [readiness.FIRST_INTERVAL_S] * 2


@pytest.mark.parametrize("timeout_s", [0.01, 60.0])
def test_a_check_given_up_while_it_starts_leaves_no_process(
    tmp_path: Path, timeout_s: float
) -> None:
    async def story(world: World) -> None:
        made = ContainerCreate(config=ContainerConfig(image="img:1"))
        container_id = await world.engine.create(made)
        await world.engine.start(container_id)
        world.supervisor.exec_gate = gate = asyncio.Event()
        check = Readiness(("ask",), timeout_s=timeout_s)
        asking = asyncio.ensure_future(readiness.ask(world.engine, container_id, check))
        await world.supervisor.exec_asked.wait()
        if timeout_s > 1:
            asking.cancel()
        else:
            await asyncio.sleep(2 * timeout_s)
        gate.set()
        await asyncio.wait([asking], timeout=5)
        assert world.supervisor.execs[0].ended.is_set()
        if timeout_s > 1:
            assert asking.cancelled()
        else:
            assert asking.result() == "no answer within 0.01s"

    play(tmp_path, story)


def test_nothing_is_started_in_a_paused_container(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        made = ContainerCreate(config=ContainerConfig(image="img:1"))
        container_id = await world.engine.create(made)
        await world.engine.start(container_id)
        await world.engine.pause(container_id)
        world.supervisor.exec_gate = asyncio.Event()
        told = await readiness.ask(world.engine, container_id, CHECK)
        assert told == "the container is paused"
        assert not world.supervisor.exec_asked.is_set()

    play(tmp_path, story)
