"""Jobs with both clients on a whole cluster, and a cron job over a leader's death."""

import json
import os
import subprocess
import time
from typing import Any

import pytest

from tests.e2e.lab import LabHandle, http_quote, wait_until

RUN = ["busybox:latest", "sh", "-c"]


@pytest.fixture
def docker(lab: LabHandle, docker_cli: str, tmp_path: os.PathLike[str]) -> Any:
    """Run the docker CLI against m1's socket and return how it ended."""
    host = f"unix://{lab.socket('m1')}"
    env = {"PATH": os.environ["PATH"], "DOCKER_HOST": host, "DOCKER_CONFIG": os.fspath(tmp_path)}

    def call(*words: str) -> str:
        done = subprocess.run(
            [docker_cli, *words], env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"docker {words}: {done.stdout}{done.stderr}"
        return done.stdout

    return call


def job_status(lab: LabHandle, name: str, via: str = "m2") -> Any:
    """Return JobStatus as a manager tells it."""
    answer = lab.api(via, "GET", f"/services/{name}")
    return answer.body["JobStatus"] if answer.status == 200 else {}


def test_b41_b42_the_docker_cli_runs_jobs_and_waits_for_them(lab: LabHandle, docker: Any) -> None:
    line = [
        "--mode",
        "replicated-job",
        "--replicas",
        "5",
        "--max-concurrent",
        "2",
        "--name",
        "five",
    ]
    line += ["--env", "N={{.Task.Slot}}"]
    shown = docker("service", "create", "--no-resolve-image", *line, *RUN, "echo slot $N")
    assert "job complete" in shown
    listed = docker("service", "ls", "--format", "{{.Name}}|{{.Mode}}|{{.Replicas}}").strip()
    assert listed == "five|replicated job|0/2 (5/5 completed)"
    lines = docker("service", "logs", "--raw", "five").splitlines()
    assert sorted(lines) == [f"slot {number}" for number in range(5)]
    states = docker("service", "ps", "five", "--format", "{{.DesiredState}} {{.CurrentState}}")
    assert [line.split()[:2] for line in states.splitlines()] == [["Complete", "Complete"]] * 5
    assert "Name:\t\tfive" in docker("service", "inspect", "--pretty", "five")
    old = set(docker("service", "ps", "-q", "five").split())
    docker("service", "update", "--force", "five")
    assert job_status(lab, "five")["JobIteration"] == {"Index": 1}
    assert not old & set(docker("service", "ps", "-q", "five").split())
    assert "job complete" in docker("service", "scale", "five=2")
    line = ["--mode", "global-job", "--name", "each"]
    docker("service", "create", "--no-resolve-image", *line, *RUN, "true")
    counts = docker("service", "ls", "--filter", "name=each", "--format", "{{.Replicas}}")
    assert counts.strip() == f"0/0 ({len(lab.nodes)}/{len(lab.nodes)} completed)"


def test_swarmctl_tells_by_its_exit_code_how_a_job_ended(lab: LabHandle) -> None:
    def create(name: str, script: str, *flags: str) -> subprocess.CompletedProcess[str]:
        line = ("--mode", "replicated-job", "--no-resolve-image", *flags, "--name", name)
        words = ("exec", "m1", "swarmctl", "service", "create", *line, *RUN, script)
        return lab.run(*words, check=False)

    good = create("good", "true", "--replicas", "3")
    assert good.returncode == 0, good.stderr
    assert "job good completed: 3 out of 3" in good.stdout
    bad = create("bad", "exit 3", "--restart-condition", "none")
    assert bad.returncode == 1
    assert "1 of 1 slots failed for good" in bad.stderr
    late = create("late", "sleep 1000", "--deadline", "2s", "--stop-grace-period", "1s")
    assert late.returncode == 1
    assert "deadline exceeded: 0 of 1 completed" in late.stderr


def test_a_cron_job_runs_once_though_the_leader_dies(lab: LabHandle, docker: Any) -> None:
    """The leader is killed before a start; the run begins once, under the new leader."""
    # Nearer to the start its node may still count as alive, and be given the task.
    wait_until(lambda: time.time() % 60 < 40, 25, "a minute is not nearly over")
    cron = {"Schedule": "* * * * *", "TimeZone": "Europe/Berlin"}
    container = {"Image": "busybox:latest", "Command": ["sleep", "1"]}
    spec = {"Name": "tick", "TaskTemplate": {"ContainerSpec": container}, "Mode": {"Cron": cron}}
    made = lab.api("m1", "POST", "/services/create", spec)
    assert made.status == 201, made.body
    listed = docker("service", "ls", "--format", "{{.Name}} {{.Replicas}}").strip()
    assert listed == "tick 0/1 (0/1 completed)"
    first = job_status(lab, "tick")
    assert (first["State"], first["NextStart"][-4:]) == ("waiting", ":00Z")
    leader = lab.leader("m1")
    via = next(name for name in lab.managers() if name != leader)
    lab.run("kill", leader)
    wait_until(lambda: job_status(lab, "tick", via).get("State") == "complete", 90, "a run is over")
    ran = job_status(lab, "tick", via)
    assert (ran["JobIteration"], ran["ScheduledAt"]) == ({"Index": 1}, first["NextStart"])
    filters = http_quote(json.dumps({"service": ["tick"]}))
    assert len(lab.api(via, "GET", f"/tasks?filters={filters}").body) == 1
