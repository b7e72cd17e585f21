"""Replicated services: count, slots, scale, drain, deletion."""

from msgspec.structs import replace

from manager import reconcile
from manager.orchestrator.replicated import survivors
from manager.orchestrator.slots import Slot
from manager.store import changes as c
from manager.store.snapshot import dump, restore
from swarmapi.model.objects import NodeState, Task, TaskState, TaskStatus
from swarmapi.model.spec import Availability
from tests.builders import World, node, spec


def world(*node_ids: str) -> World:
    made = World()
    made.add_nodes(*(node(i) for i in node_ids))
    return made


def test_b10_creates_to_count() -> None:
    """N tasks in slots 1..N, and all of them run."""
    made = world("n1", "n2")
    made.put_service("s", spec(replicas=3))
    made.converge()
    assert [t.slot for t in made.running("s")] == [1, 2, 3]
    assert {t.node_id for t in made.running("s")} == {"n1", "n2"}


def test_b11_refills_on_deletion() -> None:
    """A wanted record that is deleted is replaced in its slot."""
    made = world("n1")
    made.put_service("s", spec(replicas=2))
    made.converge()
    lost = made.running("s")[0]
    made.commit(c.Delete(object="task", id=lost.id))
    made.converge()
    assert [t.slot for t in made.running("s")] == [1, 2]
    assert lost.id not in made.view.tasks


def test_b12_scale_up_fills_free_slots() -> None:
    """Slots {1, 3} scaled to 3 fill slot 2."""
    made = world("n1")
    made.put_service("s", spec(replicas=3))
    made.converge()
    second = made.running("s")[1]
    made.put_service("s", spec(replicas=2))
    made.commit(c.SetDesired(task_id=second.id, desired=TaskState.REMOVE))
    made.converge()
    assert [t.slot for t in made.running("s")] == [1, 3]
    made.put_service("s", spec(replicas=3))
    made.converge()
    assert [t.slot for t in made.running("s")] == [1, 2, 3]


def test_b13_scale_down_keeps_running_and_spread() -> None:
    """The unassigned goes first, then the fullest node's, lowest slots survive."""
    nodes = ["n2", "n2", "n3", "n3", "n3", "n1", ""]
    slots = []
    for slot, node_id in enumerate(nodes, 1):
        state = TaskState.RUNNING if node_id in ("n2", "n3") else TaskState.STARTING
        if not node_id:
            state = TaskState.PENDING
        task = Task(
            id=f"t{slot}",
            service_id="s",
            spec_version=1,
            slot=slot,
            node_id=node_id,
            status=TaskStatus(state=state),
        )
        slots.append(Slot((slot, ""), [task]))
    kept = {n: {s.key[0] for s in survivors(slots, n)} for n in (6, 4, 2)}
    assert kept[6] == {1, 2, 3, 4, 5, 6}
    assert kept[4] == {1, 2, 3, 6}
    assert kept[2] == {1, 3}


def test_b14_scale_down_removes_records() -> None:
    """What is cut gets desired REMOVE and vanishes once stopped."""
    made = world("n1")
    made.put_service("s", spec(replicas=3))
    made.converge()
    made.put_service("s", spec(replicas=1))
    made.settle()
    assert [t.desired for t in made.view.tasks_of_service("s")].count(TaskState.REMOVE) == 2
    made.converge()
    assert len(made.view.tasks) == 1


def test_b15_service_deletion_removes_tasks_and_specs() -> None:
    """Tasks become REMOVE; dead and never placed ones go at once."""
    made = world("n1")
    made.put_service("s", spec(replicas=2))
    made.put_service("big", spec("big", memory_bytes=1 << 60))
    made.converge()
    made.commit(c.Delete(object="service", id="s"), c.Delete(object="service", id="big"))
    made.settle()
    assert {t.service_id for t in made.view.tasks.values()} == {"s"}
    assert {t.desired for t in made.view.tasks.values()} == {TaskState.REMOVE}
    made.converge()
    assert not made.view.tasks
    assert not made.view.specs


def test_b16_b02_drain_moves_tasks_without_delay() -> None:
    """Each gets SHUTDOWN and a replacement in its slot; records stay."""
    made = world("n1", "n2")
    made.put_service("s", spec(replicas=4, delay=3600 * 10**9))
    made.converge()
    old = {t.id: t for t in made.running("s") if t.node_id == "n1"}
    drained = made.view.nodes["n1"]
    made.commit(
        c.PutNode(
            node=replace(drained, spec=replace(drained.spec, availability=Availability.DRAIN))
        )
    )
    made.converge()
    assert [t.slot for t in made.running("s")] == [1, 2, 3, 4]
    assert {t.node_id for t in made.running("s")} == {"n2"}
    for task_id, task in old.items():
        now = made.view.tasks[task_id]
        assert (now.node_id, now.slot) == ("n1", task.slot)
        assert now.status.state == TaskState.SHUTDOWN


def test_b16_down_node_is_replaced_and_old_tasks_stopped_on_return() -> None:
    """A lost node's tasks run elsewhere at once; when it is back they stop."""
    made = world("n1", "n2")
    made.put_service("s", spec(replicas=2))
    made.converge()
    lost = next(t for t in made.running("s") if t.node_id == "n1")
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.DOWN))
    made.converge()
    assert {t.node_id for t in made.running("s")} == {"n2"}
    assert made.view.tasks[lost.id].status.state == TaskState.RUNNING
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.READY))
    made.converge()
    assert made.view.tasks[lost.id].status.state == TaskState.SHUTDOWN
    assert len(made.running("s")) == 2


def test_b58_unknown_node_keeps_its_tasks() -> None:
    """A leader change (UNKNOWN) moves nothing."""
    made = world("n1", "n2")
    made.put_service("s", spec(replicas=2))
    made.converge()
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.UNKNOWN))
    made.settle()
    assert {t.node_id for t in made.running("s")} == {"n1", "n2"}


def test_b16_removed_node_orphans_its_tasks() -> None:
    """Removal orphans, and the slot is filled elsewhere."""
    made = world("n1", "n2")
    made.put_service("s", spec(replicas=2))
    made.converge()
    lost = next(t for t in made.running("s") if t.node_id == "n1")
    made.commit(c.Delete(object="node", id="n1"))
    made.converge()
    assert made.view.tasks[lost.id].status.state == TaskState.ORPHANED
    assert {t.node_id for t in made.running("s")} == {"n2"}
    assert made.view.cluster is not None
    assert made.view.cluster.removed_nodes == ("n1",)


def test_b58_node_down_for_a_day_orphans_its_tasks() -> None:
    """DOWN for 24 h ends the attempt in the records."""
    made = world("n1", "n2")
    made.put_service("s", spec())
    made.converge()
    lost = made.running("s")[0]
    made.commit(c.SetNodeStatus(node_id=lost.node_id, state=NodeState.DOWN))
    made.settle()
    assert made.deadline_ns == made.now_ns + 24 * 3600 * 10**9
    made.advance(24 * 3600 + 1)
    assert made.view.tasks[lost.id].status.state == TaskState.ORPHANED


def test_b17_b25_new_leader_changes_nothing_twice() -> None:
    """A restored view with everything dirty has nothing to do."""
    made = world("n1", "n2")
    made.put_service("s", spec(replicas=3))
    made.converge()
    made.view = restore(list(dump(made.view)))
    made.dirty = set(reconcile.all_keys(made.view))
    assert made.turn() == ()


def test_b17_dirty_store_on_start_is_repaired() -> None:
    """Dead, lost and ownerless tasks from before the leader started."""
    made = world("n1", "n2")
    made.put_service("s", spec(replicas=2))
    made.put_service("gone", spec("gone"))
    made.converge()
    dead = made.running("s")[0]
    made.report(dead.id, TaskState.FAILED)
    made.commit(c.Delete(object="service", id="gone"))
    made.dirty = set(reconcile.all_keys(made.view))
    made.converge()
    assert len(made.running("s")) == 2
    assert not made.view.tasks_of_service("gone")
    restarts = [t for t in made.view.tasks_of_service("s") if t.slot == dead.slot]
    assert len(restarts) == 2


def test_turn_is_bounded() -> None:
    """A turn ends after about 200 changes and says what is left."""
    made = world("n1")
    made.put_service("s", spec(replicas=1000))
    first = made.propose()
    assert 200 <= len(first.changes) <= 205
    assert ("service", "s") in first.still_dirty
    made.settle()
    assert len(made.tasks("s")) == 1000


def test_b16_slot_with_two_ends_gets_one_replacement() -> None:
    """One attempt failed, its twin's node is drained: the slot gets one new task."""
    made = world("n1", "n2")
    made.put_service("s", spec())
    made.converge()
    first = made.running("s")[0]
    twin = replace(first, id="twin")
    made.commit(c.PutTask(task=twin))
    made.put_service("s", replace(spec(), labels={"a": "b"}))
    made.report(first.id, TaskState.FAILED)
    drained = made.view.nodes[first.node_id]
    spec_ = replace(drained.spec, availability=Availability.DRAIN)
    made.commit(c.PutNode(node=replace(drained, spec=spec_)))
    made.turn()
    assert len(made.tasks("s")) == 1
    made.converge()
    assert len(made.running("s")) == 1
    assert len(made.view.tasks) == 3


def test_dirty_keys_and_deadlines_tell_when_to_run() -> None:
    """A loop that runs turns only when something is dirty or due gets everything placed."""
    made = world("n1", "n2")
    made.add_network("net")
    made.settle()
    made.put_service("s", spec(replicas=450, networks=("net",)))
    made.put_service("t", spec("t", replicas=450))
    made.put_service("g", spec("g", replicas=None))
    for _ in range(60):
        due = made.deadline_ns is not None and made.deadline_ns <= made.now_ns
        if not made.dirty and not due:
            break
        made.turn()
    else:
        raise AssertionError("never comes to rest")
    states = [t.status.state for t in made.view.tasks.values()]
    free = 254 - 2  # a /24 less gateway and VIP
    assert states.count(TaskState.ASSIGNED) == free + 450 + 2
    assert states.count(TaskState.NEW) == 450 - free


def test_b44_deletions_travel_together() -> None:
    """Records of a deleted service go in one transaction, of at most a turn's changes."""
    made = world("n1")
    made.put_service("s", spec(replicas=450))
    made.settle()
    made.commit(c.Delete(object="service", id="s"))
    made.settle()
    made.obey()
    sizes = []
    while made.view.tasks:
        before = len(made.view.tasks)
        made.turn()
        sizes.append(before - len(made.view.tasks))
    assert sizes == [200, 200, 50]
