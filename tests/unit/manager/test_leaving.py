"""A drain is paced; many nodes lost at once pause rescheduling."""

import pytest
from msgspec.structs import replace

from manager import reconcile
from manager.orchestrator.disappearance import held_nodes
from manager.store import changes as c
from manager.store.snapshot import dump, restore
from swarmapi.model import defaults
from swarmapi.model.objects import NodeState, TaskState
from swarmapi.model.spec import Availability, UpdateConfig
from tests.builders import MIB, SECOND, World, node, spec


def started(replicas: int, nodes: int = 2, update: UpdateConfig | None = None) -> World:
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec(replicas=replicas, update=update))
    made.converge()
    made.add_nodes(*(node(f"n{i}") for i in range(2, nodes + 1)))
    made.settle()
    return made


def drain(made: World, node_id: str = "n1") -> None:
    old = made.view.nodes[node_id]
    drained = replace(old.spec, availability=Availability.DRAIN)
    made.commit(c.SetNodeSpec(node_id=node_id, spec=drained, read_index=old.meta.version))
    made.settle()


def stopping(made: World) -> int:
    tasks = made.view.tasks_of_node("n1")
    return sum(t.desired > TaskState.RUNNING and t.status.state <= TaskState.RUNNING for t in tasks)


@pytest.mark.parametrize(("parallelism", "moving"), [(None, 1), (2, 2), (0, 5)])
def test_a_drain_moves_as_many_at_once_as_an_update(parallelism: int | None, moving: int) -> None:
    update = None if parallelism is None else UpdateConfig(parallelism=parallelism)
    made = started(5, update=update)
    drain(made)
    assert stopping(made) == moving
    assert len(made.running("s")) == 5 - moving
    made.settle()
    assert stopping(made) == moving
    made.converge()
    assert [t.node_id for t in made.running("s")] == ["n2"] * 5
    assert not [t for t in made.view.tasks_of_node("n1") if t.status.state <= TaskState.RUNNING]


def test_a_drain_keeps_its_pace_across_leaders() -> None:
    made = started(4)
    drain(made)
    made.view = restore(list(dump(made.view)))
    made.dirty = set(reconcile.all_keys(made.view))
    made.settle()
    assert stopping(made) == 1


def test_a_drain_starts_first_where_updates_do() -> None:
    made = started(2, update=UpdateConfig(parallelism=1, order="start-first"))
    drain(made)
    assert stopping(made) == 0
    (new,) = (t for t in made.tasks("s") if t.node_id == "n2")
    assert new.desired == TaskState.RUNNING
    assert len(made.running("s")) == 2
    made.report(new.id, TaskState.RUNNING)
    made.settle()
    assert stopping(made) == 1
    made.converge()
    assert [t.node_id for t in made.running("s")] == ["n2"] * 2
    assert len(made.tasks("s")) == 2


def test_a_drain_without_room_waits_then_ends_all_the_same() -> None:
    config = UpdateConfig(parallelism=1, progress_deadline=30 * SECOND)
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec(replicas=3, memory_bytes=300 * MIB, update=config))
    made.converge()
    drain(made)
    made.converge()
    assert len(made.running("s")) == 2
    made.advance(29)
    made.converge()
    assert len(made.running("s")) == 2
    for _ in range(3):
        made.advance(30)
        made.converge()
    assert not made.running("s")


def test_a_drain_and_an_update_do_not_fight() -> None:
    made = started(4, update=UpdateConfig(parallelism=1, order="start-first", monitor=SECOND))
    made.put_service(
        "s",
        spec(
            replicas=4,
            image="image:2",
            update=UpdateConfig(parallelism=1, order="start-first", monitor=SECOND),
        ),
    )
    made.settle()
    drain(made)
    made.converge()
    made.advance(10)
    made.converge()
    assert [(t.node_id, t.spec_version) for t in made.running("s")] == [("n2", 2)] * 4
    assert len(made.tasks("s")) == 4
    assert len([t for t in made.view.tasks.values() if t.spec_version == 2]) == 4


def test_a_move_counts_while_an_update_takes_its_slot_too() -> None:
    config = UpdateConfig(parallelism=1, order="start-first")
    made = started(2, update=config)
    drain(made)
    (moved,) = (t for t in made.tasks("s") if t.by_move)
    made.put_service("s", spec(replicas=2, image="new:2", update=config))
    made.settle()
    (updated,) = (t for t in made.tasks("s") if t.by_update)
    assert updated.slot == moved.slot
    made.report(updated.id, TaskState.STARTING)  # further on than the one of the move
    (old,) = (t for t in made.tasks("s") if t.slot == moved.slot and t.node_id == "n1")
    made.report(old.id, TaskState.FAILED)
    made.settle()
    assert [t.id for t in made.tasks("s") if t.by_move] == [moved.id]


def test_a_drained_node_that_no_longer_suits_is_left_at_the_same_pace() -> None:
    """The enforcer would take everything off it at once."""
    ssd = {"disk": "ssd"}
    made = World()
    made.add_nodes(node("n1", labels=ssd))
    made.put_service("s", spec(replicas=3, constraints=("node.labels.disk==ssd",)))
    made.converge()
    made.add_nodes(node("n2", labels=ssd), node("n1", availability=Availability.DRAIN))
    made.settle()
    assert stopping(made) == 1
    assert len(made.running("s")) == 2


def lose(made: World, *numbers: int) -> None:
    made.commit(*(c.SetNodeStatus(node_id=f"n{i}", state=NodeState.DOWN) for i in numbers))
    made.converge()


def spread(nodes: int, share: str = "") -> World:
    made = World()
    if share:
        labels = {defaults.DISAPPEARANCE_LABEL: share}
        assert made.view.cluster is not None
        known = made.view.cluster
        made.commit(c.PutCluster(cluster=replace(known, spec=replace(known.spec, labels=labels))))
    made.add_nodes(*(node(f"n{i}") for i in range(1, nodes + 1)))
    made.put_service("s", spec(replicas=nodes))
    made.put_service("g", spec("g", replicas=None))
    made.converge()
    return made


def paused(made: World) -> bool:
    return held_nodes(made.view) is not None


def test_many_nodes_lost_within_a_minute_keep_their_tasks() -> None:
    made = spread(6)
    before = {t.id for t in made.running("s")}
    lose(made, 1, 2, 3, 4)
    held = held_nodes(made.view)
    assert held is not None
    assert (len(held.nodes), held.of) == (4, 6)
    made.advance(3_600)
    assert {t.id for t in made.running("s")} == before
    assert len(made.running("g")) == 6


def test_the_pause_ends_by_itself_when_enough_are_back() -> None:
    made = spread(6)
    lose(made, 1, 2, 3, 4)
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.READY))
    made.converge()
    assert not paused(made)
    assert not {t.node_id for t in made.running("s")} & {"n2", "n3", "n4"}
    assert len(made.running("s")) == 6


def test_the_pause_ends_on_command_and_does_not_come_back() -> None:
    made = spread(6)
    lose(made, 1, 2, 3, 4)
    made.now_ns += SECOND
    made.commit(c.SetDisappearance(counted_from_ns=made.now_ns))
    made.converge()
    assert not paused(made)
    assert {t.node_id for t in made.running("s")} == {"n5", "n6"}


def test_the_pause_survives_a_leader_change() -> None:
    made = spread(6)
    lose(made, 1, 2, 3, 4)
    made.view = restore(list(dump(made.view)))
    made.dirty = set(reconcile.all_keys(made.view))
    made.converge()
    assert paused(made)


@pytest.mark.parametrize(
    ("nodes", "lost", "share", "mass"),
    [
        (6, (1, 2, 3), "", False),
        (3, (1, 2), "", False),
        (4, (1, 2, 3), "", True),
        (10, (1, 2, 3), "0.2", True),
        (6, (1, 2, 3, 4, 5), "1", False),
    ],
)
def test_what_counts_as_mass(nodes: int, lost: tuple[int, ...], share: str, mass: bool) -> None:
    """At least three, and more than the share of those that were there."""
    made = spread(nodes, share)
    lose(made, *lost)
    assert paused(made) is mass
    assert len(made.running("s")) == nodes


def test_nodes_lost_one_after_the_other_are_no_mass() -> None:
    made = spread(6)
    for number in (1, 2, 3, 4):
        lose(made, number)
        made.advance(61)
        made.converge()
        assert not paused(made)
    assert {t.node_id for t in made.running("s")} == {"n5", "n6"}


def test_a_removed_node_is_not_held() -> None:
    """Its tasks are finalised in the same change, and made anew elsewhere."""
    made = spread(6)
    lose(made, 1, 2, 3, 4)
    made.commit(c.Delete(object="node", id="n1"))
    made.converge()
    assert paused(made)
    assert len(made.running("s")) == 6
    assert "n1" not in {t.node_id for t in made.running("s")}
