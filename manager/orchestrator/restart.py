"""Restarts: a new attempt for one that ended, and its delay."""

from typing import Final

from manager.orchestrator.backoff import FREE, early_ends, restart_delay_ns
from manager.orchestrator.slots import Slot, create_task, may_restart
from manager.store.changes import SetDesired
from manager.store.turn import Turn
from manager.store.view import PARKED, is_live
from swarmapi.model import defaults
from swarmapi.model.objects import Service, TaskState

OLD_TASK_TIMEOUT_NS: Final = 60_000_000_000


def restart_ended(turn: Turn, service: Service, slot: Slot) -> bool:
    """Replace wanted attempts that ended, as the restart policy says; tell whether one was.

    An attempt that ended while it was parked waits for the end of its own delay, so that a task
    that can never start does not loop.
    """
    restarted = False
    for task in slot.wanted:
        if is_live(task):
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
        delay_ns = 0 if lost else restart_delay_ns(policy.delay or 0, task)
        count = 0 if lost else early_ends(task)
        reason = f"restart of {task.id}, which is {state}"
        if count > FREE:
            reason += f" as the {count - 1} attempts before it: waits {delay_ns / 1e9:.0f}s"
        create_task(
            turn,
            service,
            slot.key,
            reason,
            desired=TaskState.READY,
            not_before_ns=turn.now_ns + delay_ns,
            early_ends=count,
        )
        restarted = True
    return restarted


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
