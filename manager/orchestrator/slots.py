"""Slots: all attempts at one replica of a service, or at one node of a global service."""

from typing import NamedTuple

from manager.orchestrator.backoff import is_stable
from manager.orchestrator.disappearance import is_held
from manager.store.changes import PutTask
from manager.store.turn import Turn
from manager.store.view import View, is_live, is_wanted
from swarmapi.model import defaults
from swarmapi.model.objects import Service, Task, TaskState, UpdateState

SlotKey = tuple[int, str]
"""(slot number, "") of replicated services, (0, node id) of global ones."""


class Slot(NamedTuple):
    """Its key and its tasks, oldest first, never empty."""

    key: SlotKey
    tasks: list[Task]

    @property
    def newest(self) -> Task:
        """The latest attempt."""
        return self.tasks[-1]

    @property
    def wanted(self) -> list[Task]:
        """Attempts that shall run."""
        return [t for t in self.tasks if is_wanted(t)]

    @property
    def is_running(self) -> bool:
        """True when a wanted attempt is observed RUNNING."""
        return any(is_wanted(t) and t.status.state == TaskState.RUNNING for t in self.tasks)


def slot_key(task: Task) -> SlotKey:
    """Return the key of the slot a task belongs to."""
    return (task.slot, "" if task.slot else task.node_id)


def slots_of(view: View, service_id: str, iteration: int | None = None) -> dict[SlotKey, Slot]:
    """Return the slots of a service, or of one iteration of a job, by key, in key order."""
    slots: dict[SlotKey, Slot] = {}
    for task in view.tasks_of_service(service_id):
        if iteration is not None and task.job_iteration != iteration:
            continue
        key = slot_key(task)
        slot = slots.get(key)
        if slot is None:
            slots[key] = Slot(key, [task])
        else:
            slot.tasks.append(task)
    return dict(sorted(slots.items()))


def must_leave(turn: Turn, task: Task) -> bool:
    """Tell whether a live task's node is down, drained or gone, and the task not held there."""
    if not is_live(task) or not task.node_id:
        return False
    node = turn.node_of(task)
    return node is None or (not node.is_fit and not is_held(turn, node))


def create_task(
    turn: Turn,
    service: Service,
    key: SlotKey,
    reason: str,
    *,
    desired: TaskState = TaskState.RUNNING,
    not_before_ns: int = 0,
    waits_for: str = "",
    by_update: bool = False,
    by_move: bool = False,
    early_ends: int = 0,
    replaces: str = "",
) -> Task:
    """Emit a new attempt at a slot, of the current spec version and, of a job, iteration."""
    job, cluster = service.job_status, turn.view.cluster
    if job is not None and desired == TaskState.RUNNING:
        desired = TaskState.COMPLETE
    task = Task(
        id=turn.new_id(),
        service_id=service.id,
        spec_version=service.spec_version,
        slot=key[0],
        node_id=key[1],
        desired=desired,
        service_name=service.spec.name,
        not_before_ns=not_before_ns,
        waits_for=waits_for,
        by_update=by_update,
        by_move=by_move,
        early_ends=early_ends,
        replaces=replaces,
        job_iteration=job.iteration if job is not None else None,
        log_driver=defaults.log_driver(cluster.spec) if cluster is not None else None,
    )
    turn.emit(PutTask(task=task, reason=reason))
    return task


def is_done(task: Task) -> bool:
    """Tell whether a task of a job ran to completion: its slot is never run again."""
    return task.job_iteration is not None and task.status.state == TaskState.COMPLETE


def ended_by_itself(task: Task) -> bool:
    """Tell whether the attempt ended without being asked to."""
    return task.status.state in (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)


def counts_as_attempt(task: Task, spec_version: int) -> bool:
    """Tell whether a record counts where the restarts of a spec version are limited."""
    return task.spec_version == spec_version and ended_by_itself(task)


def is_filled(view: View, service: Service, slot: Slot) -> bool:
    """Tell whether a slot needs no new task: one is wanted, or policy forbids a restart.

    During a rollback a slot that ended is not filled, so a rollback restores the count.
    """
    if any(is_wanted(t) for t in slot.tasks):
        return True
    status = service.update_status
    if status is not None and status.state == UpdateState.ROLLBACK_STARTED:
        return False
    newest = slot.newest
    if newest.desired != TaskState.SHUTDOWN or is_live(newest):
        return False
    return ended_by_itself(newest) and not may_restart(view, service, slot, newest)


def may_restart(view: View, service: Service, slot: Slot, ended: Task) -> bool:
    """Tell whether the restart policy allows another attempt after `ended`.

    The attempts are the slot's stored records of the same spec version, so that a new leader
    counts the same. Attempts moved off a node do not count, nor, without a window, those before
    one that ran for long: three crashes in a year are no reason to give up.
    """
    record = view.spec_of(ended)
    policy = defaults.restart_policy(record.spec if record is not None else service.spec)
    if policy.condition == "none":
        return False
    if policy.condition == "on-failure" and ended.status.state == TaskState.COMPLETE:
        return False
    if not policy.max_attempts or ended.spec_version != service.spec_version:
        return True
    if not policy.window and is_stable(ended):
        return True
    since_ns = ended.status.applied_ns - policy.window if policy.window else -1
    used = 0
    for task in slot.tasks:
        if task.id == ended.id or not counts_as_attempt(task, ended.spec_version):
            continue
        if not policy.window and is_stable(task):
            used = 0
        elif task.status.applied_ns > since_ns:
            used += 1
    return used < policy.max_attempts
