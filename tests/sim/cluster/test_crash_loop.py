"""What a service that crashes for an hour costs the log."""

from collections import Counter

import pytest

from swarmapi.model.objects import TaskState
from tests.builders import SECOND, World, node, spec

HOUR_NS = 3_600 * SECOND
STEPS = (TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY)


def writes_by_minute(delay_ns: int, *, runs: bool) -> Counter[int]:
    """Crash for an hour; every step of a task is a write of its own, as if nothing were merged."""
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec(delay=delay_ns))
    began_ns, found = made.now_ns, Counter[int]()
    while made.now_ns - began_ns < HOUR_NS:
        before = made._index
        made.settle()
        for task in made.tasks("s"):
            for state in STEPS:
                if task.status.state < state:
                    made.report(task.id, state)
            if made.view.tasks[task.id].desired == TaskState.RUNNING:
                made.report(task.id, TaskState.STARTING)
                if runs:
                    made.report(task.id, TaskState.RUNNING)
                made.report(task.id, TaskState.FAILED, "exit 1")
        found[(made.now_ns - began_ns) // (60 * SECOND)] += made._index - before
        if made._index == before:
            assert made.deadline_ns is not None
            made.now_ns = max(made.deadline_ns, made.now_ns + SECOND // 100)
    assert len(made.view.tasks) <= 5
    return found


@pytest.mark.parametrize("delay_ns", [0, 5 * SECOND])
@pytest.mark.parametrize("runs", [False, True])
def test_a_crash_loop_costs_a_few_writes_a_minute(delay_ns: int, runs: bool) -> None:
    """Without the back-off it is 100 a minute at the default delay, and no bound at none."""
    found = writes_by_minute(delay_ns, runs=runs)
    later = [found[minute] for minute in range(10, 60)]
    assert sum(later) / len(later) <= 3
    assert max(later) <= 20
    assert found[0] <= 120
