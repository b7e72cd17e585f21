"""Attempts that end early wait longer and longer; what runs stably begins anew."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from manager.orchestrator.backoff import LONGEST_NS, STABLE_NS, restart_delay_ns
from swarmapi.model.objects import Task, TaskState, TaskStatus
from swarmapi.model.spec import RestartCondition
from tests.builders import SECOND, World, node, spec


def ended(early_ends: int, state: TaskState = TaskState.FAILED, ran_ns: int = 0) -> Task:
    status = TaskStatus(state=state, applied_ns=100 + ran_ns)
    running_ns = 100 if ran_ns else 0
    return Task(
        id=f"t{early_ends}",
        service_id="s",
        spec_version=1,
        status=status,
        running_ns=running_ns,
        early_ends=early_ends,
    )


def crash(made: World) -> None:
    """Let the only task fail once its delay is over, and start the next one."""
    made.converge()
    if made.deadline_ns is not None:
        made.advance((made.deadline_ns - made.now_ns) / SECOND)
        made.converge()
    made.report(made.running("s")[0].id, TaskState.FAILED)
    made.settle()


def started(**options: object) -> World:
    made = World(history=1)
    made.add_nodes(node("n1"))
    made.put_service("s", spec(**options))  # type: ignore[arg-type]  # passed on by name
    made.converge()
    return made


def delays(made: World, count: int) -> list[float]:
    found = []
    for _ in range(count):
        crash(made)
        found.append(max(made.tasks("s")[0].not_before_ns - made.now_ns, 0) / SECOND)
    return found


def test_the_first_restarts_wait_the_policys_delay_then_it_doubles() -> None:
    found = delays(started(delay=5 * SECOND), 11)
    assert found[:3] == [5, 5, 5]
    for before, after in pairwise(found[2:8]):
        assert 1.5 * before < after < 2.6 * before
    assert all(300 <= d <= 375 for d in found[9:])


def test_without_a_delay_it_begins_at_two_seconds() -> None:
    found = delays(started(delay=0), 5)
    assert found[:3] == [0, 0, 0]
    assert 2 <= found[3] <= 2.5
    assert 4 <= found[4] <= 5


def test_a_stable_attempt_begins_anew() -> None:
    made = started(delay=SECOND)
    assert delays(made, 6)[-1] > 4
    made.advance(LONGEST_NS / SECOND)
    made.converge()
    made.advance(STABLE_NS / SECOND)
    assert delays(made, 1) == [1]
    assert delays(made, 2) == [1, 1]


def test_a_new_spec_begins_anew() -> None:
    made = started(delay=SECOND)
    delays(made, 6)
    made.put_service("s", spec(delay=SECOND, image="image:2"))
    made.converge()
    made.advance(400)
    assert delays(made, 1) == [1]


def test_attempts_before_a_stable_run_use_up_nothing() -> None:
    """Upstream counts for ever unless there is a window."""
    made = started(delay=0, max_attempts=1)
    crash(made)
    made.converge()
    made.advance(STABLE_NS / SECOND)
    crash(made)
    made.converge()
    assert made.running("s")
    crash(made)
    made.converge()
    assert made.running("s")
    crash(made)
    made.converge()
    assert not made.running("s")


def test_what_completes_waits_no_longer_than_the_default() -> None:
    made = started(delay=0, condition=RestartCondition.ANY)
    for _ in range(12):
        made.converge()
        if made.deadline_ns is not None:
            made.advance((made.deadline_ns - made.now_ns) / SECOND)
            made.converge()
        made.report(made.running("s")[0].id, TaskState.COMPLETE)
        made.settle()
    assert 5 <= (made.tasks("s")[0].not_before_ns - made.now_ns) / SECOND <= 6.25


@given(st.integers(0, 3600 * SECOND), st.integers(0, 1000), st.sampled_from(TaskState))
def test_the_delay_is_bounded(delay_ns: int, early_ends: int, state: TaskState) -> None:
    found = restart_delay_ns(delay_ns, ended(early_ends, state))
    assert delay_ns <= found <= max(delay_ns, LONGEST_NS) * 1.25
