"""What probes make of a container's health, and what its ends make of its policy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.supervisor.health import LOG_LENGTH, OUTPUT_BYTES, Health, HealthCheck, output_of
from runtime.supervisor.restart import RestartPolicy, next_delay_s, should_restart

_CHECK = HealthCheck({}, interval_s=30, start_period_s=60, start_interval_s=2, retries=3)


def _probe(health: Health, *results: tuple[float, int]) -> list[str]:
    """Take (time the container had run, exit code) of probes; return the statuses."""
    seen = []
    for ran_s, code in results:
        entry = {"start_ns": 0, "end_ns": 0, "exit_code": code, "output": str(len(health.log))}
        health.probed(_CHECK, ran_s, entry)
        seen.append(health.status)
    return seen


def test_failures_in_the_start_period_do_not_count_and_a_success_ends_it() -> None:
    health = Health()
    assert _probe(health, (1, 1), (2, 1), (3, 1), (4, 1)) == ["starting"] * 4
    assert health.failing_streak == 0
    assert _probe(health, (5, 0)) == ["healthy"]
    # once healthy, the start period protects no more
    assert _probe(health, (6, 1), (7, 1), (8, 1)) == ["healthy", "healthy", "unhealthy"]


def test_only_failures_in_a_row_make_it_unhealthy_and_a_success_heals() -> None:
    health = Health()
    assert _probe(health, (61, 1), (62, 1), (63, 0)) == ["starting", "starting", "healthy"]
    assert _probe(health, (64, -1), (65, 2), (66, 137)) == ["healthy", "healthy", "unhealthy"]
    assert health.failing_streak == 3
    assert _probe(health, (67, 0)) == ["healthy"]
    assert health.failing_streak == 0


def test_a_container_is_asked_more_often_while_it_may_be_starting() -> None:
    health = Health()
    assert health.pause_s(_CHECK, 0) == 2
    assert health.pause_s(_CHECK, 59.9) == 2
    assert health.pause_s(_CHECK, 60) == 30
    _probe(health, (1, 0))
    assert health.pause_s(_CHECK, 2) == 30


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(-1, 255)), max_size=40))
def test_the_log_is_the_last_five_and_the_streak_counts_back(
    results: list[tuple[float, int]],
) -> None:
    health = Health()
    _probe(health, *results)
    codes = [code for _, code in results]
    assert [entry["exit_code"] for entry in health.log] == codes[-LOG_LENGTH:]
    trailing = 0
    while trailing < len(codes) and codes[-1 - trailing] != 0:
        trailing += 1
    assert health.failing_streak <= trailing
    assert (health.status == "unhealthy") == (health.failing_streak >= _CHECK.retries)


def test_output_is_cut_and_a_forced_end_is_explained() -> None:
    assert output_of(b"ok\n", None) == "ok\n"
    assert output_of(b"x" * 5000, None) == "x" * OUTPUT_BYTES + "..."
    assert output_of(b"", 1.5) == "Health check exceeded timeout (1.5s)"
    assert output_of(b"\xff", 1) == "Health check exceeded timeout (1s): \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("policy", "code", "count", "again"),
    [
        (RestartPolicy(), 1, 0, False),
        (RestartPolicy("always"), 0, 9, True),
        (RestartPolicy("unless-stopped"), 0, 9, True),
        (RestartPolicy("on-failure"), 0, 0, False),
        (RestartPolicy("on-failure"), 1, 99, True),
        (RestartPolicy("on-failure", 3), 1, 2, True),
        (RestartPolicy("on-failure", 3), 1, 3, False),
    ],
)
def test_restart_policies(policy: RestartPolicy, code: int, count: int, again: bool) -> None:
    assert should_restart(policy, code, count) is again


def test_the_delay_doubles_to_a_minute_and_a_proven_run_resets_it() -> None:
    delays = [next_delay_s(0, 0)]
    while len(delays) < 12:
        delays.append(next_delay_s(delays[-1], 9.9))
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-2:] == [60.0, 60.0]
    assert next_delay_s(60.0, 10.0) == 0.1
