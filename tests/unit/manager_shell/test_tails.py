"""The last lines of tasks that ended outlive their node."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from manager.logbroker.broker import LogBroker
from manager.logbroker.merge import Line
from manager.logbroker.subscription import Query
from manager.logbroker.tails import TAIL_BYTES, TailKeeper, Tails
from manager.store.changes import Delete, SetNodeStatus, SetTaskStatus
from swarmapi.errors import InvalidArgument
from swarmapi.model.objects import NodeState, TaskState, TaskStatus
from swarmapi.override import override
from tests.fakes.full_disk import no_room_above
from tests.unit.manager_shell.test_log_broker import World, play, whole


class Noted(Tails):
    """Tells when one was kept."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.kept = asyncio.Event()
        self.shared = Tails(folder.with_name(f"{folder.name}.shared"))

    async def share(self, task_id: str, lines: bytes) -> None:
        """Be the other managers."""
        self.shared.take(task_id, lines)

    @override
    def keep(self, task_id: str, lines: Iterable[Line]) -> None:
        super().keep(task_id, lines)
        self.kept.set()


def line(number: int, size: int = 10, stream: int = 1) -> Line:
    return Line(number, stream, b"x" * size)


def test_each_tail_and_all_together_are_bounded(tmp_path: Path) -> None:
    tails = Tails(tmp_path, total_bytes=150_000)
    tails.keep("a", [line(n, 1000) for n in range(100)])
    kept = tails.read("a")
    assert kept[-1].time_ns == 99
    assert TAIL_BYTES - 1000 < sum(len(one.data) for one in kept) <= TAIL_BYTES
    for name in "bcd":
        tails.keep(name, [line(n, 1000) for n in range(100)])
    assert [name for name in "abcd" if tails.read(name)] == ["c", "d"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "d"]
    again = Tails(tmp_path, total_bytes=150_000)
    assert again.read("d") == tails.read("d")
    again.forget("d")
    assert again.read("d") == []
    (tmp_path / "c").write_bytes(b"torn")
    assert again.read("c") == []


def test_one_line_longer_than_a_tail_is_kept(tmp_path: Path) -> None:
    tails = Tails(tmp_path)
    tails.keep("a", [line(1), line(2, TAIL_BYTES + 1)])
    assert [one.time_ns for one in tails.read("a")] == [2]


async def end_task(world: World, tails: Noted) -> tuple[str, LogBroker]:
    """Let the service's task fail with a log of three lines; return its id, and a broker."""
    store = world.cluster.store
    world.broker = LogBroker(store, world.ask, tails.read)
    keeper = TailKeeper(store, world.broker, tails, tails.share)
    running = asyncio.create_task(keeper.run())
    (task,) = store.view.tasks.values()
    status = TaskStatus(state=TaskState.FAILED, container_id="c" * 64, exit_code=1)
    await store.propose((SetTaskStatus(task_id=task.id, status=status),))
    publication = await world.publication()
    publication.lines(1, 2, 3)
    publication.end()
    await asyncio.wait_for(tails.kept.wait(), 5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return task.id, world.broker


def test_a_node_that_is_down_leaves_the_last_lines_of_its_tasks(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        tails = Noted(tmp_path)
        task_id, broker = await end_task(world, tails)
        down = SetNodeStatus(node_id="m1", state=NodeState.DOWN)
        await world.cluster.store.propose((down,))
        with broker.subscribe(world.selector, Query()) as reading:
            assert await whole(reading) == ["1", "2", "3"]
        (problem,) = reading.problems
        assert "is down (its last lines are those that the manager kept" in problem
        with broker.subscribe(world.selector, Query(tail=1)) as reading:
            assert await whole(reading) == ["3"]
        with broker.subscribe(world.selector, Query(stdout=False)) as reading:
            assert await whole(reading) == []
        with broker.subscribe(world.selector, Query(since_ns=2, until_ns=2)) as reading:
            assert await whole(reading) == ["2"]
        await world.cluster.store.propose((Delete(object="task", id=task_id),))
        assert tails.read(task_id) == []

    play(story)


def test_a_node_that_answers_is_believed(tmp_path: Path) -> None:
    """What was kept is not mixed into what the node itself has."""

    async def story(world: World) -> None:
        _, broker = await end_task(world, Noted(tmp_path))
        with broker.subscribe(world.selector, Query()) as reading:
            publication = await world.publication()
            publication.lines(1, 2, 3)
            publication.end()
            assert await whole(reading) == ["1", "2", "3"]
        assert not reading.problems

    play(story)


def test_lines_read_before_a_node_broke_off_are_not_read_twice(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        _, broker = await end_task(world, Noted(tmp_path))
        with broker.subscribe(world.selector, Query()) as reading:
            publication = await world.publication()
            publication.lines(1, 2)
            publication.end("the disk broke")
            assert await whole(reading) == ["1", "2"]
        assert next(iter(reading.problems)).endswith("the disk broke")

    play(story)


def test_nothing_is_kept_of_a_log_that_cannot_be_read(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        store, tails = world.cluster.store, Noted(tmp_path)
        keeper = TailKeeper(store, world.broker, tails, tails.share)
        running = asyncio.create_task(keeper.run())
        lost, read = store.view.tasks.values()
        for task in (lost, read):
            status = TaskStatus(state=TaskState.FAILED, container_id="c" * 64)
            await store.propose((SetTaskStatus(task_id=task.id, status=status),))
        (await world.publication()).end("no such container")
        publication = await world.publication()
        publication.lines(1)
        publication.end()
        await asyncio.wait_for(tails.kept.wait(), 5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert (tails.read(lost.id), len(tails.read(read.id))) == ([], 1)

    play(story, replicas=2)


def test_the_other_managers_are_handed_what_was_kept(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        tails = Noted(tmp_path / "leader")
        task_id, _ = await end_task(world, tails)
        assert [one.time_ns for one in tails.shared.read(task_id)] == [1, 2, 3]
        with pytest.raises(InvalidArgument, match="cannot be read"):
            tails.shared.take(task_id, b"garbage")

    play(story)


def test_a_tail_for_which_there_is_no_room_leaves_no_part_behind(tmp_path: Path) -> None:
    tails = Tails(tmp_path)
    tails.keep("a", [line(1, 100)])
    with no_room_above(50), pytest.raises(OSError, match="too large"):
        tails.keep("b", [line(1, 100)])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
