"""Raft's members follow the store."""

import asyncio

from msgspec.structs import replace

from manager.control.cluster import leave
from manager.control.nodes import remove_node, update_node
from manager.roster import Roster
from manager.store.changes import PutNode, SetNodeStatus
from swarmapi.model.objects import Node, NodeState
from swarmapi.model.spec import NodeRole, NodeSpec
from tests.unit.manager_shell.cluster import MemoryCluster


async def of_three() -> MemoryCluster:
    cluster = MemoryCluster()
    await cluster.found()
    for node_id in ("m2", "m3"):
        node = Node(id=node_id, spec=NodeSpec(role=NodeRole.MANAGER))
        await cluster.store.propose((PutNode(node=node),))
        ready = SetNodeStatus(node_id=node_id, state=NodeState.READY)
        await cluster.store.propose((ready,))
        await cluster.log.add_member(node_id, f"{node_id}:2377")
    return cluster


def test_b60_demoted_and_leaving_managers_leave_raft() -> None:
    async def story() -> None:
        cluster = await of_three()
        roster = Roster(cluster.store)
        await roster.step()
        assert set(cluster.log.members()) == {"m1", "m2", "m3"}
        node = cluster.store.view.nodes["m2"]
        worker = replace(node.spec, role=NodeRole.WORKER)
        await update_node(cluster.store, "m2", worker, node.meta.version)
        await roster.step()
        assert set(cluster.log.members()) == {"m1", "m3"}
        await leave(cluster.store, "m3", force=True)
        assert not cluster.store.view.nodes["m3"].is_manager
        await roster.step()
        assert set(cluster.log.members()) == {"m1"}
        await remove_node(cluster.store, "m3", force=True)
        assert "m3" not in cluster.store.view.nodes

    asyncio.run(story())


def test_leaving_does_not_fail_because_the_node_changed_meanwhile() -> None:
    async def story() -> None:
        cluster = await of_three()
        moved = SetNodeStatus(node_id="m3", state=NodeState.READY, message="beating again")
        await asyncio.gather(
            cluster.store.propose((moved,)), leave(cluster.store, "m3", force=True, request_id="r")
        )
        assert not cluster.store.view.nodes["m3"].is_manager

    asyncio.run(story())


def test_the_leader_itself_goes_last() -> None:
    async def story() -> None:
        cluster = await of_three()
        for node_id in ("m1", "m2"):
            node = cluster.store.view.nodes[node_id]
            worker = replace(node, spec=NodeSpec())
            await cluster.store.propose((PutNode(node=worker),))
        assert Roster(cluster.store).surplus() == ["m2", "m1"]

    asyncio.run(story())
