"""The life of one task on its node, as a pure function: what to do next, and what came of it.

The state moves up only; the agent drives it until it meets the desired state and then parks
(SwarmKit's task model). READY with desired READY is such a park: prepared, waiting for leave to
start.
"""

from dataclasses import dataclass
from enum import StrEnum

from swarmapi.model.objects import TaskState, TaskStatus

_STARTED_UNDER = TaskState.STARTING
"""An error below this state rejects the task; from it on, the task has failed."""


class Step(StrEnum):
    """One operation on a task."""

    NOTHING = "nothing"
    ADVANCE = "advance"
    """Only the state moves, to `Plan.to`."""
    PREPARE = "prepare"
    START = "start"
    AWAIT_HEALTH = "await health"
    """Started, but RUNNING only once its health and readiness checks succeed."""
    WAIT = "wait"
    SHUT_DOWN = "shut down"


@dataclass(frozen=True)
class Plan:
    """The next operation and, when it is ADVANCE, the state it leads to."""

    step: Step
    to: TaskState = TaskState.NEW


@dataclass(frozen=True)
class Outcome:
    """How an operation ended; `error` is empty when it succeeded."""

    error: str = ""
    exit_code: int | None = None
    """Of a container that has ended (WAIT, or a START that failed late)."""
    container_id: str = ""
    pid: int = 0
    message: str = ""
    unproven: bool = False
    """Of a START: the container runs and its health check has not succeeded yet."""


@dataclass(frozen=True)
class Standing:
    """What a task that runs is worth: whether it is to get connections, or is about to end."""

    ready: bool = True
    ending: bool = False
    message: str = "started"


_ADVANCES = {
    TaskState.NEW: TaskState.ACCEPTED,
    TaskState.PENDING: TaskState.ACCEPTED,
    TaskState.ASSIGNED: TaskState.ACCEPTED,
    TaskState.ACCEPTED: TaskState.PREPARING,
    TaskState.READY: TaskState.STARTING,
}

_OPERATIONS = {
    TaskState.PREPARING: Step.PREPARE,
    TaskState.STARTING: Step.START,
    TaskState.RUNNING: Step.WAIT,
}

_MESSAGES = {
    TaskState.ACCEPTED: "accepted",
    TaskState.PREPARING: "preparing",
    TaskState.READY: "prepared",
    TaskState.STARTING: "starting",
    TaskState.RUNNING: "started",
    TaskState.COMPLETE: "finished",
    TaskState.SHUTDOWN: "shutdown",
}


def next_step(desired: TaskState, state: TaskState, *, started: bool = False) -> Plan:
    """Return what brings a task in `state` nearer to `desired`.

    `started` tells of a STARTING task whether its container runs, which is so when it has a pid.
    """
    if state.is_terminal:
        return Plan(Step.NOTHING)
    if desired >= TaskState.SHUTDOWN:
        return Plan(Step.SHUT_DOWN)
    if state == TaskState.RUNNING:
        return Plan(Step.WAIT)
    if state >= desired:
        return Plan(Step.NOTHING)
    if state == TaskState.STARTING and started:
        return Plan(Step.AWAIT_HEALTH)
    if state in _OPERATIONS:
        return Plan(_OPERATIONS[state])
    return Plan(Step.ADVANCE, _ADVANCES[state])


def after(plan: Plan, status: TaskStatus, outcome: Outcome, now_ns: int) -> TaskStatus:
    """Return the status once `plan` has ended with `outcome`; never a lower state.

    The state stays only where a container could not be stopped: it may still run.
    """
    state = _state_after(plan, status.state, outcome)
    assert state >= status.state, f"a task never goes back from {status.state.name}"
    return TaskStatus(
        state=state,
        timestamp_ns=now_ns,
        message=outcome.message or _MESSAGES.get(state, state.name.lower()),
        error=outcome.error,
        container_id=outcome.container_id or status.container_id,
        pid=outcome.pid if state in (TaskState.STARTING, TaskState.RUNNING) else 0,
        exit_code=outcome.exit_code if outcome.exit_code is not None else status.exit_code,
    )


def _state_after(plan: Plan, state: TaskState, outcome: Outcome) -> TaskState:
    if plan.step == Step.SHUT_DOWN:
        return state if outcome.error else TaskState.SHUTDOWN
    if plan.step == Step.WAIT:
        return TaskState.FAILED if outcome.exit_code or outcome.error else TaskState.COMPLETE
    if outcome.error:
        return TaskState.REJECTED if state < _STARTED_UNDER else TaskState.FAILED
    if plan.step == Step.PREPARE:
        return TaskState.READY
    if plan.step == Step.START:
        return TaskState.STARTING if outcome.unproven else TaskState.RUNNING
    if plan.step == Step.AWAIT_HEALTH:
        return TaskState.RUNNING
    return plan.to
