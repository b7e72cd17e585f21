"""Global services and the enforcer."""

import pytest
from msgspec.structs import replace

from manager.store import changes as c
from swarmapi.model.objects import NodeState, TaskState
from swarmapi.model.spec import Availability
from tests.builders import MIB, World, node, spec


def started(*, constraints: tuple[str, ...] = ()) -> World:
    made = World()
    made.add_nodes(node("n1", labels={"disk": "ssd"}), node("n2"))
    made.put_service("g", spec("g", replicas=None, constraints=constraints))
    made.converge()
    return made


def on(made: World) -> list[str]:
    return [t.node_id for t in made.running("g")]


def set_availability(made: World, node_id: str, availability: Availability) -> None:
    old = made.view.nodes[node_id]
    changed = replace(old, spec=replace(old.spec, availability=availability))
    made.commit(c.PutNode(node=changed))
    made.converge()


def test_follows_nodes() -> None:
    """B38: one task per node that is ready and fit; nodes that join get one."""
    made = started()
    assert on(made) == ["n1", "n2"]
    made.add_nodes(node("n3"), node("n4", state=NodeState.UNKNOWN))
    made.converge()
    assert on(made) == ["n1", "n2", "n3"]
    made.commit(c.SetNodeStatus(node_id="n4", state=NodeState.READY))
    made.converge()
    assert on(made) == ["n1", "n2", "n3", "n4"]


def test_drain_and_return() -> None:
    """B38: shut down on drain, made again when active."""
    made = started()
    set_availability(made, "n1", Availability.DRAIN)
    assert on(made) == ["n2"]
    set_availability(made, "n1", Availability.ACTIVE)
    assert on(made) == ["n1", "n2"]


def test_down_and_return() -> None:
    """B38: a lost node's task is given up and made again."""
    made = started()
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.DOWN))
    made.converge()
    assert on(made) == ["n2"]
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.READY))
    made.converge()
    assert on(made) == ["n1", "n2"]


def test_labels_decide() -> None:
    """B38: a node that stops matching loses its task, one that begins gets one."""
    made = started(constraints=("node.labels.disk==ssd",))
    assert on(made) == ["n1"]
    for node_id, labels in (("n1", None), ("n2", {"disk": "ssd"})):
        old = made.view.nodes[node_id]
        made.commit(c.PutNode(node=replace(old, spec=replace(old.spec, labels=labels))))
    made.converge()
    assert on(made) == ["n2"]


def test_deleted_node_takes_its_records() -> None:
    """B38: records of a removed node are deleted."""
    made = started()
    made.commit(c.Delete(object="node", id="n1"))
    made.converge()
    assert {t.node_id for t in made.view.tasks.values()} == {"n2"}


def test_paused_node_is_left_alone() -> None:
    """B39: no task is added, updated or restarted on a paused node."""
    made = started()
    set_availability(made, "n1", Availability.PAUSE)
    assert on(made) == ["n1", "n2"]
    kept = next(t for t in made.running("g") if t.node_id == "n1")
    made.put_service("g", spec("g", replicas=None, image="image:2"))
    made.converge()
    assert {t.node_id: t.spec_version for t in made.running("g")} == {"n1": 1, "n2": 2}
    made.report(kept.id, TaskState.FAILED)
    made.converge()
    assert on(made) == ["n2"]
    assert [t.id for t in made.view.tasks_of_node("n1")] == [kept.id]
    set_availability(made, "n1", Availability.ACTIVE)
    made.converge()
    assert {t.node_id: t.spec_version for t in made.running("g")} == {"n1": 2, "n2": 2}


def test_extra_task_is_stopped() -> None:
    """B40: of two live tasks on one node one remains."""
    made = started()
    twin = replace(made.running("g")[0], id="twin")
    made.commit(c.PutTask(task=twin))
    made.converge()
    assert on(made) == ["n1", "n2"]


@pytest.mark.parametrize("shrunk", ["label", "memory"])
def test_enforcer_moves_what_no_longer_fits(shrunk: str) -> None:
    """B45: rejected and replaced elsewhere when labels or resources change."""
    made = World()
    made.add_nodes(node("n1", labels={"disk": "ssd"}), node("n2", state=NodeState.UNKNOWN))
    made.put_service("s", spec("s", memory_bytes=200 * MIB, constraints=("node.labels.disk==ssd",)))
    made.converge()
    old = made.running("s")[0]
    made.add_nodes(node("n2", labels={"disk": "ssd"}))
    if shrunk == "label":
        made.add_nodes(node("n1"))
    else:
        made.add_nodes(node("n1", labels={"disk": "ssd"}, memory_bytes=100 * MIB))
    made.converge()
    assert made.view.tasks[old.id].status.state == TaskState.REJECTED
    assert [t.node_id for t in made.running("s")] == ["n2"]


def test_enforcer_keeps_the_oldest_when_resources_shrink() -> None:
    """B45: only as many go as must, the newest first."""
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec("s", replicas=2, memory_bytes=200 * MIB))
    made.converge()
    oldest = min(made.running("s"), key=lambda t: t.id)
    made.add_nodes(node("n1", memory_bytes=300 * MIB))
    made.settle()
    assert [t.id for t in made.running("s")] == [oldest.id]
