"""Modes of a service and, of jobs, what their flags write and how far they are."""

from argparse import Namespace
from typing import Any, NamedTuple

from swarmctl import flags
from swarmctl.command import Parser, warn
from swarmctl.errors import ClientError, UsageError

MODES = ("replicated", "global", "replicated-job", "global-job", "cron")
_WORDS = {
    "Replicated": "replicated",
    "Global": "global",
    "ReplicatedJob": "replicated job",
    "GlobalJob": "global job",
}
_SCHEDULED = ("schedule", "time_zone", "overlap", "missed_run_window", "history")
_JOBS = ("ReplicatedJob", "GlobalJob")


class Slot(NamedTuple):
    """A place of a job: the state of its best task, and the last error seen in it."""

    name: str
    state: str
    error: str


class JobProgress(NamedTuple):
    """How far an iteration of a job is; `state` is how it ended, or running or waiting."""

    slots: tuple[Slot, ...]
    wanted: int
    state: str
    message: str

    @property
    def completed(self) -> int:
        return sum(slot.state == "complete" for slot in self.slots)

    @property
    def text(self) -> str:
        active = sum(slot.state not in _ENDED for slot in self.slots)
        return f"job progress: {self.completed} out of {self.wanted} complete, {active} active"


_ENDED = ("complete", "shutdown", "failed", "rejected", "orphaned")


def add_flags(parser: Parser, *, update: bool) -> None:
    """Add the flags of modes; the kind of a mode is chosen once, at creation."""
    if not update:
        parser.add_argument("--mode", choices=MODES, default="replicated")
    parser.add_argument("--replicas", type=flags.count, help="tasks, or completions of a job")
    parser.add_argument("--max-concurrent", type=flags.count, help="tasks of a job at once")
    parser.add_argument("--deadline", type=flags.duration, help="end a job's run after this long")
    parser.add_argument("--schedule", help='when a job runs: "*/5 * * * *", @daily')
    parser.add_argument("--time-zone", help="of the schedule, such as Europe/Berlin (UTC)")
    parser.add_argument(
        "--overlap",
        choices=("skip", "queue", "replace"),
        help="what a run does while the one before goes on (skip)",
    )
    parser.add_argument(
        "--missed-run-window", type=flags.duration, help="run once if late by at most this (5m)"
    )
    parser.add_argument("--history", type=flags.count, help="runs whose tasks are kept (5)")


def apply(spec: dict[str, Any], args: Namespace, *, update: bool) -> None:
    """Write the mode the flags ask for into a spec."""
    if not update:
        if args.mode == "cron" and not args.schedule:
            raise UsageError('--mode cron needs --schedule, such as "*/5 * * * *"', 1)
        spec["Mode"] = {_key(args.mode): {}}
    mode = spec.setdefault("Mode", {})
    _apply_counts(mode, args, update=update)
    is_job = any(kind in mode for kind in _JOBS)
    if args.deadline is not None:
        if not is_job:
            raise UsageError("deadline can only be used with jobs", 1)
        mode["Deadline"] = args.deadline
    given = {name: getattr(args, name) for name in _SCHEDULED if getattr(args, name) is not None}
    if not given:
        return
    flag = next(iter(given)).replace("_", "-")
    if not is_job or (update and "Cron" not in mode):
        raise UsageError(f"{flag} can only be used with cron jobs", 1)
    if not args.schedule and "Cron" not in mode:
        raise UsageError(f"{flag} needs --schedule", 1)
    names = {"".join(part.capitalize() for part in k.split("_")): v for k, v in given.items()}
    mode["Cron"] = {**mode.get("Cron", {}), **names}


def _key(mode: str) -> str:
    if mode == "cron":
        return "ReplicatedJob"
    return "".join(part.capitalize() for part in mode.split("-"))


def _apply_counts(mode: dict[str, Any], args: Namespace, *, update: bool) -> None:
    if args.max_concurrent is not None and "ReplicatedJob" not in mode:
        raise UsageError("max-concurrent can only be used with replicated-job mode", 1)
    if "ReplicatedJob" in mode:
        counts = mode["ReplicatedJob"]
        concurrent = args.max_concurrent
        if concurrent is None and not update:
            concurrent = args.replicas
        for name, value in (("MaxConcurrent", concurrent), ("TotalCompletions", args.replicas)):
            if value is not None:
                counts[name] = value
    elif "Replicated" in mode and (args.replicas is not None or not update):
        mode["Replicated"] = {"Replicas": 1 if args.replicas is None else args.replicas}
    elif args.replicas is not None:
        raise UsageError("replicas can only be used with replicated or replicated-job mode", 1)


def scale(spec: dict[str, Any], count: int) -> None:
    """Set the number of replicas, or of completions."""
    mode = spec.get("Mode") or {}
    if "ReplicatedJob" in mode:
        mode["ReplicatedJob"]["TotalCompletions"] = count
    elif "Replicated" in mode:
        mode["Replicated"] = {"Replicas": count}
    else:
        raise ClientError("scale can only be used with replicated or replicated-job mode")


def mode_words(spec: Any) -> str:
    """Return a mode as lists show it."""
    mode = spec.get("Mode") or {}
    if "Cron" in mode:
        return "cron"
    return next((words for kind, words in _WORDS.items() if kind in mode), "")


def count_words(service: Any) -> str:
    """Return the counts of a service as lists show them: running/wanted, and completions."""
    mode, template = service["Spec"].get("Mode") or {}, service["Spec"]["TaskTemplate"]
    status = service.get("ServiceStatus") or {}
    wanted, completed = status.get("DesiredTasks", 0), status.get("CompletedTasks", 0)
    text = f"{status.get('RunningTasks', 0)}/{wanted}"
    if "ReplicatedJob" in mode:
        return f"{text} ({completed}/{_total(mode)} completed)"
    if "GlobalJob" in mode:
        return f"{text} ({completed}/{wanted + completed} completed)"
    per_node = (template.get("Placement") or {}).get("MaxReplicas", 0)
    return f"{text} (max {per_node} per node)" if per_node else text


def slot_name(task: Any) -> str:
    """Return a task's slot as names have it: counted from 1, or the node of a global one."""
    if task.get("JobIteration") is not None and "Slot" in task:
        return str(task["Slot"] + 1)
    return str(task.get("Slot") or task.get("NodeID", ""))


def _total(mode: Any) -> int:
    counts = mode["ReplicatedJob"]
    total = counts.get("TotalCompletions")
    return int(counts.get("MaxConcurrent") or 1) if total is None else int(total)


def measure(service: Any, tasks: list[Any], names: dict[str, str]) -> JobProgress:
    """Return how far the job's iteration is; `names` are those of the nodes by id."""
    status = service.get("JobStatus") or {}
    iteration = _index(status)
    best: dict[str, Any] = {}
    for task in tasks:
        if task.get("JobIteration") is None or _index(task) != iteration:
            continue
        key = slot_name(task)
        if key not in best or _rank(task) > _rank(best[key]):
            best[key] = task
    slots = tuple(
        Slot(names.get(key, key), task["Status"]["State"], task["Status"].get("Err", ""))
        for key, task in sorted(best.items(), key=lambda item: (len(item[0]), item[0]))
    )
    mode = service["Spec"].get("Mode") or {}
    wanted = _total(mode) if "ReplicatedJob" in mode else len(slots)
    return JobProgress(slots, wanted, status.get("State", ""), status.get("Message", ""))


def _index(holder: Any) -> int:
    return int((holder.get("JobIteration") or {}).get("Index", 0))


def _rank(task: Any) -> tuple[bool, bool, str]:
    state = task["Status"]["State"]
    return state == "complete", state not in _ENDED, task.get("CreatedAt", "")


def end_of(service: Any, progress: JobProgress, begun: int) -> tuple[int, str] | None:
    """Return exit code and words once iteration `begun` is over, None while it goes on."""
    name, status = service["Spec"]["Name"], service.get("JobStatus") or {}
    now, state, message = _index(status), progress.state, progress.message
    if now != begun:
        runs = status.get("Runs") or []
        old: Any = next((run for run in runs if _index(run) == begun and "JobIteration" in run), {})
        state = old.get("State", "replaced")
        message = old.get("Message", "") or f"iteration {now} has begun"
    if state == "waiting":
        start = status.get("NextStart", "not known")
        return 0, f"job {name} waits for its schedule: next start {start}"
    if state == "complete" or (not state and progress.completed >= progress.wanted > 0):
        return 0, f"job {name} completed: {progress.completed} out of {progress.wanted}"
    if state in ("", "running"):
        return None
    warn(
        f"job {name}: {state}: {message}"
        if not message.startswith(state)
        else f"job {name}: {message}"
    )
    return 1, ""


def iteration_of(service: Any) -> int:
    """Return the number of the iteration under way."""
    return _index(service.get("JobStatus") or {})
