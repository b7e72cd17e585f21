"""The exec broker between a client and a node, both played by the test; and whom a name means."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from manager.control import services
from manager.control.tasks import task_of_service, task_to_enter
from manager.execs import broker as module
from manager.execs.broker import ExecBroker
from manager.execs.session import Exec
from manager.replica import LogStatus
from manager.store.changes import SetNodeStatus, SetTaskStatus
from swarmapi.errors import Conflict, InvalidArgument, NotFound, NotLeader, Unavailable
from swarmapi.model.decode import spec_from
from swarmapi.model.objects import NodeState, Task, TaskState
from swarmapi.model.spec import ServiceSpec
from swarmapi.v1 import exec_pb2 as pb
from tests.unit.manager_shell.cluster import MemoryCluster


class World:
    """A cluster whose service `web` has running tasks on m1, and what m1 was asked."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster()
        self.connected = True
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.broker = ExecBroker(self.cluster.store, self.ask)
        self.said: asyncio.Queue[object] = asyncio.Queue()
        """What the node says in its call."""
        self.heard: asyncio.Queue[pb.ExecInput] = asyncio.Queue()
        """What it is told."""

    def ask(self, node_id: str, request: pb.ExecRequest) -> bool:
        assert node_id == "m1"
        if self.connected:
            self.asked.put_nowait(request.request_id)
        return self.connected

    async def begin(self) -> None:
        await self.cluster.found()
        await self.cluster.settle()
        data = {
            "Name": "web",
            "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}},
            "Mode": {"Replicated": {"Replicas": 2}},
        }
        await services.create_service(self.cluster.store, spec_from(data, ServiceSpec))
        await self.cluster.settle()
        await self.cluster.run_tasks()

    def create(self) -> Exec:
        task = task_of_service(self.cluster.store.view, "web")
        return self.broker.create(task, pb.ExecStart(task_id=task.id, command=["sh"]))

    async def becomes(self, task: Task, state: TaskState, error: str = "") -> None:
        status = replace(task.status, state=state, error=error)
        await self.cluster.store.propose((SetTaskStatus(task_id=task.id, status=status),))

    def answer(self, request_id: str, node_id: str = "m1") -> "asyncio.Task[None]":
        self.said.put_nowait(pb.ExecOutput(head=pb.ExecHead(request_id=request_id)))
        return asyncio.create_task(self.broker.attach(node_id, self.said.get, self.heard.put))


def play(story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await world.begin()
        await story(world)
        assert world.broker.running == 0

    asyncio.run(asyncio.wait_for(main(), 20))


async def whole(one: Exec) -> bytes:
    return b"".join([chunk.data async for chunk in one.output()])


def test_a_leader_that_steps_down_ends_it_and_forgets_it() -> None:
    async def story(world: World) -> None:
        one = world.create()
        call = asyncio.create_task(answered(world))
        async with world.broker.attached(one.id):
            world.said.put_nowait(pb.ExecOutput(chunk=pb.ExecChunk(stream=1, data=b"some")))
            first = await anext(one.output())
            assert first.data == b"some"
            world.cluster.log.become(LogStatus(False, True, "m2", "127.0.0.1:1"))
            with pytest.raises(NotLeader, match="the leader changed"):
                await whole(one)
        await call
        with pytest.raises(NotFound, match="the leader changed"):
            world.broker.find(one.id)

    play(story)


async def answered(world: World) -> None:
    await world.answer(await world.asked.get())


def test_a_node_whose_session_is_yet_to_begin_is_waited_for() -> None:
    async def story(world: World) -> None:
        world.connected = False
        one = world.create()

        async def come_back() -> None:
            world.connected = True
            world.broker.on_session("m1", True)
            await answered(world)

        call = asyncio.create_task(come_back())
        async with world.broker.attached(one.id):
            world.said.put_nowait(pb.ExecOutput(end=pb.ExecEnd(exit_code=3)))
            assert await whole(one) == b""
        await call
        assert one.exit_code == 3

    play(story)


def test_a_node_that_is_lost_is_named() -> None:
    async def story(world: World) -> None:
        for broken_off in (False, True):
            one = world.create()
            call = asyncio.create_task(answered(world))
            async with world.broker.attached(one.id):
                assert (await world.heard.get()).start.command == ["sh"]
                if broken_off:
                    world.said.put_nowait(None)
                else:
                    world.broker.on_session("m1", False)
                with pytest.raises(Unavailable, match=r"node host1 \(m1\) was lost"):
                    await whole(one)
            await call

    play(story)


def test_a_node_brings_only_what_it_was_asked_for_and_once() -> None:
    async def story(world: World) -> None:
        idle = world.create()
        with pytest.raises(NotFound):
            await world.answer(idle.id)  # nobody was asked yet
        one = world.create()
        call = asyncio.create_task(world.asked.get())
        attached = world.broker.attached(one.id)
        entering = asyncio.create_task(attached.__aenter__())
        assert await call == one.id
        with pytest.raises(NotFound):
            await world.answer(one.id, node_id="m2")
        with pytest.raises(NotFound):
            await world.answer("unheard of")
        first = world.answer(one.id)
        await entering
        other: asyncio.Queue[object] = asyncio.Queue()
        other.put_nowait(pb.ExecOutput(head=pb.ExecHead(request_id=one.id)))
        with pytest.raises(NotFound):
            await world.broker.attach("m1", other.get, world.heard.put)
        other.put_nowait(pb.ExecOutput(end=pb.ExecEnd()))
        with pytest.raises(InvalidArgument):
            await world.broker.attach("m1", other.get, world.heard.put)
        await attached.__aexit__(None, None, None)
        await first
        with pytest.raises(Conflict, match="already run"):
            await world.broker.attached(one.id).__aenter__()

    play(story)


def test_a_node_that_is_down_is_named_at_once() -> None:
    async def story(world: World) -> None:
        one = world.create()
        down = SetNodeStatus(node_id="m1", state=NodeState.DOWN)
        await world.cluster.store.propose((down,))
        with pytest.raises(Unavailable, match=r"node host1 \(m1\) is down"):
            await world.broker.attached(one.id).__aenter__()
        with pytest.raises(Unavailable, match=r"node host1 \(m1\) is down"):
            world.create()

    play(story)


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 2)

    async def story(world: World) -> None:
        one, two = world.create(), world.create()
        call = asyncio.create_task(answered(world))
        async with world.broker.attached(one.id):
            three = world.create()  # in place of two, which does not run
            assert world.broker.find(one.id) is one
            assert world.broker.find(three.id) is three
            with pytest.raises(NotFound):
                world.broker.find(two.id)
        await call

    play(story)


def test_of_sizes_the_last_one_counts() -> None:
    async def story(world: World) -> None:
        one = world.create()
        for rows in (10, 20, 30):
            one.resize(rows, 80)
        call = asyncio.create_task(answered(world))
        async with world.broker.attached(one.id):
            assert (await world.heard.get()).HasField("start")
            assert (await world.heard.get()).size.rows == 30
            one.resize(40, 80)
            assert (await world.heard.get()).size.rows == 40
        await call

    play(story)


def test_a_name_means_the_task_of_the_slot_that_runs() -> None:
    async def story(world: World) -> None:
        view = world.cluster.store.view
        first = task_to_enter(view, "web.1")
        assert task_of_service(view, "web") is first
        assert task_to_enter(view, first.id) is first
        assert task_to_enter(view, f"web.1.{first.id}") is first
        await world.becomes(first, TaskState.FAILED, "exit 3")
        assert task_of_service(view, "web").slot == 2
        with pytest.raises(Conflict, match=r"task web\.1 is not running: it is failed \(exit 3\)"):
            task_to_enter(view, "web.1")
        world.cluster.clock.now += 60 * 10**9
        await world.cluster.settle()
        await world.cluster.run_tasks()
        again = task_to_enter(view, "web.1")
        assert (again.id != first.id, again.status.state) == (True, TaskState.RUNNING)
        for task in list(view.tasks.values()):
            await world.becomes(task, TaskState.FAILED)
        with pytest.raises(Conflict, match="service web has no running task: 3 failed"):
            task_of_service(view, "web")
        with pytest.raises(NotFound, match="service ghost not found"):
            task_of_service(view, "ghost")

    play(story)
