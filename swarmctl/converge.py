"""Watching a service until it is what its spec says.

Exit codes: 0 converged, 1 failed, 2 rolled back or paused, 3 timed out.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from swarmctl import job
from swarmctl.command import warn
from swarmctl.errors import DaemonError
from swarmctl.flags import filter_query
from swarmctl.http import Client
from swarmctl.job import JobProgress, Slot, end_of, iteration_of

CONVERGED, FAILED, ROLLED_BACK, TIMED_OUT = 0, 1, 2, 3
_POLL_S = 0.2
_BARS_MAX = 20
_BAR_CELLS = 50
_MONITOR_NANOS = 5 * 10**9
_HOPELESS_POLLS = 5
"""A slot may be without a live task for a moment, between a failure and its replacement."""
_STATES = (
    "new",
    "pending",
    "assigned",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
)
_WELL = ("running", "complete")
_ENDED_BADLY = ("failed", "rejected", "orphaned")


class Clock(NamedTuple):
    """The time of the watch; tests turn it themselves."""

    now: Callable[[], float]
    sleep: Callable[[float], None]


REAL_CLOCK = Clock(time.monotonic, time.sleep)


class Progress(NamedTuple):
    slots: tuple[Slot, ...]
    wanted: int

    @property
    def running(self) -> int:
        return sum(slot.state == "running" for slot in self.slots)

    @property
    def text(self) -> str:
        return f"overall progress: {self.running} out of {self.wanted} tasks"

    @property
    def hopeless(self) -> bool:
        """Say whether a slot has only ended badly and nothing is on its way."""
        return any(slot.state in _ENDED_BADLY for slot in self.slots)


def measure(service: Any, tasks: list[Any], nodes: list[Any]) -> Progress:
    """Return how far a service is: its slots (by number, or by node when global)."""
    up = {node["ID"]: node for node in nodes if _is_usable(node)}
    mode = service["Spec"].get("Mode") or {}
    best: dict[str, Any] = {}
    for task in tasks:
        if "Global" in mode:
            if task.get("NodeID") not in up or _is_drained(up[task["NodeID"]], task):
                continue
            key = task["NodeID"]
        elif task.get("NodeID") and task["NodeID"] not in up:
            continue  # lost with its node: its replacement counts
        else:
            key = str(task.get("Slot", 0))
        if key not in best or _rank(task) > _rank(best[key]):
            best[key] = task
    slots = tuple(
        Slot(_slot_name(key, up), task["Status"]["State"], task["Status"].get("Err", ""))
        for key, task in sorted(best.items(), key=lambda item: (len(item[0]), item[0]))
    )
    if "Global" in mode:
        return Progress(slots, len(slots))
    replicas = (mode.get("Replicated") or {}).get("Replicas")
    wanted = 1 if replicas is None else replicas
    return Progress(slots, wanted)


def _is_usable(node: Any) -> bool:
    state: str = node.get("Status", {}).get("State", "")
    return state != "down"


def _is_drained(node: Any, task: Any) -> bool:
    drained: bool = node["Spec"].get("Availability") == "drain"
    return drained or task.get("DesiredState") == "remove"


def _slot_name(key: str, nodes: dict[str, Any]) -> str:
    if key in nodes:
        return str(nodes[key].get("Description", {}).get("Hostname") or key)
    return key


def _rank(task: Any) -> tuple[bool, int, str]:
    """Order the tasks of a slot: alive before ended, then the further, then the newer."""
    state = task["Status"]["State"]
    alive = state in _STATES and task.get("DesiredState") not in ("shutdown", "remove")
    return alive, _STATES.index(state) if state in _STATES else -1, task.get("CreatedAt", "")


def watch(
    client: Client,
    service_id: str,
    *,
    quiet: bool = False,
    timeout_s: float | None = None,
    clock: Clock = REAL_CLOCK,
) -> int:
    """Show progress until the service has converged; returns the exit code."""
    view = _view(quiet=quiet)
    try:
        service = client.get(f"/services/{service_id}", insertDefaults="false")
        follow = _watch_job if service.get("JobStatus") is not None else _watch_tasks
        return follow(client, service, view, timeout_s, clock)
    except DaemonError as error:
        if error.status != 404:
            raise
        warn(f"service {service_id} was removed")
        return FAILED
    except KeyboardInterrupt:
        warn(
            "Operation continuing in background.\n"
            f"Use `swarmctl service ps {service_id}` to check progress."
        )
        return CONVERGED


def _watch_tasks(
    client: Client, service: Any, view: "_View", timeout_s: float | None, clock: Clock
) -> int:
    service_id = service["ID"]
    start = clock.now()
    since: float | None = None
    hopeless = 0
    rolling_back = False
    while True:
        service, progress = _poll(client, service_id)
        update = service.get("UpdateStatus") or {}
        state = update.get("State", "")
        rolling_back = rolling_back or state.startswith("rollback")
        steady = "" if since is None else _steady(since - start, _monitor_s(service, state))
        view.show(progress, state, steady)
        if state in ("paused", "rollback_paused"):
            return _ended(f"service update {state.replace('_', ' ')}", update)
        done = progress.running >= progress.wanted and progress.wanted == len(progress.slots)
        if not done or state in ("updating", "rollback_started"):
            since = None
            hopeless = hopeless + 1 if progress.hopeless and not state else 0
        elif since is None:
            since = clock.now()
        if since is not None and clock.now() - since >= _monitor_s(service, state):
            if rolling_back:
                return _ended("service rolled back", update)
            view.finish(f"verify: Service {service_id} converged")
            return CONVERGED
        if hopeless >= _HOPELESS_POLLS:
            return _failed(service_id, progress)
        if timeout_s is not None and clock.now() - start >= timeout_s:
            warn(
                f"service {service_id} has not converged after {timeout_s:g} s: "
                f"{progress.running} of {progress.wanted} tasks running"
            )
            return TIMED_OUT
        clock.sleep(_POLL_S)


def _watch_job(
    client: Client, service: Any, view: "_View", timeout_s: float | None, clock: Clock
) -> int:
    """Show an iteration until it has ended; a cron job is left to its schedule."""
    service_id, start = service["ID"], clock.now()
    begun = iteration_of(service)
    while True:
        service, tasks, nodes = _read(client, service_id)
        hosts = {node["ID"]: _slot_name(node["ID"], {node["ID"]: node}) for node in nodes}
        progress = job.measure(service, tasks, hosts)
        view.show(progress, "", "")
        ended = end_of(service, progress, begun)
        if ended is not None:
            view.finish(ended[1])
            return ended[0]
        if timeout_s is not None and clock.now() - start >= timeout_s:
            warn(f"job {service_id} has not ended after {timeout_s:g} s: {progress.text}")
            return TIMED_OUT
        clock.sleep(_POLL_S)


def _view(*, quiet: bool) -> "_View":
    if quiet:
        return _Silence()
    return _Bars() if sys.stdout.isatty() else _Lines()


def _poll(client: Client, service_id: str) -> tuple[Any, Progress]:
    service, tasks, nodes = _read(client, service_id)
    return service, measure(service, tasks, nodes)


def _read(client: Client, service_id: str) -> tuple[Any, Any, Any]:
    service = client.get(f"/services/{service_id}", insertDefaults="false")
    wanted = {"service": {service_id: True}, "_up-to-date": {"true": True}}
    tasks = client.call("GET", "/tasks", query=filter_query(wanted))
    return service, tasks, client.get("/nodes")


def _monitor_s(service: Any, state: str) -> float:
    """Return how long running tasks must stay so: the update's own watch counts as that."""
    if state in ("completed", "rollback_completed"):
        return 0.0
    config = service["Spec"].get("UpdateConfig") or {}
    return float(config.get("Monitor") or _MONITOR_NANOS) / 1e9


def _steady(took_s: float, monitor_s: float) -> str:
    text = f"verify: all tasks running after {took_s:.1f} s"
    return f"{text}, watching them for {monitor_s:g} s" if monitor_s else text


def _ended(what: str, update: Any) -> int:
    message = update.get("Message", "")
    warn(f"{what}: {message}" if message else what)
    return ROLLED_BACK


def _failed(service_id: str, progress: Progress) -> int:
    reasons = {slot.error or slot.state for slot in progress.slots if slot.state in _ENDED_BADLY}
    warn(
        f"service {service_id} failed: {progress.running} of {progress.wanted} tasks running and "
        f"no restart is left: {'; '.join(sorted(reasons))}"
    )
    return FAILED


class _View(Protocol):
    """Where progress is shown."""

    def show(self, progress: Progress | JobProgress, state: str, steady: str) -> None: ...

    def finish(self, text: str) -> None: ...


class _Silence:
    """Shows nothing."""

    def show(self, progress: Progress | JobProgress, state: str, steady: str) -> None:
        """Take note of nothing."""

    def finish(self, text: str) -> None:
        """Say nothing."""


class _Lines:
    """A line for every change: for files and pipes."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def show(self, progress: Progress | JobProgress, state: str, steady: str) -> None:
        if state in ("updating", "rollback_started"):
            self._say("update", f"update: {state.replace('_', ' ')}")
        self._say("overall", progress.text)
        if progress.wanted <= _BARS_MAX:
            for slot in progress.slots:
                self._say(slot.name, _slot_text(slot, progress.wanted))
        if steady:
            self._say("verify", steady)

    def finish(self, text: str) -> None:
        if text:
            print(text, flush=True)

    def _say(self, key: str, text: str) -> None:
        if self._last.get(key) != text:
            self._last[key] = text
            print(text, flush=True)


def _slot_text(slot: Slot, wanted: int) -> str:
    name = f"{slot.name}/{wanted}" if slot.name.isdigit() else slot.name
    error = f": {slot.error}" if slot.error and slot.state not in _WELL else ""
    return f"{name}: {slot.state}{error}"


class _Bars:
    """A bar per slot, drawn over the last picture."""

    def __init__(self) -> None:
        self._drawn = 0

    def show(self, progress: Progress | JobProgress, state: str, steady: str) -> None:
        head = progress.text
        if state in ("updating", "rollback_started"):
            head += f" ({state.replace('_', ' ')})"
        lines = [head]
        if progress.wanted <= _BARS_MAX:
            lines += [_bar(slot, progress.wanted) for slot in progress.slots]
        lines += [steady] if steady else []
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        body = "".join(f"\x1b[2K{line}\n" for line in lines)
        sys.stdout.write(up + body + "\x1b[J")
        sys.stdout.flush()
        self._drawn = len(lines)

    def finish(self, text: str) -> None:
        if text:
            print(text)


def _bar(slot: Slot, wanted: int) -> str:
    step = _STATES.index(slot.state) + 1 if slot.state in _STATES else 0
    step = len(_STATES) if slot.state == "complete" else step
    filled = step * _BAR_CELLS // len(_STATES)
    arrow = ">" if 0 < filled < _BAR_CELLS else ""
    bar = ("=" * filled + arrow).ljust(_BAR_CELLS)[:_BAR_CELLS]
    text = _slot_text(slot, wanted)
    name, _, rest = text.partition(": ")
    return f"{name}: {rest[:30]:<10} [{bar}]"
