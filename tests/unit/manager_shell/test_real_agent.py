"""A real agent against a real manager on loopback; only the containers are events."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path

import grpc

from manager.bootstrap import prepare_first
from manager.config import InitConfig
from manager.dispatcher.dispatcher import Dispatcher
from manager.replica import LogStatus
from manager.store.changes import PutNode
from swarmapi.identity import TLSMaterial
from swarmapi.model.objects import Node, NodeDescription
from swarmapi.model.tables import NetworkTable
from tests.fakes.executor import FakeExecutor, RealClock
from tests.unit.manager_shell.cluster import MemoryCluster
from tests.unit.manager_shell.test_three_managers import Place as ManagerPlace
from tests.unit.manager_shell.wire import material, root_of, served
from worker.agent.leases import NodeLeases
from worker.agent.reporter import Reporter
from worker.agent.secrets import NodeSecrets
from worker.agent.session import Agent, AgentParts, Place, _leader_of
from worker.agent.tasks import TaskTable
from worker.cluster.ca_client import Applicant, join, renew
from worker.cluster.running import channel_to
from worker.cluster.tokens import JoinToken
from worker.engine.journal import Journal

SPEC = {
    "Name": "web",
    "TaskTemplate": {
        "ContainerSpec": {"Image": "busybox"},
        "Placement": {"Constraints": ["node.role==worker"]},
        "RestartPolicy": {"Delay": 0},
    },
    "Mode": {"Replicated": {"Replicas": 3}},
    "EndpointSpec": {"Ports": [{"TargetPort": 80}]},
}


class Tables:
    """Holds every table at once."""

    def __init__(self) -> None:
        self.tables: Mapping[str, NetworkTable] = {}

    async def set_tables(self, tables: Mapping[str, NetworkTable]) -> dict[str, int]:
        self.tables = tables
        return {i: t.revision for i, t in tables.items()}

    async def caught_up(self) -> dict[str, int]:
        await asyncio.Event().wait()  # nothing is ever late
        return {}


async def nothing(managers: list[str]) -> None:
    """Forget the managers' addresses."""


def agent_of(
    tls: TLSMaterial, target: str, executor: FakeExecutor, tables: Tables, journal: Path
) -> tuple[Agent, TaskTable]:
    reporter, clock = Reporter(), RealClock()
    tasks = TaskTable(Journal(journal), executor, clock, reporter.put)
    agent = Agent(
        AgentParts(
            place=lambda: Place(NodeDescription(hostname="w1"), "127.0.0.1", "127.0.0.1"),
            tasks=tasks,
            reporter=reporter,
            tables=tables,
            secrets=NodeSecrets(),
            logs=executor,
            leases=NodeLeases(tuple),
            execs=executor,
            vantages=executor.vantages,
            channel=lambda address: channel_to(address, tls),
            managers=[target],
            save_managers=nothing,
            clock=clock,
        )
    )
    tasks.open()
    return agent, tasks


def test_join_run_replace_and_remove(tmp_path: Path) -> None:
    async def story(place: ManagerPlace) -> None:
        prepare_first(InitConfig(place.paths, place.address, ("10.0.0.0/8",), 24), os.urandom)
        await place.start()
        cluster = await place.until("/swarm", lambda body: "JoinTokens" in body)
        token = JoinToken.parse(cluster["JoinTokens"]["Worker"])
        issued = await join(place.address, token, Applicant("127.0.0.1:1", "w1"))
        assert issued.role == "worker"
        applicant = Applicant("127.0.0.1:1", "w1")
        assert (await renew(place.address, issued.tls, applicant, time.time_ns())).role == "worker"
        executor, tables = FakeExecutor(), Tables()
        agent, tasks = agent_of(issued.tls, place.address, executor, tables, tmp_path / "journal")
        # The manager's own agent: it holds the ingress table and acknowledges withdrawals.
        own, own_tasks = agent_of(
            place.tls, place.address, FakeExecutor(), Tables(), tmp_path / "own"
        )
        agents = [asyncio.create_task(agent.run()), asyncio.create_task(own.run())]
        try:
            assert (await place.rest("POST", "/services/create", SPEC))[0] == 201

            await place.until(
                "/services?status=1",
                lambda body: body[0]["ServiceStatus"]["RunningTasks"] == 3,
            )
            (table,) = tables.tables.values()
            assert table.ingress
            (dead, *_) = list(executor.containers)
            executor.end(dead, 3)
            path = '/tasks?filters={"desired-state":["running"]}'
            after = await place.until(
                path,
                lambda body: (
                    len([t for t in body if t["Status"]["State"] == "running"]) == 3
                    and dead not in [t["ID"] for t in body]
                ),
            )
            assert {t["NodeID"] for t in after} == {issued.node_id}
            _, failed = await place.rest("GET", f"/tasks/{dead}")
            assert failed["Status"]["State"] == "failed"
            assert failed["Status"]["ContainerStatus"]["ExitCode"] == 3
            assert (await place.rest("DELETE", "/services/web"))[0] == 200
            await place.until("/tasks", lambda body: not body)
        finally:
            pending = set(agents)
            while pending:
                # gRPC may answer a cancellation with an error, which the agent takes for the end
                # of a session.
                for running in pending:
                    running.cancel()
                _, pending = await asyncio.wait(pending, timeout=0.1)
            await tasks.close()
            await own_tasks.close()

    async def main() -> None:
        place = ManagerPlace(tmp_path / "m")
        try:
            await asyncio.wait_for(story(place), 20)
        finally:
            await place.stop()

    asyncio.run(main())


def test_assignments_beyond_the_size_of_grpcs_default_arrive(tmp_path: Path) -> None:
    async def story(place: ManagerPlace) -> None:
        prepare_first(InitConfig(place.paths, place.address, ("10.0.0.0/8",), 24), os.urandom)
        await place.start()
        await place.until("/swarm", lambda body: "JoinTokens" in body)
        container = {"Image": "busybox", "Env": ["LONG=" + "x" * 400_000]}
        spec = {
            "Name": "long",
            "TaskTemplate": {"ContainerSpec": container},
            "Mode": {"Replicated": {"Replicas": 12}},
        }
        assert (await place.rest("POST", "/services/create", spec))[0] == 201
        executor = FakeExecutor()
        agent, tasks = agent_of(place.tls, place.address, executor, Tables(), tmp_path / "journal")
        running = asyncio.create_task(agent.run())
        try:
            await place.until(
                "/services?status=1", lambda body: body[0]["ServiceStatus"]["RunningTasks"] == 12
            )
        finally:
            while not running.done():
                running.cancel()
                await asyncio.wait([running], timeout=0.1)
            await tasks.close()

    async def main() -> None:
        place = ManagerPlace(tmp_path / "m")
        try:
            await asyncio.wait_for(story(place), 20)
        finally:
            await place.stop()

    asyncio.run(main())


def test_a_manager_that_does_not_lead_names_the_leader_to_every_agent(tmp_path: Path) -> None:
    """The agent is sent on at once, without a guess, however its first write meets the refusal."""

    async def main() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        await cluster.store.propose((PutNode(node=Node(id="w1"), expect_version=0),))
        leader = "127.0.0.1:2377"
        cluster.log.become(LogStatus(False, False, "m2", leader))
        tls = material(root_of(cluster), "w1")
        async with served(cluster, Dispatcher(cluster.store)) as target:
            agent, tasks = agent_of(tls, target, FakeExecutor(), Tables(), tmp_path / "journal")
            refusals = []
            for _ in range(10):
                try:
                    await asyncio.wait_for(agent._session(target), 10)
                except grpc.aio.AioRpcError as error:
                    refusals.append((error.code().name, _leader_of(error)))
            await tasks.close()
            assert refusals == [("UNAVAILABLE", leader)] * 10

    asyncio.run(main())
