"""The life of a task on its node: every step and every outcome."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmapi.model.objects import TaskState, TaskStatus
from worker.taskmachine import Outcome, Plan, Step, after, next_step

_DESIRED = st.sampled_from(
    [TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE]
)
_OUTCOMES = st.builds(
    Outcome, error=st.sampled_from(["", "broken"]), exit_code=st.sampled_from([None, 0, 3])
)


def test_a_task_walks_up_to_running_and_then_waits() -> None:
    status = TaskStatus(state=TaskState.ASSIGNED)
    seen = []
    while (plan := next_step(TaskState.RUNNING, status.state)).step != Step.WAIT:
        status = after(plan, status, Outcome(container_id="c", pid=7), 1)
        seen.append(status.state)
    assert seen == [
        TaskState.ACCEPTED,
        TaskState.PREPARING,
        TaskState.READY,
        TaskState.STARTING,
        TaskState.RUNNING,
    ]
    assert (status.container_id, status.pid) == ("c", 7)


def test_a_task_with_a_health_check_runs_once_it_is_healthy() -> None:
    status = TaskStatus(state=TaskState.STARTING)
    start = next_step(TaskState.RUNNING, status.state, started=bool(status.pid))
    status = after(start, status, Outcome(container_id="c", pid=7, unproven=True), 1)
    assert (status.state, status.pid) == (TaskState.STARTING, 7)
    plan = next_step(TaskState.RUNNING, status.state, started=True)
    assert plan.step == Step.AWAIT_HEALTH
    assert after(plan, status, Outcome(pid=7), 1).state == TaskState.RUNNING
    unhealthy = after(plan, status, Outcome(error="task: unhealthy container"), 1)
    assert (unhealthy.state, unhealthy.pid) == (TaskState.FAILED, 0)
    assert next_step(TaskState.SHUTDOWN, status.state, started=True).step == Step.SHUT_DOWN


def test_b03_a_task_desired_ready_parks_when_prepared() -> None:
    assert next_step(TaskState.READY, TaskState.READY) == Plan(Step.NOTHING)
    assert next_step(TaskState.RUNNING, TaskState.READY) == Plan(Step.ADVANCE, TaskState.STARTING)


def test_b04_an_error_rejects_before_the_start_and_fails_after_it() -> None:
    preparing = TaskStatus(state=TaskState.PREPARING)
    assert after(Plan(Step.PREPARE), preparing, Outcome(error="no image"), 1).state == (
        TaskState.REJECTED
    )
    starting = TaskStatus(state=TaskState.STARTING)
    failed = after(Plan(Step.START), starting, Outcome(error="no such file", exit_code=127), 1)
    assert (failed.state, failed.exit_code, failed.error) == (
        TaskState.FAILED,
        127,
        "no such file",
    )


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome(exit_code=0), TaskState.COMPLETE),
        (Outcome(exit_code=1, error="task: non-zero exit (1)"), TaskState.FAILED),
        (Outcome(error="the container is gone"), TaskState.FAILED),
    ],
)
def test_the_end_of_a_running_task_tells_by_its_exit_code(
    outcome: Outcome, state: TaskState
) -> None:
    running = TaskStatus(state=TaskState.RUNNING, pid=7)
    ended = after(Plan(Step.WAIT), running, outcome, 1)
    assert ended.state == state
    assert ended.pid == 0


@given(_DESIRED, st.sampled_from([s for s in TaskState if s < TaskState.COMPLETE]))
def test_b05_shutdown_wins_whatever_the_state(desired: TaskState, state: TaskState) -> None:
    stops = next_step(desired, state).step == Step.SHUT_DOWN
    assert stops == (desired >= TaskState.SHUTDOWN)


@given(_DESIRED, st.sampled_from([s for s in TaskState if s.is_terminal]))
def test_an_ended_task_keeps_its_state(desired: TaskState, state: TaskState) -> None:
    assert next_step(desired, state).step == Step.NOTHING


@given(st.sampled_from(TaskState), st.lists(st.tuples(_DESIRED, _OUTCOMES), max_size=12))
def test_b01_states_are_monotonic(
    state: TaskState, events: list[tuple[TaskState, Outcome]]
) -> None:
    status = TaskStatus(state=state)
    for desired, outcome in events:
        plan = next_step(desired, status.state)
        if plan.step == Step.NOTHING:
            continue
        fresh = after(plan, status, outcome, 1)
        stuck = plan.step == Step.SHUT_DOWN and outcome.error
        assert fresh.state == status.state if stuck else fresh.state > status.state
        status = fresh
