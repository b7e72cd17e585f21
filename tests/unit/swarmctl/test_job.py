"""Jobs: their flags, their lists, and waiting for their end."""

import copy
from typing import Any

import pytest

from swarmctl import converge
from swarmctl.http import Client
from tests.unit.swarmctl.conftest import Run
from tests.unit.swarmctl.daemon import Daemon, Seen
from tests.unit.swarmctl.test_service import SERVICE, FakeClock, serve, task

CREATE = ("service", "create", "-d", "--no-resolve-image")
TOTAL_5 = {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}}


def job(mode: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    """Return what a service has that is a job."""
    spec = copy.deepcopy(SERVICE["Spec"]) | {"Mode": mode or TOTAL_5}
    return {"Spec": spec, "JobStatus": {"JobIteration": {"Index": 3}, **status}}


def attempt(slot: int, state: str, iteration: int = 3, **more: Any) -> dict[str, Any]:
    """Return a task of a job, its slot counted from 0."""
    found = task(slot, state, DesiredState="complete", JobIteration={"Index": iteration})
    found["ID"] += str(iteration)
    found["Status"] |= more
    return found


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (["--mode", "replicated-job"], {"ReplicatedJob": {}}),
        (
            ["--mode", "replicated-job", "--replicas", "5"],
            {"ReplicatedJob": {"MaxConcurrent": 5, "TotalCompletions": 5}},
        ),
        (
            ["--mode=replicated-job", "--replicas=5", "--max-concurrent=2", "--deadline=1m"],
            {**TOTAL_5, "Deadline": 60 * 10**9},
        ),
        (["--mode", "global-job"], {"GlobalJob": {}}),
        (
            [
                *("--mode", "cron", "--schedule", "*/5 * * * *", "--time-zone", "Europe/Berlin"),
                *("--overlap", "queue", "--missed-run-window", "5m", "--history", "3"),
            ],
            {
                "ReplicatedJob": {},
                "Cron": {
                    "Schedule": "*/5 * * * *",
                    "TimeZone": "Europe/Berlin",
                    "Overlap": "queue",
                    "MissedRunWindow": 300 * 10**9,
                    "History": 3,
                },
            },
        ),
        (
            ["--mode", "global-job", "--schedule", "@daily"],
            {"GlobalJob": {}, "Cron": {"Schedule": "@daily"}},
        ),
    ],
)
def test_create_sends_the_mode(
    daemon: Daemon, ctl: Run, flags: list[str], mode: dict[str, Any]
) -> None:
    serve(daemon, [])
    assert ctl(*CREATE, *flags, "x").err == ""
    assert daemon.body("/services/create")["Mode"] == mode


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mode", "cron"], "--mode cron needs --schedule"),
        (["--mode", "global-job", "--replicas", "2"], "replicas can only be used with"),
        (["--mode", "global-job", "--max-concurrent", "2"], "max-concurrent can only be used with"),
        (["--deadline", "1m"], "deadline can only be used with jobs"),
        (["--time-zone", "UTC"], "time-zone can only be used with cron jobs"),
        (["--mode", "replicated-job", "--overlap", "skip"], "overlap needs --schedule"),
    ],
)
def test_flags_that_do_not_go_with_the_mode(
    daemon: Daemon, ctl: Run, flags: list[str], words: str
) -> None:
    serve(daemon, [])
    refused = ctl(*CREATE, *flags, "x")
    assert refused.code == 1
    assert words in refused.err


def test_update_and_scale_change_what_is_named(daemon: Daemon, ctl: Run) -> None:
    mode = {**TOTAL_5, "Cron": {"Schedule": "@daily", "History": 2}}
    serve(daemon, [], **job(mode))
    line = ("service", "update", "-d", "--max-concurrent", "3", "--schedule", "@hourly", "web")
    assert ctl(*line).err == ""
    path = f"/services/{SERVICE['ID']}/update"
    assert daemon.body(path)["Mode"] == {
        "ReplicatedJob": {"MaxConcurrent": 3, "TotalCompletions": 5},
        "Cron": {"Schedule": "@hourly", "History": 2},
    }
    daemon.seen.clear()
    assert ctl("service", "scale", "-d", "web=9").out == "web scaled to 9\n"
    assert daemon.body(path)["Mode"]["ReplicatedJob"]["TotalCompletions"] == 9
    serve(daemon, [], **job({"GlobalJob": {}}))
    refused = ctl("service", "scale", "-d", "web=9")
    assert refused.code == 1
    assert "scale can only be used with replicated or replicated-job mode" in refused.err
    assert "can only be used with cron" in ctl("service", "update", "--schedule=@daily", "web").err


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (TOTAL_5, "replicated job|1/2 (3/5 completed)"),
        ({"GlobalJob": {}}, "global job|1/2 (3/5 completed)"),
        ({**TOTAL_5, "Cron": {"Schedule": "@daily"}}, "cron|1/2 (3/5 completed)"),
    ],
)
def test_ls_shows_completions(daemon: Daemon, ctl: Run, mode: dict[str, Any], words: str) -> None:
    counts = {"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 3}
    serve(daemon, [], ServiceStatus=counts, **job(mode))
    assert ctl("service", "ls", "--format", "{{.Mode}}|{{.Replicas}}").out == words + "\n"


def test_tasks_of_a_job_are_counted_from_one(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [attempt(0, "complete"), attempt(1, "running")], **job())
    assert ctl("service", "ps", "web", "--format", "{{.Name}}").out == "web.1\nweb.2\n"


@pytest.mark.parametrize(
    ("state", "tasks", "code", "words"),
    [
        ({"State": "complete"}, [attempt(i, "complete") for i in range(5)], 0, ""),
        (
            {"State": "failed", "Message": "1 of 5 slots failed for good; task x: exit 1"},
            [attempt(0, "failed")],
            1,
            "job web: failed: 1 of 5 slots failed for good",
        ),
        (
            {"State": "deadline exceeded", "Message": "deadline exceeded: 1 slots completed"},
            [attempt(0, "complete")],
            1,
            "job web: deadline exceeded: 1 slots completed",
        ),
        ({"State": "running"}, [attempt(0, "running")], 3, "1 active"),
        ({"State": "waiting", "NextStart": "2026-01-01T00:00:00Z"}, [], 0, ""),
        ({}, [attempt(i, "complete") for i in range(5)], 0, ""),
    ],
)
def test_exit_codes_of_the_watch(
    daemon: Daemon,
    capfd: pytest.CaptureFixture[str],
    state: dict[str, Any],
    tasks: list[Any],
    code: int,
    words: str,
) -> None:
    serve(daemon, tasks, **job(**state))
    clock = FakeClock().clock()
    client = Client(daemon.host)
    assert converge.watch(client, SERVICE["ID"], quiet=True, timeout_s=9, clock=clock) == code
    assert words in capfd.readouterr().err


def test_the_watch_shows_the_iteration_it_began_with(
    daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tasks of older iterations do not count; one that was replaced has failed."""
    polls = 0
    old = [attempt(0, "complete", iteration=2)]

    def service(_: Seen) -> Any:
        nonlocal polls
        polls += 1
        status = {"JobIteration": {"Index": 3 if polls < 4 else 4}, "State": "running"}
        return copy.deepcopy(SERVICE) | job() | {"JobStatus": status}

    serve(daemon, [*old, attempt(0, "complete"), attempt(1, "starting")])
    daemon.on("GET", f"/services/{SERVICE['ID']}", service)
    code = converge.watch(Client(daemon.host), SERVICE["ID"], clock=FakeClock().clock())
    shown = capfd.readouterr()
    assert code == 1
    assert shown.out.splitlines()[:3] == [
        "job progress: 1 out of 5 complete, 1 active",
        "1/5: complete",
        "2/5: starting",
    ]
    assert shown.err == "job web: replaced: iteration 4 has begun\n"
