"""The numbered behaviours of a swarm (`test_b07_…`) and its known weak spots keep their tests."""

import re
from pathlib import Path
from typing import Final

TESTS = Path(__file__).parents[1]
LAST = 60

AVOIDED: Final = {
    "a label or a scale overwrites the spec that a rollback returns to": (
        "test_five_specs_are_kept_and_any_may_come_back",
    ),
    "a removed service leaves its tasks' records and addresses behind": (
        "test_b15_service_deletion_removes_tasks_and_specs",
        "test_service_deletion_quarantines_its_vip",
    ),
    "news of a node updates global services past parallelism and delay": (
        "test_what_happens_to_a_node_leaves_a_global_update_its_pace",
    ),
    "a crash loop restarts at the same pace for ever": (
        "test_the_first_restarts_wait_the_policys_delay_then_it_doubles",
        "test_a_crash_loop_costs_a_few_writes_a_minute",
    ),
    "a global job's restarts are not limited": (
        "test_restarts_of_a_global_job_are_limited_as_well",
    ),
    "a long healthy run gives no attempts back": (
        "test_attempts_before_a_stable_run_use_up_nothing",
    ),
    "an update waits for ever on a task that does not come to run": (
        "test_an_update_without_progress_pauses_and_says_so",
    ),
    "starting first dead-locks on a host port or a maximum per node": (
        "test_start_first_finds_a_way_where_two_have_no_room",
    ),
    "a rollback that fails is called completed after the monitor": (
        "test_a_rollback_that_paused_stays_paused",
    ),
    "a pause has no time": ("test_an_update_without_progress_pauses_and_says_so",),
    "a paused update cannot be resumed": ("test_a_resumed_update_forgives_and_keeps_its_limits",),
    "an update that changes nothing runs a job again": (
        "test_an_update_that_changes_no_work_runs_nothing_again",
    ),
    "a job has no deadline, no schedule, and its history grows": (
        "test_deadline_stops_the_rest",
        "test_runs_begin_by_the_schedule_and_only_then",
        "test_history_of_failed_attempts_is_trimmed",
        "test_history_keeps_the_tasks_of_that_many_runs",
    ),
    "a job whose attempts are used up never ends": (
        "test_restarts_used_up_fail_the_job_but_not_its_other_slots",
    ),
    "a lower history limit does nothing to slots at rest": (
        "test_a_lower_history_limit_holds_for_slots_at_rest",
    ),
    "a node that shrinks loses arbitrary tasks": (
        "test_b45_enforcer_keeps_the_oldest_when_resources_shrink",
    ),
    "the enforcer stops at a node's first offender": ("test_b45_every_offender_is_found",),
    "nodes use up the addresses of networks": ("test_nodes_take_no_addresses_of_a_network",),
    "the mesh hides the client's address": (
        "test_every_node_reaches_every_replica_and_shows_the_true_client",
    ),
    "one volume that suits is enough where several are wanted": (
        "test_refused_service",  # volumes of the cluster
    ),
    "a refusal tells the first filter alone": ("test_every_filter_is_counted",),
    "a node drained while a decision is on its way gets the task": (
        "test_b54_assignment_is_checked_again",
    ),
    "a node has a state that it cannot get into": (
        "test_b58_silent_node_becomes_unknown_then_down",
    ),
    "a task that was replaced during a partition runs on beside its successor": (
        "test_b16_down_node_is_replaced_and_old_tasks_stopped_on_return",
        "test_b07_a_complete_set_removes_strangers",
    ),
    "log lines pile up in the leader": (
        "test_a_client_that_does_not_read_stops_the_reading_of_the_log",
        "test_a_node_is_read_no_faster_than_the_client_reads",
    ),
    "a reader of events that does not read fills the memory": (
        "test_a_reader_that_does_not_read_is_let_go",
    ),
    "a manager that lost the lead goes on deciding about jobs": (
        "test_a_manager_that_lost_the_lead_decides_nothing_more",
        "test_a_leader_change_neither_loses_nor_doubles_a_run",
    ),
    "one node that is down holds up a new root certificate for ever": (
        "test_rotation_under_a_stream_of_updates_with_a_node_away",
    ),
    "the settings of a rollback are not checked": ("test_refused_service",),
    "an update does not look the image's digest up": (
        "test_an_update_pins_the_digest_the_tag_has_by_now",
    ),
    "a stack has no order": ("test_a_stack_comes_in_order_changes_in_place_and_goes",),
}
"""What is weak or wrong in the original: the tests that would fail if it were so here."""


def named() -> set[str]:
    """Return the names of all tests."""
    found: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        found.update(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    return found


def test_every_behaviour_has_a_test_named_after_it() -> None:
    numbers = {
        int(number)
        for name in named()
        for begin in re.findall(r"^test_((?:b\d\d_)+)", name)
        for number in re.findall(r"b(\d\d)_", begin)
    }
    assert set(range(1, LAST + 1)) - numbers == set()


def test_every_weakness_that_is_avoided_has_its_tests() -> None:
    tests = named()
    assert {
        bug: name for bug, names in AVOIDED.items() for name in names if name not in tests
    } == {}
    assert all(AVOIDED.values())
