"""Log files in batches: bounded, across rotations, followed, and let go."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from aiohttp.test_utils import TestClient, TestServer

from runtime.image.store import ImageStore
from swarmapi.errors import NotFound
from swarmapi.override import override
from tests.fakes.engine import FakeClock, FakeNetworking, FakeSupervisor
from worker.api.app import build_app
from worker.engine.engine import Engine, EngineParts
from worker.engine.logs import LogLine, LogQuery, read_batches
from worker.engine.record import Container, Record
from worker.engine.spec import ContainerConfig, HostConfig


def entry(number: int, text: str = "") -> str:
    stamp = f"2026-01-01T00:00:00.{number:09d}Z"
    return f'{{"log":"{number}{text}\\n","stream":"stdout","time":"{stamp}"}}\n'


def collect(
    path: Path, query: LogQuery, on_past: Callable[[], None] = lambda: None
) -> list[list[int]]:
    """Return the numbers of the lines of each batch; the container ends with its past."""
    ended = threading.Event()

    async def run() -> list[list[int]]:
        found: list[list[int]] = []
        async for batch in read_batches(path, query, lambda: not ended.is_set()):
            if not batch:
                on_past()
                ended.set()
            found.append([int(line.data.split()[0]) for line in batch])
        return found

    return asyncio.run(run())


def test_a_long_past_comes_in_batches_of_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(entry(i, " " + "x" * 1000) for i in range(3000)))
    batches = collect(path, LogQuery())
    assert [number for batch in batches for number in batch] == list(range(3000))
    assert max(map(len, batches)) < 300
    tail = collect(path, LogQuery(tail=2000))
    assert [number for batch in tail for number in batch] == list(range(1000, 3000))
    assert max(map(len, tail)) < 2000


def test_nothing_is_lost_or_told_twice_across_rotations(tmp_path: Path) -> None:
    path = tmp_path / "log"
    (tmp_path / "log.2").write_text(entry(1))
    (tmp_path / "log.1").write_text(entry(2))
    path.write_text(entry(3))

    def rotate() -> None:
        with path.open("a") as file:
            file.write(entry(4))
        os.replace(tmp_path / "log.1", tmp_path / "log.2")
        os.replace(path, tmp_path / "log.1")
        path.write_text(entry(5))

    batches = collect(path, LogQuery(follow=True), rotate)
    assert [number for batch in batches for number in batch] == [1, 2, 3, 4, 5]
    assert batches[3] == [], "the past is told from what is new"


def test_a_reader_that_leaves_closes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(entry(1))

    def is_open() -> bool:
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return str(path) in [os.readlink(link) for link in links if os.path.exists(link)]

    async def leave() -> None:
        batches = read_batches(path, LogQuery(follow=True), lambda: True)
        assert len(await anext(batches)) == 1
        assert is_open()
        await anext(batches)
        waiting = asyncio.ensure_future(anext(batches, None))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await batches.aclose()

    asyncio.run(leave())
    assert not is_open()


class Removed(Engine):
    """An engine whose container is removed before its log is open."""

    @override
    def inspect(self, reference: str) -> Container:
        """Return a container."""
        record = Record(
            id="1", name="c", created_ns=0, image_id="", image_config={},
            config=ContainerConfig(), host=HostConfig(), endpoints={}, path="", args=[], env=[],
        )  # fmt: skip
        return Container(record)

    @override
    def logs(self, reference: str, query: LogQuery) -> AsyncGenerator[list[LogLine], None]:
        """Find nothing any more."""
        raise NotFound(f"no such container: {reference}")


def test_the_head_of_an_answer_comes_once_the_log_is_open(tmp_path: Path) -> None:
    """Who has the head may remove the container, and reads the rest: so does Docker's SDK."""

    async def run() -> int:
        parts = EngineParts(
            data_root=tmp_path,
            supervisor=FakeSupervisor(),
            networking=FakeNetworking(),
            images=ImageStore(tmp_path / "images"),
            clock=FakeClock(),
        )
        async with TestClient(TestServer(build_app(Removed(parts)))) as client:
            answer = await client.get("/containers/c/logs?stdout=1&follow=1")
            return answer.status

    assert asyncio.run(run()) == 404
