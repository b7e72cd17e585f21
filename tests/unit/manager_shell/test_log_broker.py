"""The log broker between a reading client and publishing nodes, both played by the test."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from manager.control import services
from manager.logbroker import subscription as module
from manager.logbroker.broker import LogBroker
from manager.logbroker.subscription import Query, Record, Selector, Subscription
from manager.replica import LogStatus
from manager.store.changes import SetNodeStatus
from swarmapi.errors import InvalidArgument, NotFound, NotLeader
from swarmapi.model.decode import spec_from
from swarmapi.model.objects import NodeState
from swarmapi.model.spec import ServiceSpec
from swarmapi.v1 import logs_pb2 as pb
from tests.unit.manager_shell.cluster import MemoryCluster


class World:
    """A cluster whose service `web` has running tasks on m1, and what its nodes were asked."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster()
        self.connected = True
        self.asked: asyncio.Queue[pb.LogRequest] = asyncio.Queue()
        self.broker = LogBroker(self.cluster.store, self.ask)
        self.jobs: list[asyncio.Task[None]] = []

    def ask(self, node_id: str, request: pb.LogRequest) -> bool:
        assert node_id == "m1"
        if self.connected:
            self.asked.put_nowait(request)
        return self.connected

    async def begin(self, replicas: int) -> None:
        await self.cluster.found()
        await self.cluster.settle()
        await services.create_service(self.cluster.store, self.spec(replicas))
        await self.cluster.settle()
        await self.cluster.run_tasks()

    def spec(self, replicas: int) -> ServiceSpec:
        container = {"Image": "busybox"}
        data = {
            "Name": "web",
            "TaskTemplate": {"ContainerSpec": container},
            "Mode": {"Replicated": {"Replicas": replicas}},
        }
        return spec_from(data, ServiceSpec)

    async def scale(self, replicas: int) -> None:
        service = next(iter(self.cluster.store.view.services.values()))
        await services.update_service(
            self.cluster.store, service.id, self.spec(replicas), service.meta.version
        )
        await self.cluster.settle()
        await self.cluster.run_tasks()

    @property
    def selector(self) -> Selector:
        return Selector(service_id=next(iter(self.cluster.store.view.services)))

    async def publication(self) -> "Publication":
        """Answer the next request."""
        request = await self.asked.get()
        found = Publication(request)
        found.job = asyncio.create_task(self.broker.publish("m1", found.messages.get))
        self.jobs.append(found.job)
        found.put(head=pb.LogHead(request_id=request.request_id))
        return found


class Publication:
    """A node's side of one call."""

    def __init__(self, request: pb.LogRequest) -> None:
        self.request = request
        self.messages: asyncio.Queue[object] = asyncio.Queue()
        self.job: asyncio.Task[None]

    def put(self, **part: object) -> None:
        self.messages.put_nowait(pb.LogPublication(**part))  # type: ignore[arg-type]

    def lines(self, *times: int, live: bool = False) -> None:
        lines = [pb.LogLine(time_ns=t, stream=1, data=b"%d\n" % t) for t in times]
        self.put(batch=pb.LogBatch(lines=lines, live=live))

    def end(self, error: str = "") -> None:
        self.put(end=pb.LogEnd(error=error))

    def break_off(self) -> None:
        self.messages.put_nowait(None)


def play(story: Callable[[World], Awaitable[None]], replicas: int = 1) -> None:
    async def main() -> None:
        world = World()
        await world.begin(replicas)
        await story(world)
        for job in world.jobs:
            await asyncio.wait([job])
        assert (world.broker.subscriptions, world.broker.requests) == (0, 0)

    asyncio.run(asyncio.wait_for(main(), 20))


async def some(pieces: "asyncio.Queue[Sequence[Record]]", count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        found += [record.line.data.decode().strip() for record in await pieces.get()]
    assert len(found) == count
    return found


class Reading:
    """Reads in the background."""

    def __init__(self, subscription: Subscription) -> None:
        self.pieces: asyncio.Queue[Sequence[Record]] = asyncio.Queue()
        self.job = asyncio.create_task(self._read(subscription))

    async def _read(self, subscription: Subscription) -> None:
        async for records in subscription.records():
            self.pieces.put_nowait(records)

    async def stop(self) -> None:
        self.job.cancel()
        await asyncio.gather(self.job, return_exceptions=True)


async def whole(subscription: Subscription) -> list[str]:
    return [
        record.line.data.decode().strip()
        async for records in subscription.records()
        for record in records
    ]


def test_logs_of_all_tasks_come_by_time_and_end() -> None:
    async def story(world: World) -> None:
        query = Query(stderr=False, since_ns=5, until_ns=6, tail=7)
        with world.broker.subscribe(world.selector, query) as subscription:
            one, two = await world.publication(), await world.publication()
            wanted = one.request
            assert (wanted.stdout, wanted.stderr, wanted.follow) == (True, False, False)
            assert (wanted.since_ns, wanted.until_ns, wanted.tail) == (5, 6, 7)
            one.lines(1, 4)
            two.lines(2)
            two.lines(3, 5)
            one.end()
            two.end()
            assert await whole(subscription) == ["1", "2", "3", "4", "5"]
            assert not subscription.problems

    play(story, replicas=2)


def test_a_stream_that_ends_takes_no_later_tasks() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query()) as subscription:
            publication = await world.publication()
            await world.scale(2)
            assert world.asked.empty()
            publication.end()
            assert await whole(subscription) == []

    play(story)


def test_a_reason_of_a_node_is_told_at_the_end() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query()) as subscription:
            (await world.publication()).end("configured logging driver does not support reading")
            assert await whole(subscription) == []
            (problem,) = subscription.problems
            assert problem.startswith("node host1 (m1): configured logging driver")

    play(story)


def test_a_node_that_is_down_is_named_and_the_rest_is_told() -> None:
    async def story(world: World) -> None:
        down = SetNodeStatus(node_id="m1", state=NodeState.DOWN)
        await world.cluster.store.propose((down,))
        with world.broker.subscribe(world.selector, Query()) as subscription:
            assert await whole(subscription) == []
            assert list(subscription.problems) == ["node host1 (m1) is down"]

    play(story, replicas=2)


def test_a_node_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WAIT_S", 0.01)

    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query()) as subscription:
            assert await whole(subscription) == []
            assert list(subscription.problems) == ["node host1 (m1) does not answer"]

    play(story)


def test_a_node_whose_session_is_yet_to_begin_is_waited_for() -> None:
    async def story(world: World) -> None:
        world.connected = False
        with world.broker.subscribe(world.selector, Query()) as subscription:
            world.connected = True
            world.broker.on_session("m1", True)
            publication = await world.publication()
            publication.lines(1)
            publication.end()
            assert await whole(subscription) == ["1"]
            assert not subscription.problems

    play(story)


def test_a_log_that_breaks_off_goes_on_where_it_stopped() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query(tail=9)) as subscription:
            first = await world.publication()
            first.lines(1, 2, 2)
            reading = Reading(subscription)
            assert await some(reading.pieces, 3) == ["1", "2", "2"]
            first.break_off()
            again = await world.publication()
            assert (again.request.since_ns, again.request.tail) == (2, -1)
            assert again.request.request_id != first.request.request_id
            again.lines(2, 2, 2, 3)
            again.end()
            assert await some(reading.pieces, 2) == ["2", "3"]
            await reading.job
            assert not subscription.problems

    play(story)


def test_a_log_that_always_breaks_off_is_given_up() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query()) as subscription:
            reading = Reading(subscription)
            for _ in range(3):
                (await world.publication()).break_off()
            await reading.job
            assert list(subscription.problems) == ["node host1 (m1) does not answer"]

    play(story)


def test_following_takes_in_new_tasks_and_ends_with_the_reader() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query(follow=True)) as subscription:
            reading = Reading(subscription)
            old = await world.publication()
            old.lines(1, live=True)
            assert await some(reading.pieces, 1) == ["1"]
            await world.scale(2)
            new = await world.publication()
            assert new.request.task_id != old.request.task_id
            new.lines(7)
            new.lines(live=True)
            old.lines(8)
            assert sorted(await some(reading.pieces, 2)) == ["7", "8"]
            old.end()
            new.lines(9)
            assert await some(reading.pieces, 1) == ["9"]
            await reading.stop()
            assert world.broker.requests == 1
        await asyncio.wait([new.job])
        assert new.job.exception() is None

    play(story)


def test_following_tells_of_a_lost_node_and_takes_it_back() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query(follow=True)) as subscription:
            reading = Reading(subscription)
            (await world.publication()).lines(1, live=True)
            assert await some(reading.pieces, 1) == ["1"]
            down = SetNodeStatus(node_id="m1", state=NodeState.DOWN)
            await world.cluster.store.propose((down,))
            world.broker.on_session("m1", False)
            (told,) = await some(reading.pieces, 1)
            assert told == "warning: incomplete log stream: node host1 (m1) is down"
            await world.cluster.store.propose((SetNodeStatus(node_id="m1", state=NodeState.READY),))
            world.broker.on_session("m1", True)
            back = await world.publication()
            assert back.request.since_ns == 1
            back.lines(1, 2)
            assert await some(reading.pieces, 1) == ["2"]
            await reading.stop()

    play(story)


def test_following_one_task_ends_with_its_log() -> None:
    async def story(world: World) -> None:
        (task,) = world.cluster.store.view.tasks
        query = Query(follow=True)
        with world.broker.subscribe(Selector(task_id=task), query) as subscription:
            publication = await world.publication()
            publication.lines(1, live=True)
            publication.end()
            assert await whole(subscription) == ["1"]

    play(story)


def test_following_a_service_ends_when_it_is_gone() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query(follow=True)) as subscription:
            (await world.publication()).end()
            reading = Reading(subscription)
            await services.remove_service(world.cluster.store, "web")
            await reading.job

    play(story)


def test_a_leader_that_steps_down_ends_the_stream() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query(follow=True)) as subscription:
            (await world.publication()).lines(1)
            reading = Reading(subscription)
            assert await some(reading.pieces, 1) == ["1"]
            world.cluster.log.become(LogStatus(False, True, "m2", "127.0.0.1:1"))
            with pytest.raises(NotLeader, match="ask again"):
                await reading.job

    play(story)


def test_a_node_is_read_no_faster_than_the_client_reads() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query()) as subscription:
            publication = await world.publication()
            for time_ns in range(1, 10):
                publication.lines(time_ns)
            pieces = subscription.records()
            first = await anext(pieces)
            assert [record.line.time_ns for record in first] == [1]
            # The one batch after it is taken, and no other before somebody reads on.
            for _ in range(20):
                await asyncio.sleep(0)
            assert publication.messages.qsize() >= 7
            publication.end()
            rest = [record.line.time_ns async for records in pieces for record in records]
            assert rest == [*range(2, 10)]

    play(story)


def test_a_node_publishes_only_what_it_was_asked_for() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(world.selector, Query()):
            request = await world.asked.get()
            other = Publication(request)
            other.put(head=pb.LogHead(request_id=request.request_id))
            with pytest.raises(NotFound):
                await world.broker.publish("m2", other.messages.get)
            other.put(head=pb.LogHead(request_id="unheard of"))
            with pytest.raises(NotFound):
                await world.broker.publish("m1", other.messages.get)
            other.end()
            with pytest.raises(InvalidArgument):
                await world.broker.publish("m1", other.messages.get)

    play(story)


def test_a_task_that_never_started_is_told() -> None:
    async def story(world: World) -> None:
        with world.broker.subscribe(Selector(task_id="none"), Query()) as subscription:
            assert await whole(subscription) == []
            assert list(subscription.problems) == ["task none has not been started"]

    play(story)
