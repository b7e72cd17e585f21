"""Global services and the enforcer."""

import pytest
from msgspec.structs import replace

from manager.store import changes as c
from swarmapi.model.objects import NodeState, TaskState
from swarmapi.model.spec import Availability, UpdateConfig
from tests.builders import MIB, SECOND, World, node, spec


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


def test_b38_follows_nodes() -> None:
    """One task per node that is ready and fit; nodes that join get one."""
    made = started()
    assert on(made) == ["n1", "n2"]
    made.add_nodes(node("n3"), node("n4", state=NodeState.UNKNOWN))
    made.converge()
    assert on(made) == ["n1", "n2", "n3"]
    made.commit(c.SetNodeStatus(node_id="n4", state=NodeState.READY))
    made.converge()
    assert on(made) == ["n1", "n2", "n3", "n4"]


def test_b38_drain_and_return() -> None:
    """Shut down on drain, made again when active."""
    made = started()
    set_availability(made, "n1", Availability.DRAIN)
    assert on(made) == ["n2"]
    set_availability(made, "n1", Availability.ACTIVE)
    assert on(made) == ["n1", "n2"]


def test_b38_down_and_return() -> None:
    """A lost node's task is given up and made again."""
    made = started()
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.DOWN))
    made.converge()
    assert on(made) == ["n2"]
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.READY))
    made.converge()
    assert on(made) == ["n1", "n2"]


def test_b38_labels_decide() -> None:
    """A node that stops matching loses its task, one that begins gets one."""
    made = started(constraints=("node.labels.disk==ssd",))
    assert on(made) == ["n1"]
    for node_id, labels in (("n1", None), ("n2", {"disk": "ssd"})):
        old = made.view.nodes[node_id]
        made.commit(c.PutNode(node=replace(old, spec=replace(old.spec, labels=labels))))
    made.converge()
    assert on(made) == ["n2"]


def test_b38_deleted_node_takes_its_records() -> None:
    """Records of a removed node are deleted."""
    made = started()
    made.commit(c.Delete(object="node", id="n1"))
    made.converge()
    assert {t.node_id for t in made.view.tasks.values()} == {"n2"}


def test_b39_paused_node_is_left_alone() -> None:
    """No task is added, updated or restarted on a paused node."""
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


def test_b40_extra_task_is_stopped() -> None:
    """Of two live tasks on one node one remains."""
    made = started()
    twin = replace(made.running("g")[0], id="twin")
    made.commit(c.PutTask(task=twin))
    made.converge()
    assert on(made) == ["n1", "n2"]


@pytest.mark.parametrize("shrunk", ["label", "memory"])
def test_b45_enforcer_moves_what_no_longer_fits(shrunk: str) -> None:
    """Rejected and replaced elsewhere when labels or resources change."""
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


def test_b45_enforcer_keeps_the_oldest_when_resources_shrink() -> None:
    """Only as many go as must, the newest first."""
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec("s", replicas=2, memory_bytes=200 * MIB))
    made.converge()
    oldest = min(made.running("s"), key=lambda t: t.id)
    made.add_nodes(node("n1", memory_bytes=300 * MIB))
    made.settle()
    assert [t.id for t in made.running("s")] == [oldest.id]


def test_b45_a_placement_taken_over_without_a_restart_is_enforced_later() -> None:
    """A task that the placement-only shortcut kept is judged by the service's constraints."""
    made = World()
    made.add_nodes(node("n1", labels={"disk": "ssd"}), node("n2"))
    made.put_service("s", spec("s"))
    made.converge()
    old = made.running("s")[0]
    assert old.node_id == "n1"
    made.put_service("s", spec("s", constraints=("node.labels.disk==ssd",)))
    made.converge()
    assert [t.id for t in made.running("s")] == [old.id]
    made.add_nodes(node("n1"), node("n2", labels={"disk": "ssd"}))
    made.converge()
    assert [t.node_id for t in made.running("s")] == ["n2"]


def test_b45_every_offender_is_found() -> None:
    """The first task that does not fit does not end the look at the node."""
    made = World()
    made.add_nodes(node("n1", labels={"disk": "ssd", "zone": "a"}))
    made.put_service("s", spec("s", constraints=("node.labels.disk==ssd",)))
    made.put_service("z", spec("z", constraints=("node.labels.zone==a",)))
    made.converge()
    made.add_nodes(node("n1"))
    made.settle()
    states = {t.status.state for t in made.view.tasks.values() if t.node_id == "n1"}
    assert states == {TaskState.REJECTED}


@pytest.mark.parametrize("happens", ["label", "joins", "returns"])
def test_what_happens_to_a_node_leaves_a_global_update_its_pace(happens: str) -> None:
    """Upstream replaces what is outdated at once where it looks at a node for another reason."""
    made = World()
    made.add_nodes(*(node(f"n{i}") for i in range(4)))
    made.put_service("g", spec("g", replicas=None))
    made.converge()
    if happens == "returns":
        set_availability(made, "n2", Availability.PAUSE)
    one = UpdateConfig(parallelism=1, monitor=SECOND)
    made.put_service("g", spec("g", replicas=None, image="image:2", update=one))
    made.settle()
    old = made.view.nodes["n2"]
    if happens == "label":
        made.commit(c.PutNode(node=replace(old, spec=replace(old.spec, labels={"a": "b"}))))
    elif happens == "joins":
        made.add_nodes(node("n9"))
    else:
        active = replace(old.spec, availability=Availability.ACTIVE)
        made.commit(c.PutNode(node=replace(old, spec=active)))
    made.settle()
    assert len([t for t in made.running("g") if t.spec_version == 1]) == 3
    made.converge()
    assert {t.spec_version for t in made.running("g")} == {2}
