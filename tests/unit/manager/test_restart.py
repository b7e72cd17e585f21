"""Restart policy, delays, attempts and the reaper."""

import pytest
from msgspec.structs import replace

from manager import reconcile
from manager.store import changes as c
from manager.store.snapshot import dump, restore
from swarmapi.model.objects import NodeState, Task, TaskState, UpdateState, UpdateStatus
from swarmapi.model.spec import (
    Availability,
    ClusterSpec,
    OrchestrationConfig,
    RestartCondition,
)
from tests.builders import SECOND, World, node, spec


def started(*, history: int | None = None, **options: object) -> World:
    made = World(history=history)
    made.add_nodes(node("n1"))
    made.put_service("s", spec(**options))  # type: ignore[arg-type]  # passed on by name
    made.converge()
    return made


def end(made: World, state: TaskState) -> Task:
    task = made.running("s")[0]
    made.report(task.id, state)
    made.settle()
    return task


@pytest.mark.parametrize(
    ("condition", "state", "replaced"),
    [
        (RestartCondition.ANY, TaskState.COMPLETE, True),
        (RestartCondition.ANY, TaskState.FAILED, True),
        (RestartCondition.ON_FAILURE, TaskState.COMPLETE, False),
        (RestartCondition.ON_FAILURE, TaskState.FAILED, True),
        (RestartCondition.NONE, TaskState.FAILED, False),
    ],
)
def test_b19_b20_b21_condition(
    condition: RestartCondition, state: TaskState, replaced: bool
) -> None:
    """Who is replaced; otherwise the slot stays occupied by the dead task."""
    made = started(condition=condition)
    old = end(made, state)
    made.converge()
    assert bool(made.running("s")) is replaced
    assert made.view.tasks[old.id].status.state == state
    assert len(made.view.tasks) == (2 if replaced else 1)


def test_b22_delay_parks_the_replacement() -> None:
    """Made at once as READY, RUNNING not before the delay is over."""
    made = started(delay=5 * SECOND)
    end(made, TaskState.FAILED)
    parked = made.tasks("s")[0]
    assert parked.desired == TaskState.READY
    assert parked.status.state == TaskState.ASSIGNED
    made.converge()
    assert made.tasks("s")[0].status.state == TaskState.READY
    assert made.deadline_ns == made.now_ns + 5 * SECOND
    made.advance(4.9)
    assert made.tasks("s")[0].desired == TaskState.READY
    made.advance(0.1)
    assert made.tasks("s")[0].desired == TaskState.RUNNING


def test_b22_task_that_never_starts_does_not_loop() -> None:
    """An attempt rejected inside its own delay waits for the end of it."""
    made = started(delay=5 * SECOND)
    end(made, TaskState.FAILED)
    made.report(made.tasks("s")[0].id, TaskState.REJECTED)
    made.settle()
    assert len(made.view.tasks) == 2
    made.advance(5)
    assert len(made.view.tasks) == 3


def test_b18_delay_survives_a_leader_change() -> None:
    """The new leader waits for the rest of the delay only."""
    made = started(delay=5 * SECOND)
    end(made, TaskState.FAILED)
    made.advance(3)
    made.view = restore(list(dump(made.view)))
    made.dirty = set(reconcile.all_keys(made.view))
    made.settle()
    assert made.deadline_ns == made.now_ns + 2 * SECOND
    made.advance(2)
    assert made.tasks("s")[0].desired == TaskState.RUNNING


def test_b23_b25_max_attempts_per_slot_and_version() -> None:
    """K restarts per slot, also after a leader change; a new version starts at zero."""
    made = started(replicas=2, max_attempts=1)
    end(made, TaskState.FAILED)
    made.converge()
    made.view = restore(list(dump(made.view)))
    made.dirty = set(reconcile.all_keys(made.view))
    made.settle()
    assert end(made, TaskState.FAILED).slot == 1
    made.converge()
    assert [t.slot for t in made.running("s")] == [2]
    end(made, TaskState.FAILED)
    made.converge()
    assert [t.slot for t in made.running("s")] == [2]
    made.put_service("s", spec(replicas=2, max_attempts=1, image="image:2"))
    made.converge()
    made.advance(10)
    made.converge()
    assert [t.slot for t in made.running("s")] == [1, 2]


def test_b24_window_forgets_old_attempts() -> None:
    """Attempts outside the window do not count."""
    made = started(max_attempts=1, window=SECOND // 2)
    end(made, TaskState.FAILED)
    made.converge()
    made.advance(1)
    end(made, TaskState.FAILED)
    made.converge()
    assert len(made.running("s")) == 1
    end(made, TaskState.FAILED)
    made.converge()
    assert not made.running("s")


def test_b26_waits_a_minute_for_the_old_task() -> None:
    """The replacement starts after a minute, though the old task does not stop."""
    made = started(image="image:1")
    made.put_service("s", spec(image="image:2"))
    made.settle()
    new = next(t for t in made.tasks("s") if t.desired == TaskState.READY)
    made.advance(59)
    assert made.view.tasks[new.id].desired == TaskState.READY
    made.advance(1)
    assert made.view.tasks[new.id].desired == TaskState.RUNNING


def test_b26_lost_old_task_is_not_waited_for() -> None:
    """At once when the old task's node goes down."""
    made = started(image="image:1")
    made.put_service("s", spec(image="image:2"))
    made.settle()
    new = next(t for t in made.tasks("s") if t.desired == TaskState.READY)
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.DOWN))
    made.settle()
    wanted = made.tasks("s")
    assert wanted
    assert all(t.desired == TaskState.RUNNING for t in wanted)
    assert new.id not in {t.id for t in wanted} or made.view.tasks[new.id].desired > 384


@pytest.mark.parametrize(("history", "kept"), [(0, 1), (1, 1), (3, 3), (-1, 8)])
def test_b43_history_limit(history: int, kept: int) -> None:
    """Oldest ended records go, never a live one; negative keeps all."""
    made = started(history=history)
    for _ in range(7):
        end(made, TaskState.FAILED)
        made.converge()
        made.advance(400)  # longer than any back-off
        made.converge()
    tasks = made.view.tasks_of_service("s")
    assert len(tasks) == kept
    assert tasks[-1].status.state == TaskState.RUNNING


def test_b43_history_keeps_what_counts_attempts() -> None:
    """With max attempts k, at least k + 1 records stay."""
    made = started(history=1, max_attempts=3)
    for _ in range(3):
        end(made, TaskState.FAILED)
        made.converge()
    assert len(made.view.tasks) == 4
    end(made, TaskState.FAILED)
    made.converge()
    assert not made.running("s")
    made.dirty = set(reconcile.all_keys(made.view))
    made.converge()
    assert not made.running("s")


def _leave_node(made: World) -> None:
    """Let the only task of `s` be moved off its node."""
    (task,) = made.running("s")
    old = made.view.nodes[task.node_id]
    for availability in (Availability.DRAIN, Availability.ACTIVE):
        changed = replace(old.spec, availability=availability)
        version = made.view.nodes[old.id].meta.version
        made.commit(c.SetNodeSpec(node_id=old.id, spec=changed, read_index=version))
        for _ in range(3):
            made.acknowledge()
            made.converge()
    assert made.running("s")[0].id != task.id


@pytest.mark.parametrize("moves", [1, 6])
def test_moves_off_a_node_use_up_no_attempts_and_hide_none(moves: int) -> None:
    made = started(history=1, max_attempts=2)
    made.add_nodes(node("n2"))
    for failures in range(3):
        for _ in range(moves):
            _leave_node(made)
        end(made, TaskState.FAILED)
        made.converge()
        assert bool(made.running("s")) is (failures < 2)
    assert len(made.view.tasks_of_service("s")) == 3


def test_b21_b43_last_record_of_a_filled_slot_stays() -> None:
    """Without it a slot that must not be restarted would look empty."""
    made = started(history=0, condition=RestartCondition.NONE)
    old = end(made, TaskState.FAILED)
    made.converge()
    assert list(made.view.tasks) == [old.id]


def test_b26_what_waits_for_a_task_on_a_lost_node_starts_at_once() -> None:
    """The task that waits is itself on a node that is up."""
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec())
    made.converge()
    old = made.running("s")[0]
    made.add_nodes(node("n2"))
    made.put_service("s", spec(image="image:2", constraints=("node.id==n2",)))
    made.settle()
    new = next(t for t in made.tasks("s") if t.id != old.id)
    assert (new.node_id, new.desired) == ("n2", TaskState.READY)
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.DOWN))
    made.settle()
    assert made.view.tasks[new.id].desired == TaskState.RUNNING


def test_two_attempts_at_a_slot_that_end_get_one_successor() -> None:
    made = started()
    first = made.running("s")[0]
    made.commit(c.PutTask(task=replace(first, id="twin")))
    for task_id in (first.id, "twin"):
        made.report(task_id, TaskState.FAILED)
    made.settle()
    assert len(made.tasks("s")) == 1
    assert len(made.view.tasks) == 3


def test_a_rollback_brings_back_slots_that_were_given_up() -> None:
    made = started(replicas=2, condition=RestartCondition.NONE)
    end(made, TaskState.FAILED)
    made.put_service("s", spec(replicas=2, condition=RestartCondition.NONE))
    made.converge()
    assert len(made.running("s")) == 1
    back = UpdateStatus(state=UpdateState.ROLLBACK_STARTED, started_ns=made.now_ns)
    made.put_service("s", spec(replicas=2, condition=RestartCondition.NONE), back)
    made.converge()
    assert len(made.running("s")) == 2


def test_a_lower_history_limit_holds_for_slots_at_rest() -> None:
    made = started(history=-1)
    for _ in range(4):
        end(made, TaskState.FAILED)
        made.advance(400)
        made.converge()
    assert len(made.view.tasks) == 5
    cluster = made.view.cluster
    assert cluster is not None
    settings = OrchestrationConfig(task_history_retention_limit=2)
    made.commit(c.PutCluster(cluster=replace(cluster, spec=ClusterSpec(orchestration=settings))))
    made.settle()
    assert len(made.view.tasks) == 2
