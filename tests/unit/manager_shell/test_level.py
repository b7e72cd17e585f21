"""Managers of two versions: what one of them does not know is not done, or it stops."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from msgspec.structs import replace

from manager.replica import LogStatus, Replica
from manager.store.changes import (
    PutApiToken,
    PutNetwork,
    PutNode,
    PutService,
    PutSpecVersion,
    SetNodeLevel,
    SetNodeSpec,
    SetServiceEndpoint,
)
from manager.store.level import LEVEL, TooNew, needed
from manager.telling import LevelTeller
from swarmapi.errors import FailedPrecondition
from swarmapi.model.objects import (
    ApiToken,
    Network,
    Node,
    NodeDescription,
    Service,
    ServiceEndpoint,
    SpecVersion,
)
from swarmapi.model.spec import (
    EndpointSpec,
    NetworkSpec,
    NodeRole,
    NodeSpec,
    PortConfig,
    ServiceSpec,
)
from tests.fakes.manager_log import FakeEntry
from tests.unit.manager_shell.cluster import MemoryCluster

TOKEN = PutApiToken(token=ApiToken(id="t1", name="ci", role="viewer", digest="d"))
Story = Callable[[MemoryCluster], Coroutine[Any, Any, None]]


def run(story: Story) -> None:
    async def whole() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        older(cluster)
        await cluster.store.propose((second_manager(0),))
        await cluster.settle()
        await story(cluster)

    asyncio.run(whole())


def older(cluster: MemoryCluster) -> None:
    """Make it a cluster of before there were levels."""
    view = cluster.store.view
    assert view.cluster is not None
    view.cluster = replace(view.cluster, level=0)
    view.put_node(replace(view.nodes["m1"], level=0))


def second_manager(level: int) -> PutNode:
    node = Node(
        id="m2",
        spec=NodeSpec(role=NodeRole.MANAGER),
        description=NodeDescription(hostname="host2"),
        manager_address="127.0.0.1:2378",
        level=level,
    )
    return PutNode(node=node)


def level_of(cluster: MemoryCluster) -> int:
    assert cluster.store.view.cluster is not None
    return cluster.store.view.cluster.level


def test_a_founded_cluster_is_at_the_level_of_its_program() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        assert level_of(cluster) == LEVEL
        await cluster.store.propose((TOKEN,))

    asyncio.run(story())


def test_a_change_that_one_manager_does_not_know_is_refused_and_it_is_named() -> None:
    async def story(cluster: MemoryCluster) -> None:
        store = cluster.store
        told = SetNodeLevel(node_id="m1", known=LEVEL, version="2.0")
        older_word = SetNodeLevel(node_id="m2", known=0, version="1.9")
        await store.propose((told, older_word))
        await cluster.settle()
        assert level_of(cluster) == 0
        ipv6 = Network(id="n6", spec=NetworkSpec(name="six", driver="overlay", enable_ipv6=True))
        for change in (TOKEN, PutNetwork(network=ipv6)):
            with pytest.raises(FailedPrecondition) as refused:
                await store.propose((change,))
            assert refused.value.message == (
                "this needs every manager at level 1; host2 is at 0 (version 1.9): upgrade it"
            )
        ipv4 = replace(ipv6, spec=replace(ipv6.spec, enable_ipv6=False))
        await store.propose((PutNetwork(network=ipv4),))

    run(story)


@pytest.mark.parametrize(
    ("port", "level"),
    [
        (PortConfig(target_port=80), 0),
        (PortConfig(target_port=80, source="snat"), 1),
        (PortConfig(target_port=80, address="10.0.0.5"), 1),
        (PortConfig(target_port=80, interface="eth0"), 1),
    ],
)
def test_a_port_at_a_place_or_with_a_source_has_a_level(port: PortConfig, level: int) -> None:
    spec = ServiceSpec(name="web", endpoint_spec=EndpointSpec(ports=(port,)))
    endpoint = ServiceEndpoint(ports=(port,))
    plain = ServiceSpec(name="web")
    for change in (
        PutService(service=Service(id="s", spec=spec, spec_version=1)),
        PutService(service=Service(id="s", spec=plain, spec_version=1, endpoint=endpoint)),
        PutSpecVersion(record=SpecVersion(service_id="s", version=1, spec=spec)),
        SetServiceEndpoint(service_id="s", endpoint=endpoint),
    ):
        assert needed((change,)) == level


def test_the_level_rises_with_the_last_manager_and_does_not_fall() -> None:
    async def story(cluster: MemoryCluster) -> None:
        store = cluster.store
        await store.propose((SetNodeLevel(node_id="m1", known=LEVEL),))
        await cluster.settle()
        assert level_of(cluster) == 0
        await store.propose((SetNodeLevel(node_id="m2", known=LEVEL + 5),))
        await cluster.settle()
        assert level_of(cluster) == LEVEL
        await store.propose((TOKEN,))
        await store.propose((SetNodeLevel(node_id="m2", known=0),))
        await cluster.settle()
        assert level_of(cluster) == LEVEL

    run(story)


def test_a_demoted_manager_holds_nothing_up() -> None:
    async def story(cluster: MemoryCluster) -> None:
        store = cluster.store
        await store.propose((SetNodeLevel(node_id="m1", known=LEVEL),))
        demoted = SetNodeSpec(
            node_id="m2",
            spec=NodeSpec(role=NodeRole.WORKER),
            read_index=store.view.nodes["m2"].meta.version,
        )
        await store.propose((demoted,))
        await cluster.settle()
        assert level_of(cluster) == LEVEL

    run(story)


def test_a_manager_stops_at_an_entry_that_it_does_not_know() -> None:
    async def story(cluster: MemoryCluster) -> None:
        entries: list[bytes] = []
        propose = cluster.store.log.propose

        async def recorded(payload: bytes) -> int:
            entries.append(payload)
            return await propose(payload)

        cluster.store.log.propose = recorded  # type: ignore[method-assign]
        for node_id in ("m1", "m2"):
            await cluster.store.propose((SetNodeLevel(node_id=node_id, known=LEVEL),))
        await cluster.settle()
        await cluster.store.propose((TOKEN,))
        behind = Replica(known=LEVEL - 1)
        with pytest.raises(TooNew, match="at level 1 of changes, this manager knows 0"):
            behind.apply([FakeEntry(i, payload) for i, payload in enumerate(entries, 1)])
        assert behind.view.cluster is None
        with pytest.raises(TooNew):
            Replica(known=LEVEL - 1).restore(cluster.store.replica.freeze())
        Replica().restore(cluster.store.replica.freeze())

    run(story)


def test_each_manager_tells_its_level_by_itself_or_through_the_leader() -> None:
    async def story(cluster: MemoryCluster) -> None:
        asked: list[str] = []

        async def ask(leader: str) -> None:
            asked.append(leader)

        store = cluster.store
        teller = LevelTeller("m1", "2.0", store, ask)
        await teller.step()
        node = store.view.nodes["m1"]
        assert (node.level, node.manager_version, asked) == (LEVEL, "2.0", [])
        index = store.view.index
        await teller.step()
        assert store.view.index == index, "what is known is told once"
        cluster.log.become(LogStatus(False, False, "m3", "127.0.0.1:2379"))
        await LevelTeller("m2", "2.0", store, ask).step()
        assert asked == ["127.0.0.1:2379"]

    run(story)


def test_a_level_that_is_told_is_no_new_version_of_the_node() -> None:
    async def story(cluster: MemoryCluster) -> None:
        store, told = cluster.store, []
        before = store.view.nodes["m2"]
        cluster.replica.subscribe(lambda applied: told.append(applied))
        await store.propose((SetNodeLevel(node_id="m2", known=1, version="2.0"),))
        after = store.view.nodes["m2"]
        assert (after.level, after.manager_version) == (1, "2.0")
        assert after.meta == before.meta, "a manager of before levels knows no newer one"
        assert told[0].changed["node", "m2"] == (before, after)
        assert ("node", "m2") in told[0].dirty

    run(story)
