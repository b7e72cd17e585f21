"""The runs of jobs: when an iteration begins, how it ended, and what is remembered of it.

Of a job without a schedule the API begins the iterations; of a cron job the clock does. The next
start is a stored field, and the change that begins a run moves it on, so no leader begins a run
twice. A start that was missed is made up for once, if that is not later than the window allows.
"""

from typing import Final

from msgspec.structs import replace

from manager.orchestrator.crontab import Schedule, parse
from manager.store.changes import SetJobStatus
from manager.store.turn import Turn
from swarmapi.errors import InvalidArgument
from swarmapi.model import defaults
from swarmapi.model.objects import JobOutcome, JobRun, JobStatus, Service
from swarmapi.model.spec import Cron, Overlap, ServiceSpec

_LOOK_BACK_NS: Final = 60 * defaults.SECOND_NS
_NOT_RUN: Final = (JobOutcome.MISSED, JobOutcome.SKIPPED)


def begin_run(status: JobStatus, now_ns: int, history: int, scheduled_ns: int = 0) -> JobStatus:
    """Return the status of a job whose next iteration begins; what went on is replaced by it."""
    runs = status.runs
    if status.last_execution_ns and history:
        outcome = status.outcome or JobOutcome.REPLACED
        runs = _remember(runs, _as_run(status, outcome, status.ended_ns or now_ns), history)
    return JobStatus(
        iteration=status.iteration + 1,
        last_execution_ns=now_ns,
        scheduled_ns=scheduled_ns,
        next_start_ns=status.next_start_ns,
        runs=runs,
    )


def first_status(spec: ServiceSpec, now_ns: int) -> JobStatus:
    """Return the status of a new job: a cron job waits for its first start."""
    return JobStatus() if spec.mode.cron is not None else JobStatus(last_execution_ns=now_ns)


def updated_status(
    service: Service, spec: ServiceSpec, now_ns: int, *, rerun: bool = False
) -> JobStatus | None:
    """Return a job's status after its spec became `spec`; None of a service that is no job.

    A change of what its tasks are, or of how many must complete, begins a new iteration, as does
    `rerun`. Labels, concurrency and deadline apply to the one under way. The iterations of a cron
    job begin by its schedule; only a raised ForceUpdate begins one at once.
    """
    status, old, kept = service.job_status, service.spec, runs_kept(spec)
    if status is None:
        return None
    if spec.mode.cron is None:
        again = rerun or _is_other_work(old, spec)
        return begin_run(status, now_ns, kept) if again else status
    if old.mode.cron is None or _times(old.mode.cron) != _times(spec.mode.cron):
        status = replace(status, next_start_ns=0, queued_ns=0)
    forced = spec.task_template.force_update > old.task_template.force_update
    return begin_run(status, now_ns, kept) if forced else status


def _times(cron: Cron) -> tuple[str, str]:
    return cron.schedule, cron.time_zone


def _is_other_work(old: ServiceSpec, new: ServiceSpec) -> bool:
    same = (
        defaults.mean_the_same(defaults.task_template(old), defaults.task_template(new))
        and defaults.mean_the_same(defaults.endpoint(old), defaults.endpoint(new))
        and (old.networks or ()) == (new.networks or ())
        and defaults.total_completions(old) == defaults.total_completions(new)
    )
    return not same


def runs_kept(spec: ServiceSpec) -> int:
    """Return how many runs of a job are remembered: none without a schedule."""
    cron = spec.mode.cron
    if cron is None:
        return 0
    return defaults.RUNS_KEPT if cron.history is None else cron.history


def next_start_ns(service: Service) -> int:
    """Return the next start of a cron job, 0 when there is none or it is not known."""
    status = service.job_status
    return status.next_start_ns if status is not None and service.spec.mode.cron else 0


def end_run(turn: Turn, service: Service, outcome: JobOutcome, message: str) -> None:
    """Note how the iteration ended, once."""
    status = service.job_status
    if status is None or (status.ended_ns and status.outcome is outcome):
        return
    ended = replace(status, ended_ns=turn.now_ns, outcome=outcome, message=message)
    _store(turn, service, ended, f"the job ended: {message or outcome}")


def resume_run(turn: Turn, service: Service) -> None:
    """Note that an iteration goes on: a global job's, on nodes that came later."""
    status = service.job_status
    if status is not None:
        again = replace(status, ended_ns=0, outcome=None, message="")
        _store(turn, service, again, "the job goes on, on a node that came later")


def advance(turn: Turn, service: Service) -> Service:
    """Begin what is due by the schedule of a cron job; return the service as it is then."""
    cron, status = service.spec.mode.cron, service.job_status
    if cron is None or status is None:
        return service
    try:
        schedule = parse(cron.schedule, cron.time_zone)
    except InvalidArgument as error:  # this manager's time zones are older than the leader's were
        if status.message != error.message:
            _store(turn, service, replace(status, message=error.message), error.message)
        return turn.view.services[service.id]
    if not status.next_start_ns:
        start_ns = _following(schedule, turn.now_ns)
        if start_ns:
            status = replace(status, next_start_ns=start_ns)
            _store(turn, service, status, "the next start is set")
    elif turn.now_ns >= status.next_start_ns:
        status = _due(turn, service, status, cron, schedule)
    if status.queued_ns and not status.is_running:
        scheduled_ns, kept = status.queued_ns, runs_kept(service.spec)
        status = begin_run(status, turn.now_ns, kept, scheduled_ns)
        _store(turn, service, status, "the run before has ended: the queued one begins")
    if status.next_start_ns:
        turn.wake_at(status.next_start_ns)
    return turn.view.services[service.id]


def _due(
    turn: Turn, service: Service, status: JobStatus, cron: Cron, schedule: Schedule
) -> JobStatus:
    window_ns = cron.missed_run_window or defaults.MISSED_RUN_WINDOW_NS
    kept = runs_kept(service.spec)
    start_ns = _latest(schedule, max(status.next_start_ns, turn.now_ns - window_ns), turn.now_ns)
    moved = replace(status, next_start_ns=_following(schedule, turn.now_ns))
    if not start_ns:
        run = JobRun(
            outcome=JobOutcome.MISSED,
            scheduled_ns=status.next_start_ns,
            ended_ns=turn.now_ns,
            message="no manager could begin it within the window for missed runs",
        )
        moved = replace(moved, runs=_remember(status.runs, run, kept))
        _store(turn, service, moved, "a start was missed by more than the window")
    elif not status.is_running or cron.overlap is Overlap.REPLACE:
        moved = begin_run(moved, turn.now_ns, kept, start_ns)
        _store(turn, service, moved, "its schedule says so")
    elif cron.overlap is Overlap.QUEUE:
        moved = replace(moved, queued_ns=start_ns)
        _store(turn, service, moved, "the run before goes on: this one is queued")
    else:
        run = JobRun(
            outcome=JobOutcome.SKIPPED,
            scheduled_ns=start_ns,
            ended_ns=turn.now_ns,
            message=f"run {status.iteration} was still going on",
        )
        moved = replace(moved, runs=_remember(status.runs, run, kept))
        _store(turn, service, moved, "the run before goes on: this one is skipped")
    return moved


def _latest(schedule: Schedule, from_ns: int, now_ns: int) -> int:
    """Return the last start within `from_ns` … `now_ns`, 0 when there is none.

    Looks back further and further: after a week there may be 10,000 starts before the last one.
    """
    back_ns = _LOOK_BACK_NS
    while True:
        begin_ns = max(from_ns, now_ns - back_ns)
        found, start_ns = 0, _following(schedule, begin_ns - 1)
        while start_ns and start_ns <= now_ns:
            found, start_ns = start_ns, _following(schedule, start_ns)
        if found or begin_ns == from_ns:
            return found
        back_ns *= 4


def _following(schedule: Schedule, after_ns: int) -> int:
    found_s = schedule.after(after_ns // defaults.SECOND_NS)
    return found_s * defaults.SECOND_NS if found_s is not None else 0


def _as_run(status: JobStatus, outcome: JobOutcome, ended_ns: int) -> JobRun:
    return JobRun(
        outcome=outcome,
        iteration=status.iteration,
        scheduled_ns=status.scheduled_ns,
        started_ns=status.last_execution_ns,
        ended_ns=ended_ns,
        message=status.message,
    )


def _remember(runs: tuple[JobRun, ...], run: JobRun, history: int) -> tuple[JobRun, ...]:
    """Add a run; of those that ran, and of those that did not, the last `history` stay."""
    all_runs = (*runs, run)
    ran = [r for r in all_runs if r.outcome not in _NOT_RUN]
    others = [r for r in all_runs if r.outcome in _NOT_RUN]
    kept = (*ran[-history:], *others[-history:]) if history else ()
    return tuple(r for r in all_runs if r in kept)


def _store(turn: Turn, service: Service, status: JobStatus, reason: str) -> None:
    change = SetJobStatus(
        service_id=service.id, spec_version=service.spec_version, status=status, reason=reason
    )
    turn.emit(change)
