"""Readiness told once for every change, after enough failures in a row."""

import asyncio
from collections.abc import Iterator

from swarmapi.model.readiness import Readiness
from worker import readiness
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
