"""Jobs: iterations, concurrency, restarts, deadlines."""

import pytest

from manager.store import changes as c
from manager.store.view import is_live, is_wanted
from swarmapi.model.objects import JobOutcome, JobStatus, NodeState, Task, TaskState
from swarmapi.model.spec import Availability, RestartCondition, ServiceMode
from tests.builders import SECOND, World, job_mode, node, spec

ANY, FAILURE, NONE = RestartCondition.ANY, RestartCondition.ON_FAILURE, RestartCondition.NONE


def world_with(job: ServiceMode, nodes: int = 2, **options: object) -> World:
    """Return a world of a few nodes with one job in it."""
    world = World()
    world.add_nodes(*(node(f"n{i}") for i in range(nodes)))
    world.put_service("s", spec("job", job=job, **options))  # type: ignore[arg-type]
    world.converge()
    return world


def status(world: World) -> JobStatus:
    """Return the job's status."""
    found = world.view.services["s"].job_status
    assert found is not None
    return found


def finish(world: World, task: Task, state: TaskState = TaskState.COMPLETE) -> None:
    """Let a task end by itself."""
    world.report(task.id, state, "" if state == TaskState.COMPLETE else "exit status 1")
    world.converge()


def completed(world: World) -> list[int]:
    """Return the slots of the iteration that completed, one entry for each completion."""
    tasks = world.view.tasks_of_service("s")
    iteration = status(world).iteration
    found = [t for t in tasks if t.job_iteration == iteration]
    return sorted(t.slot for t in found if t.status.state == TaskState.COMPLETE)


@pytest.mark.parametrize("condition", [ANY, FAILURE, NONE])
def test_b41_job_completes(condition: RestartCondition) -> None:
    """Never more than C run at once, exactly T complete, none is run again whatever the policy."""
    world = world_with(job_mode(5, 2), condition=condition)
    rounds = 0
    while running := world.running("s"):
        assert len(running) <= 2
        assert all(t.desired == TaskState.COMPLETE for t in running)
        finish(world, running[0])
        rounds += 1
    assert rounds == 5
    assert completed(world) == [1, 2, 3, 4, 5]
    assert status(world).outcome is JobOutcome.COMPLETE
    world.advance(3600)
    assert len(world.view.tasks_of_service("s")) == 5


def test_b42_job_rerun() -> None:
    """An update of a finished job begins a new iteration from zero; the old tasks are removed."""
    world = world_with(job_mode(2))
    old = world.running("s")
    for task in old:
        finish(world, task)
    assert status(world).ended_ns
    world.put_service("s", spec("job", job=job_mode(2), image="image:2"))
    world.converge()
    assert status(world).iteration == 1
    assert not status(world).ended_ns
    assert not set(world.view.tasks) & {t.id for t in old}
    assert len(world.running("s")) == 2
    assert completed(world) == []


def test_an_update_that_changes_no_work_runs_nothing_again() -> None:
    """The same spec, other labels or another concurrency keep the iteration."""
    world = world_with(job_mode(4, 1))
    finish(world, world.running("s")[0])
    world.put_service("s", spec("job", job=job_mode(4, 1)))
    world.put_service("s", spec("job", job=job_mode(4, 3)))
    world.converge()
    assert status(world).iteration == 0
    assert completed(world) == [1]
    assert len(world.running("s")) == 3


def test_an_update_stops_a_running_iteration_first() -> None:
    """Tasks of the older iteration take their share of the concurrency until they stopped."""
    world = world_with(job_mode(2))
    world.put_service("s", spec("job", job=job_mode(2), image="image:2"))
    world.settle()
    new = [t for t in world.view.tasks_of_service("s") if t.job_iteration == 1]
    assert new == []
    world.converge()
    assert {t.job_iteration for t in world.view.tasks_of_service("s")} == {1}
    assert len(world.running("s")) == 2


def test_a_failed_task_is_tried_again_in_its_slot() -> None:
    """A restart takes the place of the failed attempt, not one more of the concurrency."""
    world = world_with(job_mode(3, 1))
    finish(world, world.running("s")[0], TaskState.FAILED)
    (again,) = world.running("s")
    assert again.slot == 1
    for _ in range(3):
        finish(world, world.running("s")[0])
    assert completed(world) == [1, 2, 3]


def test_restarts_used_up_fail_the_job_but_not_its_other_slots() -> None:
    """Slots that cannot be restarted are given up; the rest completes; the outcome says so."""
    world = world_with(job_mode(2, 1), max_attempts=1)
    finish(world, world.running("s")[0], TaskState.FAILED)
    finish(world, world.running("s")[0], TaskState.FAILED)
    (second,) = world.running("s")
    assert second.slot == 2
    assert status(world).outcome is None
    finish(world, second)
    assert status(world).outcome is JobOutcome.FAILED
    assert "1 of 2 slots failed for good" in status(world).message
    assert "exit status 1" in status(world).message
    world.advance(3600)
    assert world.running("s") == []


def test_condition_none_is_not_restarted() -> None:
    """One failure is the end of a slot."""
    world = world_with(job_mode(1), condition=NONE)
    finish(world, world.running("s")[0], TaskState.FAILED)
    assert status(world).outcome is JobOutcome.FAILED
    assert len(world.view.tasks_of_service("s")) == 1


def test_history_of_failed_attempts_is_trimmed() -> None:
    """The history limit holds for jobs, and never takes the completion away."""
    world = World(history=2)
    world.add_nodes(node("n0"))
    world.put_service("s", spec("job", job=job_mode(1)))
    world.converge()
    for _ in range(6):
        finish(world, world.running("s")[0], TaskState.FAILED)
        world.advance(60)
        world.converge()
    finish(world, world.running("s")[0])
    assert len(world.view.tasks_of_service("s")) == 2
    assert completed(world) == [1]


def test_a_lost_attempt_that_completed_after_all_counts_once() -> None:
    """Its replacement is stopped, and the slot has one completion."""
    world = world_with(job_mode(1))
    (first,) = world.running("s")
    world.commit(c.SetNodeStatus(node_id=first.node_id, state=NodeState.DOWN))
    world.settle()
    (replacement,) = world.tasks("s")
    assert replacement.id != first.id
    world.obey()
    world.commit(c.SetNodeStatus(node_id=first.node_id, state=NodeState.READY))
    world.report(first.id, TaskState.COMPLETE)
    world.converge()
    assert status(world).outcome is JobOutcome.COMPLETE
    assert completed(world) == [1]
    assert not is_wanted(world.view.tasks[replacement.id])
    world.advance(100)
    assert not any(is_live(t) for t in world.view.tasks_of_service("s"))


def test_a_completion_outlives_its_node() -> None:
    """Removing the node of a completed slot does not run the slot again."""
    world = world_with(job_mode(2, 1))
    (first,) = world.running("s")
    finish(world, first)
    world.commit(c.Delete(object="node", id=first.node_id))
    world.converge()
    assert completed(world) == [1]
    assert [t.slot for t in world.running("s")] == [2]


def test_deadline_stops_the_rest() -> None:
    """At its deadline an iteration ends: what runs is stopped, what waits never begins."""
    world = world_with(job_mode(4, 2, deadline_s=60))
    finish(world, world.running("s")[0])
    world.now_ns += 59 * SECOND
    world.converge()
    assert len(world.running("s")) == 2
    world.now_ns += SECOND
    world.converge()
    assert world.running("s") == []
    assert status(world).outcome is JobOutcome.DEADLINE
    assert status(world).message == "deadline exceeded: 1 of 4 completed, the rest was stopped"
    assert completed(world) == [1]
    world.advance(1000)
    assert world.tasks("s") == []


def test_deadline_wakes_the_loop() -> None:
    """The turn asks to be run at the deadline, also on a new leader."""
    world = world_with(job_mode(1, deadline_s=60))
    world.propose()
    assert world.deadline_ns == status(world).last_execution_ns + 60 * SECOND


def test_global_job_runs_once_on_each_node_and_on_later_ones() -> None:
    """A node that joins gets a task as well; a drained one's is stopped and comes back."""
    world = world_with(job_mode(None))
    first, second = world.running("s")
    assert {first.node_id, second.node_id} == {"n0", "n1"}
    finish(world, first)
    world.add_nodes(node("n1", availability=Availability.DRAIN))
    world.converge()
    assert world.running("s") == []
    world.add_nodes(node("n1"))
    world.converge()
    (again,) = world.running("s")
    assert again.node_id == "n1"
    finish(world, again)
    assert status(world).outcome is JobOutcome.COMPLETE
    world.add_nodes(node("n2"))
    world.converge()
    assert status(world).outcome is None
    (late,) = world.running("s")
    finish(world, late)
    assert status(world).outcome is JobOutcome.COMPLETE
    world.advance(3600)
    assert len(world.view.tasks_of_service("s")) == 4


def test_global_job_waits_for_the_older_iteration_on_its_node() -> None:
    """A node never runs two iterations at once."""
    world = world_with(job_mode(None), nodes=1)
    (old,) = world.running("s")
    world.put_service("s", spec("job", job=job_mode(None), image="image:2"))
    world.settle()
    (new,) = [t for t in world.view.tasks_of_service("s") if t.job_iteration == 1]
    assert (new.desired, new.waits_for) == (TaskState.READY, old.id)
    world.converge()
    assert [t.id for t in world.running("s")] == [new.id]


def test_removed_job_leaves_nothing() -> None:
    """Completed and running tasks go with their service."""
    world = world_with(job_mode(3, 2))
    finish(world, world.running("s")[0])
    world.commit(c.Delete(object="service", id="s"))
    world.converge()
    assert not world.view.tasks


def test_job_without_completions_is_complete_at_once() -> None:
    """Zero is a number."""
    assert status(world_with(job_mode(0))).outcome is JobOutcome.COMPLETE


def test_restarts_of_a_global_job_are_limited_as_well() -> None:
    """Upstream records them under the node and looks them up without it."""
    world = world_with(job_mode(None), max_attempts=1)
    for _ in range(2):
        finish(world, next(t for t in world.running("s") if t.node_id == "n0"), TaskState.FAILED)
        world.advance(60)
        world.converge()
    assert [t.node_id for t in world.running("s")] == ["n1"]
    finish(world, world.running("s")[0])
    assert status(world).outcome is JobOutcome.FAILED
