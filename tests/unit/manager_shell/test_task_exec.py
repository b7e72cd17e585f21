"""Execs from a client of the API through a real manager to a real agent; processes are fakes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from manager.execs import broker
from swarmapi.errors import Conflict, SwarmError
from tests.fakes.executor import FakeExec
from tests.unit.manager_shell.test_task_logs import World, play
from worker.agent.ports import NotStarted

FRAME = 8


class Client:
    """A prepared exec's client: `feed` is its stdin, None the end."""

    def __init__(self, world: World, exec_id: str) -> None:
        self.world = world
        self.path = f"/swarm/v1/exec/{exec_id}"
        self.feed: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def _stdin(self) -> AsyncIterator[bytes]:
        yield b""  # sends the head
        while (data := await self.feed.get()) is not None:
            yield data

    @asynccontextmanager
    async def started(self) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self.world.session.post(f"{self.path}/start", data=self._stdin()) as answer:
            yield answer

    async def state(self) -> dict[str, object]:
        status, body = await self.world.place.rest("GET", self.path)
        assert status == 200
        return dict(body)

    async def until(self, holds: Callable[[dict[str, object]], bool]) -> dict[str, object]:
        while True:
            if holds(state := await self.state()):
                return state
            await asyncio.sleep(0.01)


async def prepare(world: World, **wanted: object) -> Client:
    await world.run(1)
    path = f"/swarm/v1/tasks/{world.tasks[0]}/exec"
    status, body = await world.place.rest("POST", path, {"Cmd": ["sh"], **wanted})
    assert status == 201, body
    assert (body["TaskID"], body["NodeID"]) == (world.tasks[0], world.node_id)
    return Client(world, body["Id"])


async def frame(answer: aiohttp.ClientResponse) -> tuple[int, str]:
    head = await answer.content.readexactly(FRAME)
    return head[0], (await answer.content.readexactly(int.from_bytes(head[4:], "big"))).decode()


def test_both_directions_and_the_exit_code(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        wanted = {"AttachStdin": True, "Env": ["A=b"], "User": "u", "WorkingDir": "/w"}
        client = await prepare(world, Privileged=True, **wanted)
        assert await client.state() == {
            "ID": client.path.rpartition("/")[2],
            "TaskID": world.tasks[0],
            "NodeID": world.node_id,
            "Running": False,
            "ExitCode": None,
            "Error": "",
        }
        async with client.started() as answer:
            process = await world.executor.execs.get()
            config = process.config
            assert (process.task_id, config.cmd, config.env) == (world.tasks[0], ["sh"], ["A=b"])
            assert (config.user, config.working_dir, config.privileged) == ("u", "/w", True)
            assert (config.tty, config.attach_stdin) == (False, True)
            assert answer.content_type == "application/vnd.docker.multiplexed-stream"
            client.feed.put_nowait(b"in")
            assert await process.stdin.get() == b"in"
            await process.written.put((1, b"out"))
            await process.written.put((2, b"err"))
            assert [await frame(answer), await frame(answer)] == [(1, "out"), (2, "err")]
            client.feed.put_nowait(None)
            assert await process.stdin.get() is None
            await process.written.put((1, b"after the end of stdin"))
            assert (await client.state())["Running"] is True
            await process.end(7)
            assert await frame(answer) == (1, "after the end of stdin")
            assert await answer.content.read() == b""
        state = await client.state()
        assert (state["Running"], state["ExitCode"], state["Error"]) == (False, 7, "")
        async with client.started() as again:
            assert again.status == 409
            assert "has already run" in await again.text()

    play(tmp_path, story)


def test_an_end_is_told_while_stdin_is_open(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        client = await prepare(world, AttachStdin=True)
        async with client.started() as answer:
            await (await world.executor.execs.get()).end(0)
            assert await answer.content.read() == b""

    play(tmp_path, story)


def test_a_terminal_has_raw_bytes_and_a_size(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        client = await prepare(world, Tty=True, ConsoleSize=[24, 80])
        rest = world.place.rest
        assert (await rest("POST", f"{client.path}/resize?h=1&w=1"))[0] == 409
        async with client.started() as answer:
            process = await world.executor.execs.get()
            assert (process.config.tty, process.config.console_size) == (True, [24, 80])
            assert answer.content_type == "application/vnd.docker.raw-stream"
            assert (await rest("POST", f"{client.path}/resize?h=30&w=100"))[0] == 200
            assert await process.sizes.get() == (30, 100)
            assert (await rest("POST", f"{client.path}/resize?h=0&w=100"))[0] == 400
            await process.written.put((1, b"# "))
            await process.end(0)
            assert await answer.content.read() == b"# "

    play(tmp_path, story)


def test_a_client_that_goes_hangs_up(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        client = await prepare(world)
        async with client.started() as answer:
            client.feed.put_nowait(None)
            process = await world.executor.execs.get()
            answer.close()
        await process.hung_up.wait()
        state = await client.until(lambda state: state["Running"] is False)
        assert state["ExitCode"] is None
        assert "the client went away" in str(state["Error"])

    play(tmp_path, story)


def test_a_session_that_ends_is_told(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        client = await prepare(world)
        async with client.started() as answer:
            process = await world.executor.execs.get()
            world.agent.cancel()
            stream, words = await frame(answer)
            assert (stream, "was lost" in words) == (3, True)
            assert world.node_id in words
        await process.hung_up.wait()
        assert (await client.state())["ExitCode"] is None

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("refusal", "stream", "code"),
    [(NotStarted("exec: no such program", 127), 2, 127), (Conflict("it is paused"), 3, None)],
)
def test_what_cannot_be_started_says_why(
    tmp_path: Path, refusal: SwarmError, stream: int, code: int | None
) -> None:
    async def story(world: World) -> None:
        client = await prepare(world)
        world.executor.refusal = refusal
        async with client.started() as answer:
            assert await frame(answer) == (stream, f"{refusal}\n")
        assert (await client.state())["ExitCode"] == code

    play(tmp_path, story)


def test_a_detached_one_outlives_its_client_and_its_call(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        client = await prepare(world, AttachStdin=True)
        async with world.session.post(f"{client.path}/start?detach=1") as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        process = await world.executor.execs.get()
        config = process.config
        assert (config.detach, config.attach_stdin, config.attach_stdout) == (True, False, False)
        state = await client.state()
        assert (state["Running"], state["ExitCode"], state["Error"]) == (False, None, "")
        world.agent.cancel()
        await asyncio.wait([world.agent])
        assert not process.hung_up.is_set()

    play(tmp_path, story)


def test_a_detached_one_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        client = await prepare(world)
        world.executor.refusal = NotStarted("exec: no such program", 127)
        status, body = await world.place.rest("POST", f"{client.path}/start?detach=1")
        assert (status, body["message"]) == (400, "exec: no such program")
        assert (await client.state())["ExitCode"] == 127

    play(tmp_path, story)


def test_no_faster_than_the_slower_side(tmp_path: Path) -> None:
    """What is on its way is bounded: of endless input only a part is ever taken."""
    piece = b"x" * 65536
    most = 32 << 20  # the kernel's buffers on the way grow with the traffic

    async def story(world: World) -> None:
        client = await prepare(world, AttachStdin=True)
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                yield piece
                sent += len(piece)

        async with world.session.post(f"{client.path}/start", data=endless()):
            process: FakeExec = await world.executor.execs.get()
            assert len(await process.stdin.get()) > 0  # type: ignore[arg-type]
            before = -1
            while before != sent:  # until nothing moves any more
                before = sent
                await asyncio.sleep(0.1)
            assert sent < most
            took = 0
            while took < most + (8 << 20):
                took += len(await process.stdin.get() or b"")
            assert sent >= took - len(piece)

    play(tmp_path, story)


def test_a_node_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "ANSWER_WAIT_S", 0.05)

    async def story(world: World) -> None:
        client = await prepare(world)
        world.agent.cancel()
        await asyncio.wait([world.agent])
        async with client.started() as answer:
            assert answer.status == 503
            assert f"({world.node_id}) does not answer" in await answer.text()

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Cmd"),
        ({"Cmd": []}, "No exec command specified"),
        ({"Cmd": ["a"], "ConsoleSize": [1]}, "ConsoleSize"),
        ({"Cmd": ["a"], "Detached": True}, "Detached"),
    ],
)
def test_a_body_that_cannot_be_is_refused(
    tmp_path: Path, body: dict[str, object], words: str
) -> None:
    async def story(world: World) -> None:
        await world.run(1)
        status, answer = await world.place.rest("POST", "/swarm/v1/tasks/web.1/exec", body)
        assert (status, words in answer["message"]) == (400, True)

    play(tmp_path, story)


def test_by_service_and_slot(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.run(2)
        _, tasks = await world.place.rest("GET", "/tasks")
        slots = {task["Slot"]: task["ID"] for task in tasks}
        for path, task in (
            ("services/web", slots[1]),
            ("services/web.2", slots[2]),
            ("tasks/web.2", slots[2]),
            (f"tasks/web.2.{slots[2]}", slots[2]),
            (f"tasks/{slots[1]}", slots[1]),
        ):
            status, body = await world.place.rest("POST", f"/swarm/v1/{path}/exec", {"Cmd": ["a"]})
            assert (status, body.get("TaskID")) == (201, task), path
        for path in ("services/ghost", "services/web.9", "tasks/web.9"):
            status, _ = await world.place.rest("POST", f"/swarm/v1/{path}/exec", {"Cmd": ["a"]})
            assert status == 404, path

    play(tmp_path, story)
