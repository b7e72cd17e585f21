"""Updates that cannot go on: deadlines, resuming, and starting first where there is no room."""

import pytest
from msgspec.structs import replace

from manager import reconcile
from manager.scheduler.schedule import hindrances
from manager.store import changes as c
from manager.store.snapshot import dump, restore
from swarmapi.model.objects import NodeState, TaskState, UpdateState, UpdateStatus
from swarmapi.model.spec import Availability, RestartCondition, ServiceSpec, UpdateConfig
from tests.builders import MIB, SECOND, World, node, port, spec

DEADLINE = 30 * SECOND


def started(given: ServiceSpec, nodes: int = 1) -> World:
    made = World()
    made.add_nodes(*(node(f"n{i}") for i in range(nodes)))
    made.put_service("s", given)
    made.converge()
    return made


def status(made: World) -> UpdateStatus:
    found = made.view.services["s"].update_status
    assert found is not None
    return found


def unplaceable(config: UpdateConfig, replicas: int = 3) -> ServiceSpec:
    return spec(replicas=replicas, memory_bytes=4096 * MIB, update=config)


def resume(made: World) -> None:
    """Do as the API does."""
    going_on = replace(
        status(made),
        state=UpdateState.UPDATING,
        completed_ns=0,
        forgiven=len(status(made).failed_tasks),
    )
    version = made.view.services["s"].spec_version
    made.commit(c.SetUpdateStatus(service_id="s", spec_version=version, status=going_on))


def change_leader(made: World) -> None:
    made.view = restore(list(dump(made.view)))
    made.acks = {}
    made.dirty = set(reconcile.all_keys(made.view))


def test_an_update_without_progress_pauses_and_says_so() -> None:
    """Upstream waits for ever on a task that cannot be placed."""
    config = UpdateConfig(parallelism=1, progress_deadline=DEADLINE)
    made = started(spec(replicas=3))
    made.put_service("s", unplaceable(config))
    made.converge()
    made.advance(29)
    change_leader(made)
    made.settle()
    assert status(made).state == UpdateState.UPDATING
    assert made.deadline_ns == made.now_ns + SECOND
    made.advance(1)
    assert status(made).state == UpdateState.PAUSED
    assert status(made).completed_ns == made.now_ns
    assert "did not run within 30s" in status(made).message
    assert len(made.running("s")) == 2


def test_a_blank_deadline_is_ten_minutes_and_zero_is_for_ever() -> None:
    blank, never = started(spec(replicas=1)), started(spec(replicas=1))
    blank.put_service("s", unplaceable(UpdateConfig(parallelism=1), 1))
    never.put_service("s", unplaceable(UpdateConfig(parallelism=1, progress_deadline=0), 1))
    for made in (blank, never):
        made.converge()
        made.advance(599)
        assert status(made).state == UpdateState.UPDATING
        made.advance(1)
    assert status(blank).state == UpdateState.PAUSED
    assert status(never).state == UpdateState.UPDATING


def test_with_continue_a_stuck_slot_gives_way_to_the_next() -> None:
    config = UpdateConfig(parallelism=1, failure_action="continue", progress_deadline=DEADLINE)
    made = started(spec(replicas=3))
    made.put_service("s", unplaceable(config))
    made.converge()
    for left in (2, 1, 0):
        assert len(made.running("s")) == left
        made.advance(30)
        made.converge()


def test_an_update_rolls_back_what_makes_no_progress() -> None:
    config = UpdateConfig(parallelism=1, failure_action="rollback", progress_deadline=DEADLINE)
    made = started(spec(replicas=3))
    made.put_service("s", unplaceable(config))
    made.converge()
    made.advance(30)
    made.converge()
    made.advance(10)
    assert status(made).state == UpdateState.ROLLBACK_COMPLETED
    assert len(made.running("s")) == 3


def test_start_first_continue_is_not_over_while_an_old_task_goes_on() -> None:
    """It would begin anew every few seconds otherwise."""
    config = UpdateConfig(
        parallelism=1, order="start-first", failure_action="continue", progress_deadline=DEADLINE
    )
    made = started(spec(replicas=1))
    made.put_service("s", unplaceable(config, 1))
    made.converge()
    made.advance(60)
    before = made.view.index
    for _ in range(20):
        made.advance(30)
    assert made.view.index == before
    assert status(made).state == UpdateState.UPDATING
    assert [t.spec_version for t in made.running("s")] == [1]


@pytest.mark.parametrize(
    "limited",
    [{"ports": (port(80, 8080, "host"),)}, {"max_replicas": 1}, {"replicas": None}],
)
def test_start_first_finds_a_way_where_two_have_no_room(limited: dict[str, object]) -> None:
    """Host ports and a maximum per node: the new task takes the old one's place."""
    config = UpdateConfig(parallelism=1, order="start-first", monitor=SECOND)
    options = {"replicas": 2, "update": config, "ports": (port(80, 8080, "host"),)} | limited
    made = started(spec(**options), nodes=2)  # type: ignore[arg-type]  # passed on by name
    made.put_service("s", spec(image="image:2", **options))  # type: ignore[arg-type]
    made.converge()
    assert sorted(t.node_id for t in made.running("s")) == ["n0", "n1"]
    assert {t.spec_version for t in made.running("s")} == {2}
    made.advance(2)
    assert status(made).state == UpdateState.COMPLETED


def test_start_first_keeps_the_old_task_where_its_end_would_not_help() -> None:
    """Too little memory is no reason to stop what runs."""
    config = UpdateConfig(parallelism=1, order="start-first", progress_deadline=DEADLINE)
    made = started(spec(ports=(port(80, 8080, "host"),)))
    made.put_service(
        "s", spec(ports=(port(80, 8080, "host"),), memory_bytes=4096 * MIB, update=config)
    )
    made.converge()
    made.advance(30)
    assert [t.spec_version for t in made.running("s")] == [1]
    assert status(made).state == UpdateState.PAUSED


def test_start_first_tries_again_where_the_new_task_went_with_its_node() -> None:
    """The old task ran on alone, and the update was never over."""
    config = UpdateConfig(parallelism=1, order="start-first", monitor=SECOND)
    made = started(spec(replicas=1), nodes=2)
    made.put_service("s", spec(replicas=1, image="image:2", update=config))
    made.settle()
    (new,) = (t for t in made.tasks("s") if t.by_update)
    made.commit(c.SetNodeStatus(node_id=new.node_id, state=NodeState.DOWN))
    made.converge()
    made.advance(2)
    assert {t.spec_version for t in made.running("s")} == {2}
    assert status(made).state == UpdateState.COMPLETED


def test_start_first_tries_again_what_failed_as_it_made_room() -> None:
    config = UpdateConfig(
        parallelism=1, order="start-first", failure_action="continue", monitor=SECOND
    )
    made = started(spec(replicas=1))
    made.put_service("s", spec(replicas=1, image="image:2", update=config))
    made.settle()
    (new,) = (t for t in made.tasks("s") if t.by_update)
    made.commit(c.SetDesired(task_id=new.id, desired=TaskState.SHUTDOWN))
    made.report(new.id, TaskState.FAILED)
    made.converge()
    made.advance(2)
    assert {t.spec_version for t in made.running("s")} == {2}
    assert status(made).state == UpdateState.COMPLETED


@pytest.mark.parametrize("action", ["continue", "pause"])
def test_start_first_ends_where_what_failed_may_not_restart(action: str) -> None:
    """The old task goes on, which is no reason to be `updating` for ever, nor to begin anew."""
    config = UpdateConfig(
        parallelism=1,
        order="start-first",
        failure_action=action,
        max_failure_ratio=0.5,
        monitor=SECOND,
    )
    never = RestartCondition.NONE
    made = started(spec(replicas=2, condition=never))
    made.put_service("s", spec(replicas=2, image="image:2", condition=never, update=config))
    made.settle()
    (new,) = (t for t in made.tasks("s") if t.by_update)
    made.report(new.id, TaskState.FAILED)
    made.converge()
    made.advance(2)
    assert status(made).state == UpdateState.COMPLETED
    assert "1 of its tasks are still the old ones" in status(made).message
    assert sorted(t.spec_version for t in made.running("s")) == [1, 2]
    before = made.view.index
    change_leader(made)
    made.advance(60)
    assert made.view.index == before


def test_start_first_leaves_a_new_task_that_a_drain_will_move_to_the_drain() -> None:
    config = UpdateConfig(
        parallelism=1, order="start-first", failure_action="continue", progress_deadline=DEADLINE
    )
    made = started(spec(replicas=2), nodes=3)
    made.put_service("s", spec(replicas=2, image="image:2", update=config))
    made.settle()
    made.obey(t.id for t in made.tasks("s") if t.slot == 1)
    made.settle()
    made.advance(30)
    before = [t.id for t in made.tasks("s") if t.slot == 2]
    assert len(before) == 2
    for name in ("n0", "n1", "n2"):
        made.commit(c.PutNode(node=node(name, availability=Availability.DRAIN)))
    made.settle()
    assert sum(t.by_move for t in made.tasks("s") if t.slot == 1) == 1
    assert [t.id for t in made.tasks("s") if t.slot == 2] == before


def test_start_first_does_not_try_again_what_may_not_be_restarted() -> None:
    config = UpdateConfig(parallelism=1, order="start-first", failure_action="continue")
    made = started(spec(replicas=1))
    never = RestartCondition.NONE
    made.put_service("s", spec(replicas=1, image="image:2", condition=never, update=config))
    made.settle()
    (new,) = (t for t in made.tasks("s") if t.by_update)
    made.report(new.id, TaskState.FAILED)
    made.converge()
    assert [t.spec_version for t in made.running("s")] == [1]
    assert len(made.view.tasks) == 2


def test_a_resumed_update_forgives_and_keeps_its_limits() -> None:
    config = UpdateConfig(parallelism=1, monitor=SECOND)
    made = started(spec(replicas=4))
    made.put_service("s", spec(image="image:2", replicas=4, update=config))
    made.converge()
    made.advance(10)
    made.put_service("s", spec(image="image:3", replicas=4, update=config))
    made.settle()

    def fail_one() -> None:
        made.obey(t.id for t in made.view.tasks.values() if not t.by_update or t.spec_version < 3)
        made.settle()
        (new,) = (t for t in made.tasks("s") if t.by_update and t.spec_version == 3)
        made.report(new.id, TaskState.FAILED)
        made.settle()

    fail_one()
    assert status(made).state == UpdateState.PAUSED
    resume(made)
    made.settle()
    assert status(made).state == UpdateState.UPDATING
    moving = [t for t in made.tasks("s") if t.by_update and t.status.state < TaskState.RUNNING]
    assert len([t for t in moving if t.spec_version == 3]) == 1
    made.converge()
    made.advance(2)
    assert status(made).state == UpdateState.COMPLETED
    assert {t.spec_version for t in made.running("s")} == {3}


def test_a_resumed_update_pauses_at_the_next_failure() -> None:
    config = UpdateConfig(parallelism=3, monitor=5 * SECOND)
    made = started(spec(replicas=3))
    made.put_service("s", spec(image="image:2", replicas=3, update=config))
    made.converge()
    first, second, _ = made.running("s")
    made.report(first.id, TaskState.FAILED)
    made.settle()
    assert status(made).state == UpdateState.PAUSED
    resume(made)
    made.settle()
    assert status(made).state == UpdateState.UPDATING
    made.report(second.id, TaskState.FAILED)
    made.settle()
    assert status(made).state == UpdateState.PAUSED


def test_a_rollback_that_paused_stays_paused() -> None:
    """Upstream calls it completed once the monitor has passed."""
    config = UpdateConfig(parallelism=1, failure_action="rollback", monitor=SECOND)
    made = started(spec(replicas=2))
    made.put_service("s", spec(image="image:2", replicas=2, update=config, rollback=config))
    service = made.view.services["s"]
    made.commit(
        c.SetUpdateStatus(
            service_id="s",
            spec_version=service.spec_version,
            status=UpdateStatus(state=UpdateState.ROLLBACK_STARTED, started_ns=made.now_ns),
        )
    )
    made.settle()
    made.obey(t.id for t in made.view.tasks.values() if not t.by_update)
    made.settle()
    (new,) = (t for t in made.tasks("s") if t.by_update)
    made.report(new.id, TaskState.FAILED)
    made.settle()
    assert status(made).state == UpdateState.ROLLBACK_PAUSED
    made.advance(60)
    assert status(made).state == UpdateState.ROLLBACK_PAUSED


def test_what_was_forgiven_does_not_count_again() -> None:
    config = UpdateConfig(parallelism=4, monitor=5 * SECOND, max_failure_ratio=0.25)
    made = started(spec(replicas=4))
    made.put_service("s", spec(image="image:2", replicas=4, update=config))
    made.converge()
    first, second, third, _ = made.running("s")
    for task in (first, second):
        made.report(task.id, TaskState.FAILED)
        made.settle()
    assert status(made).state == UpdateState.PAUSED
    resume(made)
    made.settle()
    made.report(third.id, TaskState.FAILED)
    made.settle()
    assert status(made).state == UpdateState.UPDATING
    assert len(status(made).failed_tasks) == 3


def test_start_first_outlives_the_removal_of_the_old_tasks_node() -> None:
    """Nothing can be asked of a node that is gone."""
    config = UpdateConfig(parallelism=1, order="start-first")
    made = started(spec("g", replicas=None), nodes=2)
    crowded = (port(80, 8080, "host"),)
    made.put_service("s", spec("g", replicas=None, ports=crowded, update=config))
    made.converge()
    made.put_service("s", spec("g", replicas=None, image="image:2", ports=crowded, update=config))
    made.turn()
    new = next(t for t in made.tasks("s") if t.by_update and t.spec_version == 3)
    assert hindrances(made.view, new, "gone") == set()
    assert hindrances(made.view, new, "") == set()
    made.commit(c.Delete(object="node", id=new.node_id))
    made.converge()
    assert len(made.running("s")) == 1
