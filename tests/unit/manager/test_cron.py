"""Cron jobs: when runs begin, and what is remembered of them."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager import reconcile
from manager.orchestrator.crontab import _starts, parse
from manager.store.snapshot import dump, restore
from swarmapi.errors import InvalidArgument
from swarmapi.model.objects import JobOutcome, JobRun, JobStatus, Task, TaskState
from swarmapi.model.spec import Cron, Overlap
from tests.builders import SECOND, World, job_mode, node, spec

MINUTE = 60 * SECOND


def starts(text: str, zone: str, after: str, count: int) -> list[str]:
    """Return the next local starts after a moment in UTC, as `MM-DDTHH:MM+offset`."""
    schedule = parse(text, zone)
    moment = int(dt.datetime.fromisoformat(after).replace(tzinfo=dt.UTC).timestamp())
    found = []
    for _ in range(count):
        following = schedule.after(moment)
        assert following is not None
        moment = following
        local = dt.datetime.fromtimestamp(moment, schedule.zone)
        found.append(f"{local:%m-%dT%H:%M%z}")
    return found


@pytest.mark.parametrize(
    ("text", "zone", "after", "expected"),
    [
        ("*/20 9-10 * * *", "", "2026-01-01T09:30", ["01-01T09:40", "01-01T10:00", "01-01T10:20"]),
        ("0 9 13 * fri", "", "2026-01-08T00:00", ["01-09T09:00", "01-13T09:00", "01-16T09:00"]),
        ("0 9 * * 7", "", "2026-01-01T00:00", ["01-04T09:00", "01-11T09:00"]),
        ("0 0 1-7 * */7", "", "2026-01-01T00:00", ["01-04T00:00", "02-01T00:00"]),
        ("5 4 29 feb *", "", "2026-01-01T00:00", ["02-29T04:05", "02-29T04:05"]),
        ("@weekly", "", "2026-01-01T00:00", ["01-04T00:00"]),
        ("5/20 * * * *", "", "2026-01-01T00:00", ["01-01T00:05", "01-01T00:25", "01-01T00:45"]),
    ],
)
def test_the_next_starts(text: str, zone: str, after: str, expected: list[str]) -> None:
    found = starts(text, zone, after, len(expected))
    assert [s.removesuffix("+0000") for s in found] == expected


@pytest.mark.parametrize(
    ("text", "zone", "after", "expected"),
    [
        # A time that the clock skips: once, at the first moment after; the next day as usual.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00",
            ["03-29T03:00+0200", "03-30T02:30+0200"],
        ),
        # A time that comes twice: the first time only.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00",
            ["10-25T02:30+0200", "10-26T02:30+0100"],
        ),
        # Every hour is every hour of real time.
        (
            "0 * * * *",
            "Europe/Berlin",
            "2026-10-24T23:30",
            ["10-25T02:00+0200", "10-25T02:00+0100", "10-25T03:00+0100"],
        ),
        (
            "0 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:30",
            ["03-29T03:00+0200", "03-29T04:00+0200"],
        ),
        ("30 * * * *", "Europe/Berlin", "2026-03-29T00:40", ["03-29T03:30+0200"]),
        # Half an hour, and two hours.
        (
            "*/30 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:20",
            ["04-05T01:30+1100", "04-05T01:30+1030", "04-05T02:00+1030"],
        ),
        (
            "0 * * * *",
            "Antarctica/Troll",
            "2026-10-24T23:30",
            ["10-25T02:00+0200", "10-25T01:00+0000", "10-25T02:00+0000"],
        ),
        ("0 9 * * *", "Asia/Kolkata", "2026-01-01T03:29", ["01-01T09:00+0530"]),
    ],
)
def test_daylight_saving(text: str, zone: str, after: str, expected: list[str]) -> None:
    assert starts(text, zone, after, len(expected)) == expected


@given(
    st.integers(1_600_000_000, 2_200_000_000),
    st.sampled_from(("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe")),
    st.integers(0, 59),
)
def test_an_hourly_schedule_follows_real_time(now_s: int, zone: str, minute: int) -> None:
    """Each start is one that a look at every minute finds, and none is left out between."""
    schedule = parse(f"{minute} * * * *", zone)
    found = schedule.after(now_s)
    assert found is not None
    brute = (now_s // 60 + 1) * 60
    while dt.datetime.fromtimestamp(brute, schedule.zone).minute != minute:
        brute += 60
    assert found == brute


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "five fields"),
        ("* * * * * *", "five fields"),
        ("60 * * * *", "minute '60': '60' is not 0 to 59"),
        ("* * 0 * *", "day of month '0'"),
        ("* * * foo *", "month 'foo'"),
        ("* * * * 8", "day of week '8'"),
        ("*/0 * * * *", "'0' is no step"),
        ("5-1 * * * *", "'5-1' runs backwards"),
        ("-1 * * * *", "minute '-1'"),
    ],
)
def test_what_is_no_schedule(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match="schedule") as caught:
        parse(text)
    assert words in caught.value.message


def world_with(cron: Cron, total: int = 1) -> World:
    """Return a world at 00:16:40 UTC with one cron job that has not run."""
    world = World()
    world.add_nodes(node("n0"), node("n1"))
    world.put_service("s", spec("job", job=job_mode(total, cron=cron)))
    world.converge()
    return world


def status(world: World) -> JobStatus:
    """Return the job's status."""
    found = world.view.services["s"].job_status
    assert found is not None
    return found


def pass_time(world: World, minutes: float) -> None:
    """Move the clock and let everybody work."""
    world.now_ns += int(minutes * MINUTE)
    world.converge()


def finish(world: World, state: TaskState = TaskState.COMPLETE) -> list[Task]:
    """Let all that runs end."""
    ended = world.running("s")
    for task in ended:
        world.report(task.id, state)
    world.converge()
    return ended


def at(minute: float) -> int:
    """Return a time in minutes after midnight."""
    return int(minute * MINUTE)


def test_runs_begin_by_the_schedule_and_only_then() -> None:
    """Nothing runs before the first start; each start is an iteration of its own."""
    world = world_with(Cron(schedule="*/5 * * * *"))
    assert world.tasks("s") == []
    assert status(world).next_start_ns == at(20)
    assert world.deadline_ns is None or world.propose().next_deadline_ns == at(20)
    pass_time(world, 3)
    assert world.tasks("s") == []
    world.now_ns = at(20)
    world.converge()
    assert len(finish(world)) == 1
    assert (status(world).iteration, status(world).scheduled_ns) == (1, at(20))
    pass_time(world, 4)
    assert world.tasks("s") == []
    pass_time(world, 1)
    assert len(finish(world)) == 1
    assert status(world).runs == (
        JobRun(
            outcome=JobOutcome.COMPLETE,
            iteration=1,
            scheduled_ns=at(20),
            started_ns=at(20),
            ended_ns=at(20),
        ),
    )


def test_the_loop_sleeps_until_the_next_start() -> None:
    """A turn without dirty keys names the start as its deadline, and begins the run then."""
    world = world_with(Cron(schedule="*/5 * * * *"))
    world.dirty.clear()
    assert world.propose().next_deadline_ns == at(20)
    world.now_ns = at(20)
    assert world.turn()
    world.converge()
    assert len(world.running("s")) == 1


def test_a_leader_change_neither_loses_nor_doubles_a_run() -> None:
    """What a new leader does around a start is what the old one would have done."""
    world = world_with(Cron(schedule="*/5 * * * *"))
    world.now_ns = at(20)
    for _ in range(3):
        world.view = restore(list(dump(world.view)))
        world.dirty = set(reconcile.all_keys(world.view))
        world.turn()
    world.converge()
    assert status(world).iteration == 1
    assert len(world.view.tasks_of_service("s")) == 1


def test_a_missed_start_within_the_window_runs_once() -> None:
    """Three starts passed without a leader: one run makes up for them, for the latest."""
    world = world_with(Cron(schedule="*/5 * * * *", missed_run_window=15 * MINUTE))
    world.now_ns = at(32)
    world.converge()
    assert (status(world).iteration, status(world).scheduled_ns) == (1, at(30))
    finish(world)
    assert status(world).next_start_ns == at(35)
    assert status(world).iteration == 1


@pytest.mark.parametrize(
    ("schedule", "scheduled"), [("* * * * *", 9_999), ("0 */6 * * *", 9_720), ("7 1 * * *", 8_707)]
)
def test_after_a_week_without_a_leader_the_last_start_counts(schedule: str, scheduled: int) -> None:
    """It is found from the end: a minutely job would have 10,000 starts to look at."""
    world = world_with(Cron(schedule=schedule, missed_run_window=168 * 60 * MINUTE))
    looked = _starts.cache_info().misses
    world.now_ns = at(9_999)
    world.converge()
    assert (status(world).iteration, status(world).scheduled_ns) == (1, at(scheduled))
    assert _starts.cache_info().misses - looked < 100


def test_a_start_missed_by_more_than_the_window_is_listed() -> None:
    """It does not run; the schedule goes on."""
    world = world_with(Cron(schedule="0 * * * *", missed_run_window=5 * MINUTE))
    world.now_ns = at(66)
    world.converge()
    assert status(world).iteration == 0
    (run,) = status(world).runs
    assert (run.outcome, run.scheduled_ns) == (JobOutcome.MISSED, at(60))
    world.now_ns = at(120)
    world.converge()
    assert status(world).iteration == 1


def test_overlap_skip() -> None:
    """The start is skipped while the run before goes on, which is the default."""
    world = world_with(Cron(schedule="*/5 * * * *"))
    world.now_ns = at(20)
    world.converge()
    pass_time(world, 5)
    assert status(world).iteration == 1
    (run,) = status(world).runs
    assert (run.outcome, run.message) == (JobOutcome.SKIPPED, "run 1 was still going on")
    finish(world)
    assert status(world).iteration == 1
    pass_time(world, 5)
    assert status(world).iteration == 2


def test_overlap_queue() -> None:
    """One start waits for the end of the run before, however many come."""
    world = world_with(Cron(schedule="*/5 * * * *", overlap=Overlap.QUEUE))
    world.now_ns = at(20)
    world.converge()
    pass_time(world, 5)
    pass_time(world, 5)
    assert (status(world).iteration, status(world).queued_ns) == (1, at(30))
    finish(world)
    assert (status(world).iteration, status(world).scheduled_ns) == (2, at(30))
    finish(world)
    assert status(world).iteration == 2


def test_overlap_replace() -> None:
    """The run before is stopped, and only then the next one's tasks begin."""
    world = world_with(Cron(schedule="*/5 * * * *", overlap=Overlap.REPLACE))
    world.now_ns = at(20)
    world.converge()
    (old,) = world.running("s")
    world.now_ns = at(25)
    world.settle()
    assert status(world).iteration == 2
    assert world.view.tasks[old.id].desired == TaskState.SHUTDOWN
    assert len(world.view.tasks_of_service("s")) == 1
    world.converge()
    (new,) = world.running("s")
    assert new.job_iteration == 2
    assert [r.outcome for r in status(world).runs] == [JobOutcome.REPLACED]


def test_history_keeps_the_tasks_of_that_many_runs() -> None:
    """Older runs go with their tasks, whatever became of them."""
    world = world_with(Cron(schedule="*/5 * * * *", history=2))
    world.now_ns = at(20)
    world.converge()
    for number in range(5):
        finish(world, TaskState.FAILED if number == 3 else TaskState.COMPLETE)
        finish(world)
        pass_time(world, 5)
    assert status(world).iteration == 6
    assert [r.iteration for r in status(world).runs] == [4, 5]
    kept = {t.job_iteration for t in world.view.tasks_of_service("s")}
    assert kept == {4, 5, 6}


def test_the_deadline_is_each_runs_own() -> None:
    """A run that takes too long ends; the next one begins in time."""
    world = World()
    world.add_nodes(node("n0"))
    mode = job_mode(1, deadline_s=120, cron=Cron(schedule="*/5 * * * *"))
    world.put_service("s", spec("job", job=mode))
    world.converge()
    world.now_ns = at(20)
    world.converge()
    pass_time(world, 2)
    assert status(world).outcome is JobOutcome.DEADLINE
    assert world.running("s") == []
    world.now_ns = at(25)
    world.converge()
    assert status(world).iteration == 2
    assert [r.outcome for r in status(world).runs] == [JobOutcome.DEADLINE]


def test_a_new_schedule_holds_at_once_and_runs_nothing() -> None:
    """An update sets the next start anew; what runs goes on."""
    world = world_with(Cron(schedule="*/5 * * * *"))
    world.now_ns = at(20)
    world.converge()
    cron = Cron(schedule="0 12 * * *", time_zone="America/New_York")
    world.put_service("s", spec("job", job=job_mode(1, cron=cron), image="image:2"))
    world.converge()
    assert status(world).iteration == 1
    assert len(world.running("s")) == 1
    assert status(world).next_start_ns == at(17 * 60)
