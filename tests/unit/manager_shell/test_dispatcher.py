"""Sessions over loopback gRPC with mutual TLS; liveness on a clock of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
import msgspec
import pytest

from manager.control.lookup import find_service
from manager.control.nodes import remove_node
from manager.control.services import create_service, remove_service, update_service
from manager.dispatcher.dispatcher import MERGE_S, MESSAGES_A_SECOND, Dispatcher
from manager.dispatcher.liveness import Liveness, beat_period_s
from manager.replica import LogStatus
from manager.store.changes import Change, PutCluster, PutNetwork, PutNode, SetNodeStatus
from swarmapi.errors import NotLeader
from swarmapi.model.objects import Network, Node, NodeState, RootCA, TaskState
from swarmapi.model.spec import (
    ClusterSpec,
    ContainerSpec,
    DispatcherConfig,
    EndpointSpec,
    NetworkSpec,
    NodeRole,
    NodeSpec,
    Placement,
    PortConfig,
    Replicated,
    ServiceMode,
    ServiceSpec,
    TaskTemplate,
)
from swarmapi.model.tables import NetworkTable, TableDelta, apply_delta
from swarmapi.v1 import dispatcher_pb2 as pb
from swarmapi.v1 import dispatcher_pb2_grpc
from tests.unit.manager_shell.cluster import MemoryCluster
from tests.unit.manager_shell.wire import Agent, material, root_of, served, tasks_in

Story = Callable[["Field"], Awaitable[None]]


class Field:
    """A cluster with worker w1 joined, a dispatcher on a manual clock, and agents."""

    def __init__(self, cluster: MemoryCluster, dispatcher: Dispatcher, target: str) -> None:
        self.cluster = cluster
        self.dispatcher = dispatcher
        self.target = target
        self.agents: list[Agent] = []

    def agent(self, node_id: str = "w1", cluster_id: str = "cluster1") -> Agent:
        tls = material(root_of(self.cluster), node_id, NodeRole.WORKER, cluster_id)
        self.agents.append(Agent(self.target, tls, node_id))
        return self.agents[-1]


class Hand:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def play(story: Story, clock: Callable[[], float] | None = None) -> None:
    async def main() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        await cluster.store.propose((PutNode(node=Node(id="w1"), expect_version=0),))
        await cluster.settle()
        dispatcher = Dispatcher(cluster.store, clock=clock or Hand())
        cluster.loop._acks = lambda: dispatcher.acks
        async with served(cluster, dispatcher) as target:
            field = Field(cluster, dispatcher, target)
            try:
                await asyncio.wait_for(story(field), 30)
            finally:
                for agent in field.agents:
                    await agent.close()

    asyncio.run(main())


def spec(*, port: int = 0, image: str = "busybox", on: str = "node.role==worker") -> ServiceSpec:
    ports = (PortConfig(target_port=80, published_port=port),) if port else ()
    return ServiceSpec(
        name="web",
        task_template=TaskTemplate(
            container_spec=ContainerSpec(image=image), placement=Placement(constraints=(on,))
        ),
        mode=ServiceMode(replicated=Replicated(replicas=1)),
        endpoint_spec=EndpointSpec(ports=ports) if ports else None,
    )


def test_session_makes_ready_assigns_reports_and_removes() -> None:
    async def story(field: Field) -> None:
        store, cluster = field.cluster.store, field.cluster
        agent = field.agent()
        welcome = await agent.hello()
        node = store.view.nodes["w1"]
        assert node.state == NodeState.READY
        assert node.description.hostname == "host-w1"
        assert (welcome.role, welcome.beat_every_ms) == ("worker", 1000)
        assert list(welcome.managers) == ["127.0.0.1:2377"]
        first = await agent.assignments()
        assert (first.kind, first.chain) == (pb.Assignments.COMPLETE, 1)
        assert not first.tasks
        await create_service(store, spec())
        await cluster.settle()
        second = await agent.assignments()
        while not second.tasks:
            second = await agent.assignments()
        (task,) = tasks_in(second)
        assert second.kind == pb.Assignments.INCREMENTAL
        assert (task.node_id, task.desired) == ("w1", TaskState.RUNNING)
        await agent.report(task.id, TaskState.RUNNING)
        assert await agent.stored() == [task.id]
        assert store.view.tasks[task.id].status.state == TaskState.RUNNING
        await remove_service(store, "web")
        await cluster.settle()
        stop = await agent.assignments()
        (stopped,) = tasks_in(stop)
        assert stopped.desired == TaskState.REMOVE
        assert stop.chain == second.chain + 1
        await agent.report(task.id, TaskState.SHUTDOWN)
        await agent.stored()
        await cluster.settle()
        gone = await agent.assignments()
        assert list(gone.removed_tasks) == [task.id]

    play(story)


def test_b57_new_session_gets_the_whole_set_and_ends_the_old_one() -> None:
    async def story(field: Field) -> None:
        agent = field.agent()
        await agent.hello()
        await create_service(field.cluster.store, spec())
        await field.cluster.settle()
        again = field.agent()
        await again.hello()
        complete = await again.assignments()
        assert complete.kind == pb.Assignments.COMPLETE
        assert [t.service_name for t in tasks_in(complete)] == ["web"]
        code, message, _ = await agent.failure()
        assert (code, message) == ("ABORTED", "another session of this node began")

    play(story)


def test_b57_a_fourth_session_within_eight_seconds_is_refused() -> None:
    hand = Hand()

    async def story(field: Field) -> None:
        welcomes = [await field.agent().hello() for _ in range(3)]
        assert len({w.session_id for w in welcomes}) == 3
        code, message, _ = await field.agent().refused()
        assert code == "UNAVAILABLE"
        assert "3 sessions within 8 s" in message
        hand.now += 8
        await field.agent().hello()

    play(story, hand)


def test_tables_travel_as_deltas_and_acks_reach_the_turn() -> None:
    async def story(field: Field) -> None:
        store, cluster = field.cluster.store, field.cluster
        acked = asyncio.Event()
        field.dispatcher.on_acks = acked.set
        agent = field.agent()
        await agent.hello()
        complete = await agent.assignments()
        (raw,) = complete.tables
        table = apply_delta(None, msgspec.msgpack.decode(raw, type=TableDelta))
        assert table is not None
        assert table.ingress
        await create_service(store, spec(port=8080))
        await cluster.settle()

        async def follow(table: NetworkTable) -> NetworkTable:
            message = await agent.assignments()
            for raw in message.tables:
                delta = msgspec.msgpack.decode(raw, type=TableDelta)
                assert delta.full is None
                following = apply_delta(table, delta)
                assert following is not None
                table = following
            return table

        while not table.endpoints:
            table = await follow(table)
        network = store.view.networks[table.network_id]
        assert table.revision == network.table_index
        acked.clear()
        await agent.ack({table.network_id: table.revision})
        await acked.wait()
        assert field.dispatcher.acks["w1"] == {table.network_id: table.revision}
        again = field.agent()
        await again.hello(tables={table.network_id: table.revision})
        (raw,) = (await again.assignments()).tables
        same = msgspec.msgpack.decode(raw, type=TableDelta)
        assert (same.full, same.base, same.revision) == (None, table.revision, table.revision)

    play(story)


def test_update_replaces_the_task_on_the_node() -> None:
    async def story(field: Field) -> None:
        store, cluster = field.cluster.store, field.cluster
        agent = field.agent()
        await agent.hello()
        await agent.assignments()
        await create_service(store, spec())
        await cluster.settle()
        (old,) = tasks_in(await agent.assignments())
        await agent.report(old.id, TaskState.RUNNING)
        await agent.stored()
        service = find_service(store.view, "web")
        await update_service(store, "web", spec(image="busybox:2"), service.meta.version)
        await cluster.settle()
        changed = {t.id: t for t in tasks_in(await agent.assignments())}
        assert changed[old.id].desired == TaskState.SHUTDOWN

    play(story)


def test_b59_report_for_another_nodes_task_is_refused() -> None:
    async def story(field: Field) -> None:
        store = field.cluster.store
        await create_service(store, spec(on="node.role==manager"))
        await field.cluster.settle()
        (task,) = store.view.tasks.values()
        assert task.node_id == "m1"
        agent = field.agent()
        await agent.hello()
        await agent.report(task.id, TaskState.FAILED)
        code, message, _ = await agent.failure()
        assert code == "PERMISSION_DENIED"
        assert message == f"task {task.id} is not on node w1"
        assert store.view.tasks[task.id].status.state == TaskState.ASSIGNED

    play(story)


def test_orphaned_is_no_agents_report_and_assigned_is_no_news() -> None:
    async def story(field: Field) -> None:
        store = field.cluster.store
        agent = field.agent()
        await agent.hello()
        await create_service(store, spec())
        await field.cluster.settle()
        (task,) = store.view.tasks.values()
        version = task.meta.version
        await agent.report(task.id, TaskState.ASSIGNED)
        assert await agent.stored() == [task.id]
        assert store.view.tasks[task.id].meta.version == version
        await agent.report(task.id, TaskState.ORPHANED)
        code, message, _ = await agent.failure()
        assert code == "INVALID_ARGUMENT"
        assert "ORPHANED" in message

    play(story)


@pytest.mark.parametrize(
    ("node_id", "cluster_id", "words"),
    [("stranger", "cluster1", "is not in the cluster"), ("w1", "other", "for another cluster")],
)
def test_strangers_are_refused(node_id: str, cluster_id: str, words: str) -> None:
    async def story(field: Field) -> None:
        code, message, _ = await field.agent(node_id, cluster_id).refused()
        assert code == "PERMISSION_DENIED"
        assert words in message

    play(story)


def test_b60_removed_node_loses_its_session_for_ever() -> None:
    async def story(field: Field) -> None:
        agent = field.agent()
        await agent.hello()
        await remove_node(field.cluster.store, "w1", force=True)
        assert (await agent.failure())[0] == "PERMISSION_DENIED"
        code, message, _ = await field.agent().refused()
        assert code == "PERMISSION_DENIED"
        assert "was removed" in message

    play(story)


def test_member_that_does_not_lead_names_the_leader() -> None:
    async def story(field: Field) -> None:
        agent = field.agent()
        await agent.hello()
        field.cluster.log.become(LogStatus(False, True, "m2", "10.0.0.2:2377"))
        code, _, metadata = await agent.failure()
        assert (code, metadata["swarm-leader"]) == ("UNAVAILABLE", "10.0.0.2:2377")
        code, _, metadata = await field.agent().refused()
        assert (code, metadata["swarm-leader"]) == ("UNAVAILABLE", "10.0.0.2:2377")

    play(story)


def test_nothing_is_refused_before_hello_was_read() -> None:
    """A write that meets a call that has ended tells the agent INTERNAL, and not who leads."""

    class Peer:
        def __init__(self, root: RootCA) -> None:
            self._certificate = material(root, "w1").cert_pem

        def auth_context(self) -> dict[str, list[bytes]]:
            return {"x509_pem_cert": [self._certificate]}

    async def story(field: Field) -> None:
        read: list[str] = []

        async def messages() -> AsyncIterator[pb.AgentMessage]:
            read.append("hello")
            yield pb.AgentMessage(hello=pb.Hello(format=1))

        field.cluster.log.become(LogStatus(False, True, "m2", "10.0.0.2:2377"))
        with pytest.raises(NotLeader) as refusal:
            await field.dispatcher.converse(messages(), Peer(root_of(field.cluster)))
        assert (read, refusal.value.leader) == (["hello"], "10.0.0.2:2377")

    play(story)


def test_leadership_lost_during_the_hello_leaves_no_session() -> None:
    async def story(field: Field) -> None:
        lost = LogStatus(False, True, "m2", "10.0.0.2:2377")
        field.cluster.replica.subscribe(lambda _: field.cluster.log.become(lost))
        with pytest.raises(grpc.aio.AioRpcError, match="leader"):
            await field.agent().hello()

    play(story)


def test_promotion_ends_the_session_so_that_the_next_tells_the_role() -> None:
    async def story(field: Field) -> None:
        store = field.cluster.store
        agent = field.agent()
        await agent.hello()
        node = store.view.nodes["w1"]
        promoted = msgspec.structs.replace(node, spec=NodeSpec(role=NodeRole.MANAGER))
        await store.propose((PutNode(node=promoted),))
        assert (await agent.failure())[0] == "ABORTED"
        assert (await field.agent().hello()).role == "manager"

    play(story)


def test_b58_silent_node_becomes_unknown_then_down() -> None:
    clock = Hand()

    async def story(field: Field) -> None:

        def state() -> NodeState:
            return field.cluster.store.view.nodes["w1"].state

        agent = field.agent()
        await agent.hello()
        clock.now += 2.9
        await field.dispatcher.expire()
        assert state() == NodeState.READY
        clock.now += 0.2
        await field.dispatcher.expire()
        assert state() == NodeState.UNKNOWN
        clock.now += 0.5
        await field.dispatcher.expire()
        assert state() == NodeState.DOWN
        assert (await agent.failure())[0] == "UNAVAILABLE"
        await field.agent().hello()
        assert state() == NodeState.READY

    play(story, clock)


def test_every_beat_is_answered_and_counts() -> None:
    clock = Hand()

    async def story(field: Field) -> None:
        agent = field.agent()
        await agent.hello()
        for _ in range(3):
            clock.now += 2.9
            await agent.beat()
        await field.dispatcher.expire()
        assert field.cluster.store.view.nodes["w1"].state == NodeState.READY

    play(story, clock)


def test_time_of_a_stalled_loop_does_not_count_and_a_new_leader_waits_double() -> None:
    liveness = Liveness()
    liveness.register("n", 0.0, 1.0)
    liveness.tick(0.0, 0.25)
    liveness.tick(60.0, 0.25)
    assert liveness.expired(60.0) == []
    liveness.tick(60.25, 0.25)
    assert liveness.expired(62.7) == []
    assert liveness.expired(63.3) == [("n", "down")]
    assert liveness.expired(63.4) == []
    liveness.lead(["n"], 100.0, 1.0)
    assert liveness.expired(105.9) == []
    assert liveness.expired(106.1) == [("n", "unknown")]


def test_a_shorter_period_does_not_expire_those_told_the_longer_one() -> None:
    clock = Hand()

    async def story(field: Field) -> None:
        cluster = field.cluster.store.view.cluster
        assert cluster is not None

        async def beat_every(period_ns: int) -> None:
            present = field.cluster.store.view.cluster
            assert present is not None
            spec = ClusterSpec(dispatcher=DispatcherConfig(heartbeat_period=period_ns))
            changed = msgspec.structs.replace(present, spec=spec)
            await field.cluster.store.propose((PutCluster(cluster=changed),))

        await beat_every(5_000_000_000)
        welcome = await field.agent().hello()
        assert welcome.beat_every_ms == 5000
        await beat_every(1_000_000_000)
        clock.now += 14
        await field.dispatcher.expire()
        assert field.cluster.store.view.nodes["w1"].state == NodeState.READY

    play(story, clock)


def test_b58_new_leader_waits_double_then_marks_the_silent_node_down() -> None:
    clock = Hand()

    async def story(field: Field) -> None:
        log = field.cluster.log
        agent = field.agent()
        await agent.hello()
        log.become(LogStatus(False, True, "m2", "10.0.0.2:2377"))
        await agent.failure()
        clock.now += 60
        log.become(LogStatus(True, True, "m1"))
        clock.now += 5.9
        await field.dispatcher.expire()
        assert field.cluster.store.view.nodes["w1"].state == NodeState.READY
        clock.now += 0.7
        await field.dispatcher.expire()
        assert field.cluster.store.view.nodes["w1"].state.value == "down"

    play(story, clock)


def test_node_that_joined_and_never_came_is_down() -> None:
    clock = Hand()

    async def story(field: Field) -> None:
        store = field.cluster.store
        await store.propose((PutNode(node=Node(id="w2"), expect_version=0),))
        clock.now += 5.9
        await field.dispatcher.expire()
        assert store.view.nodes["w2"].state == NodeState.UNKNOWN
        clock.now += 0.7
        await field.dispatcher.expire()
        assert store.view.nodes["w2"].state.value == "down"

    play(story, clock)


def test_beats_grow_slower_with_the_cluster() -> None:
    assert [beat_period_s(1.0, n) for n in (1, 100, 550, 1000, 5000)] == [1, 1, 3, 5, 5]


def test_b57_without_a_certificate_there_is_no_session() -> None:
    async def story(field: Field) -> None:
        root = grpc.ssl_channel_credentials(root_of(field.cluster).cert_pem)
        options = [("grpc.ssl_target_name_override", "swarm-manager")]
        async with grpc.aio.secure_channel(field.target, root, options=options) as channel:
            stubs: Any = dispatcher_pb2_grpc
            call = stubs.DispatcherStub(channel).Session()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    play(story)


def test_a_change_wakes_the_sessions_it_concerns_alone() -> None:
    async def story(field: Field) -> None:
        store, sessions = field.cluster.store, field.dispatcher._sessions
        await store.propose((PutNode(node=Node(id="w2"), expect_version=0),))
        await field.cluster.settle()
        for agent in (field.agent("w1"), field.agent("w2")):
            await agent.hello()
        await field.cluster.settle()

        async def woken_by(*changes: Change) -> set[str]:
            while any(session.changed.is_set() for session in sessions.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await store.propose(changes)
            return {i for i, session in sessions.items() if session.changed.is_set()}

        status = SetNodeStatus(node_id="w2", state=NodeState.READY, message="hot")
        assert await woken_by(status) == {"w2"}
        manager = store.view.nodes["m1"]
        same = msgspec.structs.replace(manager, message="hot")
        assert await woken_by(PutNode(node=same)) == set()
        moved = msgspec.structs.replace(manager, manager_address="192.0.2.1:2377")
        assert await woken_by(PutNode(node=moved)) == {"w1", "w2"}
        net = Network(id="net", spec=NetworkSpec(name="net", driver="overlay"))
        assert await woken_by(PutNetwork(network=net)) == set()

    play(story)


def test_a_silence_found_while_a_session_begins_does_not_outlive_it() -> None:
    """Ten seconds after its join a node came, and was marked down for ever in the same moment."""
    clock = Hand()

    async def story(field: Field) -> None:
        store = field.cluster.store
        await store.propose((PutNode(node=Node(id="w2"), expect_version=0),))
        clock.now += 60
        propose = store.propose

        async def slow(changes: Iterable[Change], request_id: str = "") -> None:
            await propose(changes, request_id)
            store.propose = propose  # type: ignore[method-assign]
            await field.dispatcher.expire()

        store.propose = slow  # type: ignore[method-assign]
        await field.agent("w2").hello()
        assert store.view.nodes["w2"].state == NodeState.READY

    play(story, clock)


def test_what_is_reported_again_is_not_stored_again() -> None:
    async def story(field: Field) -> None:
        cluster = field.cluster
        agent = field.agent()
        await agent.hello()
        await create_service(cluster.store, spec())
        await cluster.settle()
        (task,) = cluster.store.view.tasks.values()
        await agent.report(task.id, TaskState.RUNNING)
        assert await agent.stored() == [task.id]
        await cluster.settle()
        index = cluster.store.view.index
        await agent.report(task.id, TaskState.RUNNING)
        assert await agent.stored() == [task.id]
        assert cluster.store.view.index == index

    play(story)


def test_sessions_of_a_large_cluster_rest_longer_between_messages() -> None:
    async def story(field: Field) -> None:
        one = field.agent()
        await one.hello()
        session = field.dispatcher._sessions["w1"]
        assert field.dispatcher._merge_s() == MERGE_S
        many = dict.fromkeys(map(str, range(2_000)), session)
        field.dispatcher._sessions = many
        assert field.dispatcher._merge_s() == 2_000 / MESSAGES_A_SECOND
        field.dispatcher._sessions = {"w1": session}

    play(story)
