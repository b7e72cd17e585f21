"""What a mass disappearance looks like from outside, and how it is called off."""

import asyncio

import pytest

from manager.control.nodes import rescheduling, resume_rescheduling
from manager.control.services import create_service
from manager.control.tasks import explain
from manager.store.changes import PutNode, SetNodeStatus
from swarmapi.errors import FailedPrecondition
from swarmapi.model.objects import NodeState
from tests.builders import node, spec
from tests.unit.manager_shell.cluster import MemoryCluster


def test_the_pause_is_told_and_called_off() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        store = cluster.store
        await store.propose([PutNode(node=node(f"w{i}")) for i in range(5)])
        await create_service(store, spec(replicas=6))
        await cluster.settle()
        await cluster.run_tasks()
        assert rescheduling(store.view) == {"Paused": False, "Share": 0.5}
        with pytest.raises(FailedPrecondition, match="not paused"):
            await resume_rescheduling(store)
        lost = [SetNodeStatus(node_id=f"w{i}", state=NodeState.DOWN) for i in range(4)]
        await store.propose(lost)
        await cluster.settle()
        told = rescheduling(store.view)
        assert (told["Paused"], told["Lost"]) == (True, ["w0", "w1", "w2", "w3"])
        (task,) = store.view.tasks_of_node("w0")
        assert "rescheduling is paused: 4 of" in explain(store.view, task)["Message"]
        await resume_rescheduling(store)
        await cluster.settle()
        assert rescheduling(store.view)["Paused"] is False
        assert task.id not in {
            t.id for t in store.view.tasks.values() if t.desired.name == "RUNNING"
        }

    asyncio.run(asyncio.wait_for(story(), 30))
