"""Restarts: a new attempt for one that ended, or whose node must be left."""

from typing import Final

from manager.orchestrator.drain import stop
from manager.orchestrator.slots import Slot, create_task, is_done, may_restart
from manager.store.changes import SetDesired
from manager.store.turn import Turn
from manager.store.view import PARKED, is_live
from swarmapi.model import defaults
from swarmapi.model.objects import Service, Task, TaskState

OLD_TASK_TIMEOUT_NS: Final = 60_000_000_000


def restart_ended(turn: Turn, service: Service, slot: Slot) -> bool:
    """Replace wanted attempts that ended, as the restart policy says; tell whether one was.

    An attempt that ended while it was parked waits for the end of its own delay, so that a task
    that can never start does not loop.
    """
    restarted = False
    for task in slot.wanted:
        if is_live(task) or is_done(task):
            continue
        if task.desired < TaskState.RUNNING and turn.now_ns < task.not_before_ns:
            turn.wake_at(task.not_before_ns)
            continue
        state = task.status.state.name.lower()
        turn.emit(
            SetDesired(task_id=task.id, desired=TaskState.SHUTDOWN, reason=f"task is {state}")
        )
        successor = any(
            t.id != task.id and t.spec_version == service.spec_version for t in slot.wanted
        )
        if successor or restarted or not may_restart(turn.view, service, slot, task):
            continue
        record = turn.view.spec_of(task)
        policy = defaults.restart_policy(record.spec if record is not None else service.spec)
        lost = task.status.state == TaskState.ORPHANED
        create_task(
            turn,
            service,
            slot.key,
            f"restart of {task.id}, which is {state}",
            desired=TaskState.READY,
            not_before_ns=turn.now_ns if lost else turn.now_ns + (policy.delay or 0),
        )
        restarted = True
    return restarted


def leave_node(turn: Turn, service: Service, slot: Slot, *, has_successor: bool) -> None:
    """Move wanted attempts off nodes that are down, drained or gone, without a delay."""
    leaving = [t for t in slot.wanted if is_live(t) and not _is_safe(turn, t)]
    if not leaving:
        return
    for task in leaving:
        reason = "its node is down" if turn.is_lost(task) else "its node is drained"
        stop(turn, task, TaskState.SHUTDOWN, reason)
    if has_successor or any(is_live(t) and _is_safe(turn, t) for t in slot.wanted):
        return
    last = leaving[-1]
    lost = turn.is_lost(last)
    create_task(
        turn,
        service,
        slot.key,
        f"replaces {last.id}: its node is {'down' if lost else 'drained'}",
        desired=TaskState.RUNNING if lost else TaskState.READY,
        waits_for="" if lost else last.id,
    )


def release_parked(turn: Turn) -> None:
    """Start parked tasks whose delay is over and whose predecessor has stopped.

    The predecessor is waited for one minute at most, and not at all on a lost node.
    """
    for task in turn.view.tasks_in(PARKED):
        if turn.is_full():
            turn.wake_at(turn.now_ns)
            return
        if turn.now_ns < task.not_before_ns:
            turn.wake_at(task.not_before_ns)
            continue
        if not is_live(task):
            continue
        old = turn.view.tasks.get(task.waits_for) if task.waits_for else None
        if old is not None and is_live(old) and not turn.is_lost(old):
            limit_ns = max(task.not_before_ns, task.meta.created_ns) + OLD_TASK_TIMEOUT_NS
            if turn.now_ns < limit_ns:
                turn.wake_at(limit_ns)
                continue
        reason = "its turn has come"
        turn.emit(SetDesired(task_id=task.id, desired=task.goal, reason=reason))


def due_services(turn: Turn) -> set[str]:
    """Return ids of services with a parked attempt that ended and whose delay is over."""
    return {
        task.service_id
        for task in turn.view.tasks_in(PARKED)
        if not is_live(task) and turn.now_ns >= task.not_before_ns
    }


def _is_safe(turn: Turn, task: Task) -> bool:
    node = turn.node_of(task)
    return not task.node_id or (node is not None and node.is_fit)
