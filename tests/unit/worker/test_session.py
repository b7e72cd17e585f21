"""To whom an agent holds on: a manager that is silent or gone is left for another one."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from swarmapi.conversation import LEADER_METADATA
from swarmapi.model.objects import NodeDescription
from swarmapi.model.tables import NetworkTable
from swarmapi.v1 import dispatcher_pb2 as pb
from swarmapi.v1 import dispatcher_pb2_grpc
from tests.fakes.executor import FakeExecutor, RealClock
from worker.agent.leases import NodeLeases
from worker.agent.reporter import Reporter
from worker.agent.secrets import NodeSecrets
from worker.agent.session import Agent, AgentParts, Place
from worker.agent.tasks import TaskTable
from worker.engine.journal import Journal

BEAT_EVERY_MS = 200


class Manager:
    """A dispatcher that says welcome and answers beats, falls silent, or names the leader."""

    def __init__(self, *, answers: bool = True, leader: str = "") -> None:
        self.answers = answers
        self.leader = leader
        self.sessions = 0
        self.beats = asyncio.Condition()
        self.beats_heard = 0
        self.acknowledged: asyncio.Queue[dict[str, int]] = asyncio.Queue()
        self.target = ""
        self._server = grpc.aio.server()

    async def start(self) -> str:
        register: Any = dispatcher_pb2_grpc
        register.add_DispatcherServicer_to_server(self, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self.target

    async def stop(self) -> None:
        await self._server.stop(None)

    async def Session(self, messages: AsyncIterator[pb.AgentMessage], context: Any) -> None:  # noqa: N802 (gRPC's name)
        self.sessions += 1
        if self.leader:
            context.set_trailing_metadata(((LEADER_METADATA, self.leader),))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not the leader")
        welcome = pb.Welcome(format=1, session_id="s", beat_every_ms=BEAT_EVERY_MS)
        await context.write(pb.DispatcherMessage(welcome=welcome))
        async for message in messages:
            if message.WhichOneof("message") == "ack":
                self.acknowledged.put_nowait(dict(message.ack.revisions))
            if message.WhichOneof("message") == "beat":
                async with self.beats:
                    self.beats_heard += 1
                    self.beats.notify_all()
                if self.answers:
                    await context.write(pb.DispatcherMessage(beat=pb.Beat()))

    async def hears(self, beats: int) -> None:
        async with self.beats:
            await self.beats.wait_for(lambda: self.beats_heard >= beats)


class NoTables:
    """Puts no table into effect, until `late` says that some are."""

    def __init__(self) -> None:
        self.late: asyncio.Queue[dict[str, int]] = asyncio.Queue()

    async def set_tables(self, tables: Mapping[str, NetworkTable]) -> dict[str, int]:
        return {}

    async def caught_up(self) -> dict[str, int]:
        return await self.late.get()


async def nothing(managers: list[str]) -> None:
    """Forget the managers' addresses."""


def agent_of(tmp_path: Path, managers: list[str], tables: NoTables | None = None) -> Agent:
    reporter, clock = Reporter(), RealClock()
    tasks = TaskTable(Journal(tmp_path / "journal"), FakeExecutor(), clock, reporter.put)
    return Agent(
        AgentParts(
            place=lambda: Place(NodeDescription(hostname="w1"), "127.0.0.1", "127.0.0.1"),
            tasks=tasks,
            reporter=reporter,
            tables=tables or NoTables(),
            secrets=NodeSecrets(),
            logs=FakeExecutor(),
            leases=NodeLeases(tuple),
            execs=FakeExecutor(),
            vantages=dict,
            channel=grpc.aio.insecure_channel,
            managers=managers,
            save_managers=nothing,
            clock=clock,
        )
    )


async def reached(agent: Agent, *managers: Manager, beats: int) -> None:
    """Run the agent until the first of these managers has heard so many beats."""
    running = asyncio.create_task(agent.run())
    try:
        await asyncio.wait_for(managers[0].hears(beats), 20)
    finally:
        while not running.done():
            running.cancel()
            await asyncio.wait([running], timeout=0.1)
        for manager in managers:
            await manager.stop()


def test_a_manager_that_answers_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        only = Manager()
        agent = agent_of(tmp_path, [await only.start()])
        await reached(agent, only, beats=8)
        assert only.sessions == 1

    asyncio.run(main())


def test_a_manager_that_falls_silent_is_left_for_another(tmp_path: Path) -> None:
    async def main() -> None:
        silent, alive = Manager(answers=False), Manager()
        await alive.start()
        named = Manager(leader=await silent.start())
        agent = agent_of(tmp_path, [await named.start()])
        agent._parts.managers.append(alive.target)  # after a session the agent knows all
        await reached(agent, alive, silent, named, beats=8)

    asyncio.run(main())


def test_a_machine_that_accepts_and_says_nothing_is_left_for_another(tmp_path: Path) -> None:
    async def main() -> None:
        alive = Manager()
        with socket.create_server(("127.0.0.1", 0)) as dead:
            naming = Manager(leader=f"127.0.0.1:{dead.getsockname()[1]}")
            agent = agent_of(tmp_path, [await naming.start()])
            await alive.start()
            agent._parts.managers.append(alive.target)
            await reached(agent, alive, naming, beats=5)

    asyncio.run(main())


def test_tables_that_come_into_effect_late_are_acknowledged_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        only, tables = Manager(), NoTables()
        agent = agent_of(tmp_path, [await only.start()], tables)
        tables.late.put_nowait({"net1": 7})
        await reached(agent, only, beats=3)
        assert await asyncio.wait_for(only.acknowledged.get(), 20) == {"net1": 7}

    asyncio.run(main())
