"""The reaper: deletes records of tasks that are gone for good, and history beyond the limit."""

from manager.orchestrator.slots import counts_as_attempt, is_done, slots_of
from manager.store.changes import Delete
from manager.store.turn import Turn
from manager.store.view import is_live, is_wanted
from swarmapi.model import defaults
from swarmapi.model.objects import Service, Task, TaskState


def reap_removed(turn: Turn, service_id: str) -> None:
    """Delete records desired REMOVE whose attempt ended or never reached a node."""
    for task in turn.view.tasks_of_service(service_id):
        if task.desired != TaskState.REMOVE:
            continue
        if not is_live(task) or task.status.state < TaskState.ASSIGNED:
            turn.emit(Delete(object="task", id=task.id, reason="removed and stopped"))
        if turn.is_full():
            turn.again.add(("service", service_id))
            return


def reap_history(turn: Turn, service: Service, iteration: int | None = None) -> None:
    """Delete the oldest ended records of slots that hold more than the history limit.

    A negative limit keeps all. Where restarts are limited to k, the last k + 1 attempts that
    ended by themselves are kept above it: they are the count, whatever else the slot went through.
    The last record of a slot stays: it tells that the slot is filled.
    """
    limit = history_limit(turn)
    if limit < 0:
        return
    attempts = defaults.restart_policy(service.spec).max_attempts or 0
    for slot in slots_of(turn.view, service.id, iteration).values():
        ended = [t.id for t in slot.tasks if counts_as_attempt(t, service.spec_version)]
        counted = set(ended[-attempts - 1 :] if attempts else ())
        surplus = len(slot.tasks) - limit
        for task in slot.tasks[:-1]:
            if surplus <= 0:
                break
            if _is_history(task) and task.id not in counted:
                turn.emit(Delete(object="task", id=task.id, reason="history limit"))
                surplus -= 1
        if turn.is_full():
            turn.again.add(("service", service.id))
            return


def history_limit(turn: Turn) -> int:
    """Return how many records a slot keeps, the live one included; negative keeps all."""
    cluster = turn.view.cluster
    settings = cluster.spec.orchestration if cluster is not None else None
    limit = settings.task_history_retention_limit if settings is not None else None
    return defaults.HISTORY_LIMIT if limit is None else limit


def _is_history(task: Task) -> bool:
    return not is_live(task) and not is_wanted(task) and not is_done(task)
