"""Jobs: tasks that run to completion, once per slot and iteration.

A replicated job has as many slots as completions are asked for, a global one a slot per node. A
slot that completed is never run again in its iteration; one whose restarts are used up has failed
for good. Tasks of iterations before are stopped and removed; those of a cron job's remembered runs
are kept.
"""

from manager.orchestrator import runs
from manager.orchestrator.drain import serve, stop
from manager.orchestrator.global_ import follow, takes_new
from manager.orchestrator.leaving import leave_node
from manager.orchestrator.reaper import reap_history, reap_removed
from manager.orchestrator.restart import restart_ended
from manager.orchestrator.slots import Slot, SlotKey, create_task, is_done, is_filled, slots_of
from manager.store.turn import Turn
from manager.store.view import is_live, is_placed
from swarmapi.model import defaults
from swarmapi.model.objects import JobOutcome, JobStatus, Service, Task, TaskState

Slots = dict[SlotKey, Slot]


def reconcile_job(turn: Turn, service: Service) -> None:
    """Begin, run, end and clean up one job."""
    service = runs.advance(turn, service)
    status = service.job_status or JobStatus()
    _retire(turn, service, status)
    if not turn.is_full() and status.last_execution_ns:
        _run(turn, service, status)
        service = runs.advance(turn, turn.view.services[service.id])
    if turn.is_full():
        turn.again.add(("service", service.id))
    serve(turn, turn.view.tasks_of_service(service.id))
    reap_history(turn, service, status.iteration)
    reap_removed(turn, service.id)


def due_services(turn: Turn) -> set[str]:
    """Return ids of jobs whose schedule or deadline says something by now."""
    due: set[str] = set()
    for service_id in turn.view.services_in.of("timed"):
        service = turn.view.services[service_id]
        when_ns = min(filter(None, (_deadline_ns(service), runs.next_start_ns(service))), default=0)
        if when_ns and when_ns <= turn.now_ns:
            due.add(service_id)
        elif when_ns:
            turn.wake_at(when_ns)
    return due


def is_complete(slot: Slot) -> bool:
    """Tell whether a slot has run to completion."""
    return any(is_done(t) for t in slot.tasks)


def _deadline_ns(service: Service) -> int:
    """Return the cluster time when the iteration must have ended, 0 when it may take for ever."""
    status = service.job_status
    if status is None or not status.is_running or not service.spec.mode.deadline:
        return 0
    return status.last_execution_ns + service.spec.mode.deadline


def _run(turn: Turn, service: Service, status: JobStatus) -> None:
    slots = slots_of(turn.view, service.id, status.iteration)
    if status.outcome is JobOutcome.DEADLINE:
        _stop_rest(turn, slots)
        return
    deadline_ns = _deadline_ns(service)
    if deadline_ns and turn.now_ns >= deadline_ns:
        _stop_rest(turn, slots)
        done, total = sum(is_complete(s) for s in slots.values()), len(slots)
        if not defaults.is_per_node(service.spec):
            total = defaults.total_completions(service.spec)
        message = f"deadline exceeded: {done} of {total} completed, the rest was stopped"
        runs.end_run(turn, service, JobOutcome.DEADLINE, message)
        return
    if deadline_ns:
        turn.wake_at(deadline_ns)
    if status.ended_ns and not defaults.is_per_node(service.spec):
        return
    for slot in slots.values():
        if turn.is_full():
            return
        _attend(turn, service, slot)
    slots = slots_of(turn.view, service.id, status.iteration)
    if defaults.is_per_node(service.spec):
        _cover(turn, service, slots)
    else:
        _fill(turn, service, slots)
    if not turn.is_full():
        _conclude(turn, service, status)


def _attend(turn: Turn, service: Service, slot: Slot) -> None:
    """Restart and move the attempts of one slot, unless it has completed."""
    per_node = defaults.is_per_node(service.spec)
    if is_complete(slot) and (not per_node or slot.key[1] in turn.view.nodes):
        # An attempt given up with its node may complete after all, beside its replacement.
        for task in slot.wanted:
            if not is_done(task):
                stop(turn, task, TaskState.SHUTDOWN, "its slot has completed")
    elif per_node:
        follow(turn, service, slot)
    else:
        restarted = restart_ended(turn, service, slot)
        leave_node(turn, service, slot, has_successor=restarted)


def _fill(turn: Turn, service: Service, slots: Slots) -> None:
    """Begin slots of a replicated job as far as its concurrency allows.

    Tasks of an older iteration that still run take their share of it.
    """
    total = defaults.total_completions(service.spec)
    active = sum(_is_active(s) for s in slots.values())
    _drop_surplus(turn, slots, total)
    budget = defaults.max_concurrent(service.spec) - active - len(_older_live(turn, service))
    for number in range(1, total + 1):
        if budget <= 0 or turn.is_full():
            return
        slot = slots.get((number, ""))
        if slot is not None and (is_complete(slot) or is_filled(turn.view, service, slot)):
            continue
        create_task(turn, service, (number, ""), f"slot {number} of {total} is to be run")
        budget -= 1


def _drop_surplus(turn: Turn, slots: Slots, total: int) -> None:
    """Remove slots beyond the total: that of a cron job may shrink while a run is under way."""
    for slot in slots.values():
        for task in slot.tasks if slot.key[0] > total else ():
            reason = f"slot {slot.key[0]} is more than {total} completions"
            stop(turn, task, TaskState.REMOVE, reason)


def _cover(turn: Turn, service: Service, slots: Slots) -> None:
    """Begin the slots of a global job on nodes that have none, old ones among them waited for."""
    older = {t.node_id: t.id for t in _older_live(turn, service)}
    for node_id in sorted(turn.view.nodes):
        if not takes_new(service, turn.view.nodes[node_id]):
            continue
        slot = slots.get((0, node_id))
        if slot is not None and (is_complete(slot) or is_filled(turn.view, service, slot)):
            continue
        if turn.is_full():
            return
        create_task(
            turn,
            service,
            (0, node_id),
            "the node has not run this global job",
            desired=TaskState.READY if node_id in older else TaskState.RUNNING,
            waits_for=older.get(node_id, ""),
        )


def _conclude(turn: Turn, service: Service, status: JobStatus) -> None:
    """Note the end of the iteration once no slot is left to run, or that it goes on again."""
    slots = slots_of(turn.view, service.id, status.iteration)
    complete = sum(is_complete(s) for s in slots.values())
    active = sum(_is_active(s) for s in slots.values())
    failed = [
        s
        for s in slots.values()
        if not is_complete(s) and not _is_active(s) and is_filled(turn.view, service, s)
    ]
    total = complete + len(failed)
    if not defaults.is_per_node(service.spec):
        total = defaults.total_completions(service.spec)
    elif not slots:
        return  # no node fits yet
    if active or complete + len(failed) < total:
        if status.ended_ns:
            runs.resume_run(turn, service)
        return
    if not failed:
        runs.end_run(turn, service, JobOutcome.COMPLETE, "")
        return
    error = failed[0].newest.status.error or failed[0].newest.status.state.name.lower()
    message = f"{len(failed)} of {total} slots failed for good; task {failed[0].newest.id}: {error}"
    runs.end_run(turn, service, JobOutcome.FAILED, message)


def _is_active(slot: Slot) -> bool:
    return not is_complete(slot) and bool(slot.wanted)


def _stop_rest(turn: Turn, slots: Slots) -> None:
    for slot in slots.values():
        for task in slot.wanted:
            if not is_done(task):
                stop(turn, task, TaskState.SHUTDOWN, "the job's deadline has passed")


def _older_live(turn: Turn, service: Service) -> list[Task]:
    """Return tasks of older iterations that may still run."""
    status = service.job_status or JobStatus()
    return [
        t
        for t in turn.view.tasks_of_service(service.id)
        if t.job_iteration != status.iteration
        and is_live(t)
        and is_placed(t)
        and not turn.is_lost(t)
    ]


def _retire(turn: Turn, service: Service, status: JobStatus) -> None:
    """Stop tasks of older iterations and remove them, but those of remembered runs."""
    kept = {run.iteration for run in status.runs if run.iteration}
    for task in turn.view.tasks_of_service(service.id):
        if task.job_iteration == status.iteration:
            continue
        if turn.is_full():
            return
        if task.job_iteration not in kept:
            stop(turn, task, TaskState.REMOVE, "a newer iteration of the job has begun")
        elif not is_done(task):
            stop(turn, task, TaskState.SHUTDOWN, "a newer iteration of the job has begun")
