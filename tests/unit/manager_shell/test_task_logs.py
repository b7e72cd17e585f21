"""Logs from a real agent through a real manager to a client of its API; containers are fakes."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from manager.bootstrap import prepare_first
from manager.config import InitConfig
from tests.fakes.executor import FakeExecutor
from tests.unit.manager_shell.test_real_agent import Tables, agent_of
from tests.unit.manager_shell.test_three_managers import Place
from worker.engine.logs import LogLine

HEADER = 8
BOTH = "stdout=1&stderr=1"


def line(second: int, data: str, stream: int = 1, **attributes: str) -> LogLine:
    return LogLine(stream, data.encode(), f"2026-01-01T00:00:{second:02}.000000001Z", attributes)


class World:
    """One manager with one node, whose service `web` has running tasks."""

    def __init__(
        self,
        place: Place,
        executor: FakeExecutor,
        session: aiohttp.ClientSession,
        agent: "asyncio.Task[None]",
    ) -> None:
        self.place = place
        self.executor = executor
        self.session = session
        self.agent = agent
        self.tasks: list[str] = []
        self.node_id = place.node_id

    async def run(self, replicas: int) -> None:
        spec = {
            "Name": "web",
            "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}},
            "Mode": {"Replicated": {"Replicas": replicas}},
        }
        if self.tasks:
            _, service = await self.place.rest("GET", "/services/web")
            path = f"/services/web/update?version={service['Version']['Index']}"
            assert (await self.place.rest("POST", path, spec))[0] == 200
        else:
            assert (await self.place.rest("POST", "/services/create", spec))[0] == 201
        listed = await self.place.until(
            "/tasks",
            lambda body: [t["Status"]["State"] for t in body] == ["running"] * replicas,
        )
        for task in sorted(listed, key=lambda t: str(t["ID"])):
            if task["ID"] not in self.tasks:
                self.tasks.append(task["ID"])

    async def frames(self, path: str) -> list[tuple[int, str]]:
        async with self.session.get(path) as answer:
            assert answer.status == 200
            assert answer.content_type == "application/vnd.docker.multiplexed-stream"
            raw = await answer.read()
        found = []
        while raw:
            end = HEADER + int.from_bytes(raw[4:HEADER], "big")
            found.append((raw[0], raw[HEADER:end].decode()))
            raw = raw[end:]
        return found


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    place = Place(tmp_path / "m")
    prepare_first(InitConfig(place.paths, place.address, ("10.0.0.0/8",), 24), os.urandom)
    await place.start()
    executor = FakeExecutor()
    agent, tasks = agent_of(place.tls, place.address, executor, Tables(), tmp_path / "journal")
    await place.until("/swarm", lambda body: "JoinTokens" in body)
    running = asyncio.create_task(agent.run())
    connector = aiohttp.UnixConnector(str(place.paths.socket))
    session = aiohttp.ClientSession("http://manager", connector=connector)
    try:
        yield World(place, executor, session, running)
    finally:
        await session.close()
        while not running.done():
            running.cancel()
            await asyncio.wait([running], timeout=0.1)
        await tasks.close()
        await place.stop()


def play(tmp_path: Path, story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with world(tmp_path) as made:
            await story(made)

    asyncio.run(asyncio.wait_for(main(), 30))


async def until(holds: Callable[[], bool]) -> None:
    while True:
        if holds():
            return
        await asyncio.sleep(0.01)


def test_lines_in_dockers_frames_by_time(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.run(2)
        one, two = world.tasks
        world.executor.log[one] = [line(1, "a\n"), line(4, "d\n", colour="r,d")]
        world.executor.log[two] = [line(2, "b\n", 2), line(3, "c\n")]
        plain = await world.frames(f"/services/web/logs?{BOTH}")
        assert plain == [(1, "a\n"), (2, "b\n"), (1, "c\n"), (1, "d\n")]
        told = await world.frames(f"/v1.50/services/web/logs?{BOTH}&details=1&timestamps=1&tail=1")
        service = (await world.place.rest("GET", "/services/web"))[1]["ID"]
        labels = f"com.docker.swarm.node.id={world.node_id},com.docker.swarm.service.id={service}"
        labels += ",com.docker.swarm.task.id="
        assert told == [
            (1, f"2026-01-01T00:00:03.000000001Z {labels}{two} c\n"),
            (1, f"2026-01-01T00:00:04.000000001Z {labels}{one},colour=r%2Cd d\n"),
        ]
        assert await world.frames(f"/tasks/{one}/logs?stdout=1") == [(1, "a\n"), (1, "d\n")]
        del world.executor.log[two]
        (*lines, (stream, words)) = await world.frames(f"/services/web/logs?{BOTH}")
        assert lines == [(1, "a\n"), (1, "d\n")]
        assert stream == 3
        assert words.startswith("warning: incomplete log stream.")
        assert f"task {two} has no container any more" in words

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/services/web/logs", 400, "at least one stream"),
        ("/services/web/logs?stdout=1&tail=few", 400, "tail"),
        ("/services/ghost/logs?stdout=1", 404, "service ghost not found"),
        ("/tasks/ghost/logs?stdout=1", 404, "task ghost not found"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    tmp_path: Path, path: str, status: int, words: str
) -> None:
    async def story(world: World) -> None:
        await world.run(1)
        got, body = await world.place.rest("GET", path)
        assert got == status
        assert words in body["message"]

    play(tmp_path, story)


def test_following_ends_on_the_node_when_the_client_goes(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.run(1)
        (one,) = world.tasks
        world.executor.log[one] = [line(1, "past\n")]
        path = f"/services/web/logs?{BOTH}&follow=1"
        async with world.session.get(path) as answer:
            await answer.content.readuntil(b"past\n")
            await world.executor.fresh[one].put([line(2, "fresh\n")])
            await answer.content.readuntil(b"fresh\n")
            await world.run(2)
            (later,) = (task for task in world.tasks if task != one)
            await until(lambda: later in world.executor.reading)
            await world.executor.fresh[later].put([line(3, "later\n")])
            await answer.content.readuntil(b"later\n")
            assert sorted(world.executor.reading) == sorted(world.tasks)
            answer.close()
        await until(lambda: not world.executor.reading)

    play(tmp_path, story)


def test_a_client_that_does_not_read_stops_the_reading_of_the_log(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.run(1)
        (one,) = world.tasks
        batch = [line(1, "x" * 16_000 + "\n") for _ in range(64)]
        handed = 0
        async with world.session.get(f"/services/web/logs?{BOTH}&follow=1") as answer:
            await until(lambda: one in world.executor.reading)
            queue = world.executor.fresh[one]
            while await _in_time(queue.put(batch)):
                handed += 1
                assert handed < 200, "200 MiB were taken that nobody reads"
            answer.close()
        await until(lambda: not world.executor.reading)
        assert (await world.place.rest("GET", "/nodes"))[1][0]["Status"]["State"] == "ready"

    play(tmp_path, story)


async def _in_time(work: Awaitable[Any]) -> bool:
    try:
        await asyncio.wait_for(work, 1)
    except TimeoutError:
        return False
    return True
