"""Rolling updates and rollbacks."""

import pytest
from msgspec.structs import replace

from manager import reconcile
from manager.store.changes import Delete, PutSecret, PutService
from manager.store.snapshot import dump, restore
from swarmapi.model.objects import Secret, Service, Task, TaskState, UpdateState, UpdateStatus
from swarmapi.model.spec import (
    ContainerSpec,
    ReferenceFile,
    SecretReference,
    SecretSpec,
    UpdateConfig,
)
from tests.builders import SECOND, World, node, spec

PAUSE = UpdateConfig(parallelism=1, monitor=SECOND)


def started(*, replicas: int = 3, update: UpdateConfig = PAUSE, networks: bool = False) -> World:
    made = World()
    made.add_nodes(node("n1", labels={"disk": "ssd"}), node("n2"))
    if networks:
        made.add_network("net")
    made.put_service(
        "s", spec(replicas=replicas, update=update, networks=("net",) if networks else ())
    )
    made.converge()
    return made


def new_version(
    made: World, *, replicas: int = 3, update: UpdateConfig = PAUSE, networks: bool = False
) -> None:
    attached = ("net",) if networks else ()
    made.put_service(
        "s",
        spec(image="image:2", replicas=replicas, update=update, rollback=update, networks=attached),
    )
    made.settle()


def service(made: World) -> Service:
    return made.view.services["s"]


def status(made: World) -> UpdateStatus:
    found = service(made).update_status
    assert found is not None
    return found


def of_version(made: World, version: int) -> list[Task]:
    return [t for t in made.running("s") if t.spec_version == version]


def by_update(made: World) -> list[Task]:
    return [t for t in made.tasks("s") if t.by_update and t.status.state < TaskState.RUNNING]


def fail_new(made: World) -> None:
    """Let old tasks stop, and every task of this update fail at its start."""
    state = status(made).state
    for _ in range(20):
        if status(made).state != state:
            return
        made.obey(t.id for t in made.view.tasks.values() if not t.by_update)
        made.acknowledge()
        made.settle()
        new = [t for t in by_update(made) if t.desired == TaskState.RUNNING and t.node_id]
        for task in new:
            made.report(task.id, TaskState.FAILED)
        made.settle()
        if not new:
            return


def test_b29_replaces_all_and_completes_after_the_monitor() -> None:
    """All slots follow; COMPLETED once watched for `monitor`."""
    made = started()
    new_version(made)
    assert status(made).state == UpdateState.UPDATING
    assert status(made).dirty_slots == 3
    made.converge()
    assert len(of_version(made, 2)) == 3
    assert status(made).state == UpdateState.UPDATING
    assert made.deadline_ns == made.now_ns + SECOND
    made.advance(1)
    assert status(made).state == UpdateState.COMPLETED
    assert status(made).completed_ns == made.now_ns


def test_b27_service_level_changes_replace_nothing() -> None:
    """Labels, count and update settings dirty no task."""
    made = started()
    before = {t.id for t in made.running("s")}
    made.put_service("s", replace(spec(replicas=3), labels={"a": "b"}))
    made.converge()
    assert {t.id for t in made.running("s")} == before
    assert service(made).update_status is None


def test_b28_placement_change_replaces_only_what_does_not_fit() -> None:
    """Tasks on matching nodes stay, the others are replaced."""
    made = started(replicas=2)
    stay = next(t for t in made.running("s") if t.node_id == "n1")
    made.put_service("s", spec(replicas=2, constraints=("node.labels.disk==ssd",)))
    made.converge()
    assert {t.node_id for t in made.running("s")} == {"n1"}
    assert stay.id in {t.id for t in made.running("s")}


@pytest.mark.parametrize(("parallelism", "moving"), [(1, 1), (2, 2), (0, 3)])
def test_b29_parallelism(parallelism: int, moving: int) -> None:
    """At most p slots in progress; 0 means all together."""
    made = started()
    new_version(made, update=UpdateConfig(parallelism=parallelism))
    assert len(by_update(made)) == moving
    made.settle()
    assert len(by_update(made)) == moving


def test_b29_delay_holds_the_next_slot() -> None:
    """A worker waits `delay` after a slot."""
    made = started()
    new_version(made, update=UpdateConfig(parallelism=1, delay=10 * SECOND))
    made.converge()
    assert len(of_version(made, 2)) == 1
    made.advance(9)
    made.converge()
    assert len(of_version(made, 2)) == 1
    made.advance(1)
    made.converge()
    assert len(of_version(made, 2)) == 2


def test_b30_stop_first_order() -> None:
    """The old task is desired SHUTDOWN before the new one is desired RUNNING."""
    made = started(replicas=1)
    old = made.running("s")[0]
    new_version(made, replicas=1)
    new = by_update(made)[0]
    assert made.view.tasks[old.id].desired == TaskState.SHUTDOWN
    assert new.desired == TaskState.READY
    made.report(old.id, TaskState.SHUTDOWN)
    made.settle()
    assert made.view.tasks[new.id].desired == TaskState.RUNNING


def test_b31_start_first_order() -> None:
    """The old task stops only after the new one runs and all nodes know its endpoint."""
    update = UpdateConfig(parallelism=1, order="start-first", monitor=SECOND)
    made = started(replicas=1, update=update, networks=True)
    old = made.running("s")[0]
    new_version(made, replicas=1, update=update, networks=True)
    new = by_update(made)[0]
    assert new.desired == TaskState.RUNNING
    made.acknowledge()
    made.report(new.id, TaskState.RUNNING)
    made.settle()
    assert made.view.tasks[old.id].endpoint.deadline_ns == 0
    made.acknowledge()
    made.settle()
    made.acknowledge()
    made.settle()
    assert made.view.tasks[old.id].endpoint.deadline_ns > 0
    made.converge()
    assert [t.id for t in made.running("s")] == [new.id]


def test_b31_start_first_keeps_the_old_when_the_new_never_runs() -> None:
    """If the new one never runs, the old one goes on."""
    update = UpdateConfig(parallelism=1, order="start-first", failure_action="pause")
    made = started(replicas=1, update=update)
    old = made.running("s")[0]
    new_version(made, replicas=1, update=update)
    fail_new(made)
    assert old.id in {t.id for t in made.running("s")}
    assert status(made).state == UpdateState.PAUSED


def test_b32_pause_on_failure() -> None:
    """The first failure pauses; the rest stays old until the service is updated again."""
    made = started()
    new_version(made)
    fail_new(made)
    assert status(made).state == UpdateState.PAUSED
    assert status(made).failed_tasks[0] in status(made).message
    assert len(of_version(made, 1)) == 2
    made.dirty = set(reconcile.all_keys(made.view))
    made.converge()
    made.advance(60)
    assert len(of_version(made, 1)) == 2
    made.put_service("s", spec(image="image:3", replicas=3))
    made.converge()
    assert len(of_version(made, 3)) == 3


def test_b33_continue_replaces_all() -> None:
    """With `continue` every slot is replaced although each new task fails."""
    update = UpdateConfig(parallelism=1, failure_action="continue", monitor=SECOND)
    made = started(update=update)
    new_version(made, update=update)
    fail_new(made)
    assert not of_version(made, 1)
    assert status(made).state == UpdateState.UPDATING
    made.converge()
    made.advance(2)
    assert status(made).state == UpdateState.COMPLETED


def test_b34_failures_count_within_ratio_and_monitor() -> None:
    """Only above the ratio, and only within `monitor` of running."""
    update = UpdateConfig(parallelism=1, monitor=5 * SECOND, max_failure_ratio=0.4)
    made = started(update=update)
    new_version(made, update=update)
    made.converge()
    assert len(of_version(made, 2)) == 3
    first, second, third = of_version(made, 2)
    made.report(first.id, TaskState.FAILED)
    made.settle()
    assert status(made).state == UpdateState.UPDATING
    assert status(made).failed_tasks == (first.id,)
    made.now_ns += 6 * SECOND
    made.report(third.id, TaskState.FAILED)
    made.settle()
    assert status(made).failed_tasks == (first.id,)
    assert status(made).state == UpdateState.COMPLETED
    assert second.id in {t.id for t in made.running("s")}


def test_b34_second_failure_passes_the_ratio() -> None:
    """2 of 3 is more than 0.4; an early exit with 0 counts too."""
    update = UpdateConfig(parallelism=3, monitor=5 * SECOND, max_failure_ratio=0.4)
    made = started(update=update)
    new_version(made, update=update)
    made.converge()
    for task in of_version(made, 2)[:2]:
        made.report(task.id, TaskState.COMPLETE)
    made.settle()
    assert status(made).state == UpdateState.PAUSED


def test_b35_automatic_rollback() -> None:
    """The previous spec comes back, ROLLBACK_STARTED then ROLLBACK_COMPLETED."""
    update = UpdateConfig(parallelism=1, failure_action="rollback", monitor=SECOND)
    made = started(update=update)
    new_version(made, update=update)
    fail_new(made)
    assert status(made).state == UpdateState.ROLLBACK_STARTED
    assert service(made).spec_version == 1
    made.converge()
    made.advance(5)  # the restored spec has no rollback settings: monitor is 5 s
    made.converge()
    assert len(of_version(made, 1)) == 3
    assert status(made).state == UpdateState.ROLLBACK_COMPLETED
    assert service(made).previous_spec_version == 0
    assert {v for (_, v) in made.view.specs} == {1, 2}


def test_b35_an_update_pauses_where_the_previous_spec_lost_its_secret() -> None:
    """Going back would fail every task that still runs."""
    update = UpdateConfig(parallelism=1, failure_action="rollback", monitor=SECOND)
    gone = SecretReference(id="x", name="db", file=ReferenceFile(name="db"))
    given = spec(replicas=3, update=update)
    container = ContainerSpec(image="image:1", secrets=(gone,))
    template = replace(given.task_template, container_spec=container)
    made = World()
    made.add_nodes(node("n1"))
    made.commit(PutSecret(secret=Secret(id="x", spec=SecretSpec(name="db", data=b"x"))))
    made.put_service("s", replace(given, task_template=template))
    made.converge()
    new_version(made, update=update)
    assert made.commit(Delete(object="secret", id="x")).conflict is None
    fail_new(made)
    assert status(made).state == UpdateState.PAUSED
    assert status(made).message.endswith("cannot run any more: secret db was removed")
    assert service(made).spec_version == 2


def test_b36_rollback_is_never_rolled_back() -> None:
    """A failing rollback pauses."""
    update = UpdateConfig(parallelism=1, failure_action="rollback", monitor=SECOND)
    made = started(update=update)
    new_version(made, update=update)
    made.converge()
    made.report(of_version(made, 2)[0].id, TaskState.FAILED)
    made.settle()
    assert status(made).state == UpdateState.ROLLBACK_STARTED
    fail_new(made)
    assert status(made).state == UpdateState.ROLLBACK_PAUSED
    assert status(made).message.startswith("rollback paused")


def test_rollback_without_a_previous_spec_pauses() -> None:
    """Nothing to return to: the message says so."""
    update = UpdateConfig(parallelism=1, failure_action="rollback")
    made = started(update=update)
    new_version(made, update=update)
    made.commit(PutService(service=replace(service(made), previous_spec_version=0)))
    fail_new(made)
    assert status(made).state == UpdateState.PAUSED
    assert "no previous spec" in status(made).message


def test_b37_new_update_takes_over() -> None:
    """A half-done update gives way; all slots end at the newest spec."""
    made = started()
    new_version(made)
    made.obey()
    made.settle()
    made.put_service("s", spec(image="image:3", replicas=3))
    made.converge()
    assert len(of_version(made, 3)) == 3


def test_b29_progress_survives_a_leader_change() -> None:
    """Delay and parallelism hold across leaders: all accounting is stored."""
    made = started()
    new_version(made, update=UpdateConfig(parallelism=1, delay=10 * SECOND))
    made.converge()
    made.view = restore(list(dump(made.view)))
    made.acks = {}
    made.dirty = set(reconcile.all_keys(made.view))
    made.converge()
    assert len(of_version(made, 2)) == 1
    made.advance(10)
    made.converge()
    assert len(of_version(made, 2)) == 2
