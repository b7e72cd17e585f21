"""Logs of services and tasks through the docker CLI and swarmctl, on the leader and a follower."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import IO

import pytest

from tests.e2e.lab import PROGRAM, LabHandle, wait_until

TALK = "echo one; echo two; echo oops >&2; exec sleep 100000"
FOLLOW_WAIT_S = 30


class Reader:
    """A command line for logs, of one client on one manager."""

    def __init__(self, lab: LabHandle, node: str, client: str, config: Path) -> None:
        self.env = {"PATH": os.environ["PATH"], "DOCKER_CONFIG": os.fspath(config)}
        if client == "docker":
            self.command = ["docker", "-H", f"unix://{lab.socket(node)}"]
        else:
            self.command = [str(PROGRAM), "--name", lab.name, "exec", node, "swarmctl"]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self.command, "service", "logs", *words]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)

    def out(self, *words: str) -> list[str]:
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.splitlines()

    @contextmanager
    def following(self, *words: str) -> Iterator["Queue[str]"]:
        """Follow for the length of the block; lines arrive in the queue."""
        command = [*self.command, "service", "logs", "-f", *words]
        lines: Queue[str] = Queue()
        with subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            stream = process.stdout
            thread = threading.Thread(target=_copy, args=(stream, lines))
            thread.start()
            try:
                yield lines
            finally:
                process.terminate()
                thread.join(FOLLOW_WAIT_S)


def _copy(stream: IO[str], lines: "Queue[str]") -> None:
    for line in stream:
        lines.put(line)


def talking(lab: LabHandle, replicas: int) -> None:
    words = ["--name", "talk", "--replicas", str(replicas), "busybox:latest", "sh", "-c", TALK]
    lab.swarmctl("m1", "service", "create", "--detach", *words)
    lab.await_running("m1", "talk", replicas)


@pytest.fixture(params=["docker", "swarmctl"])
def client(request: pytest.FixtureRequest, docker_cli: str) -> str:
    return str(request.param)


def names(lab: LabHandle, *, ids: int | None = 12) -> set[str]:
    """Return `service.slot.task@node` of the running tasks."""
    hosts = {e["ID"]: e["Description"]["Hostname"] for e in lab.api("m1", "GET", "/nodes").body}
    return {
        f"talk.{task['Slot']}{'.' + task['ID'][:ids] if ids != 0 else ''}@{hosts[task['NodeID']]}"
        for task in lab.running("m1", "talk")
    }


def test_logs_of_every_replica_from_leader_and_follower(
    lab: LabHandle, client: str, tmp_path: Path
) -> None:
    talking(lab, 5)
    leader = lab.leader("m1")
    follower = next(name for name in lab.managers() if name != leader)
    for node in (leader, follower):
        logs = Reader(lab, node, client, tmp_path)
        lines = [line.split("|") for line in logs.out("talk")]
        assert {name.strip() for name, _ in lines} == names(lab)
        assert sorted(text.strip() for _, text in lines) == ["one"] * 5 + ["two"] * 5
        assert sorted(logs.out("--raw", "--tail", "2", "talk")) == ["two"] * 5
        whole = {line.partition(" ")[0] for line in logs.out("--no-trunc", "talk")}
        assert whole == names(lab, ids=None)
        short = {line.partition(" ")[0] for line in logs.out("--no-task-ids", "talk")}
        assert short == names(lab, ids=0)
        stamped = logs.out("--raw", "-t", "talk")
        assert [line.split()[1] for line in sorted(stamped)].count("one") == 5
        assert stamped == sorted(stamped), "in the order of time"
        assert logs.out("--since", "2100-01-01T00:00:00", "talk") == []
        (task, *_) = lab.running("m1", "talk")
        assert logs.out("--raw", task["ID"]) == ["one", "two"]
        assert logs.run("--raw", "--tail", "1", task["ID"]).stderr == "oops\n"
        missing = logs.run("ghost")
        assert missing.returncode == 1
        assert "no such task or service: ghost" in missing.stderr


def test_following_shows_tasks_that_come_later(lab: LabHandle, client: str, tmp_path: Path) -> None:
    talking(lab, 1)
    follower = next(name for name in lab.managers() if name != lab.leader("m1"))
    with Reader(lab, follower, client, tmp_path).following("talk") as lines:
        assert "talk.1." in lines.get(timeout=FOLLOW_WAIT_S)
        lab.swarmctl("m1", "service", "scale", "--detach", "talk=4")
        seen = {lines.get(timeout=FOLLOW_WAIT_S).split(".")[1] for _ in range(7)}
        assert seen == {"1", "2", "3", "4"}


def test_a_log_that_is_not_kept_is_told(lab: LabHandle, docker_cli: str, tmp_path: Path) -> None:
    words = ["--name", "mute", "--log-driver", "none", "busybox:latest", "sleep", "100000"]
    lab.swarmctl("m1", "service", "create", "--detach", *words)
    lab.await_running("m1", "mute", 1)
    for client in ("docker", "swarmctl"):
        done = Reader(lab, "m2", client, tmp_path).run("mute")
        assert done.returncode == 1
        assert "configured logging driver does not support reading" in done.stderr


def test_a_node_that_is_down_is_named_after_the_lines_of_the_others(
    lab: LabHandle, docker_cli: str, tmp_path: Path
) -> None:
    talking(lab, 5)
    words = ["--mode", "replicated-job", "--constraint", "node.hostname==w1", "--name", "ended"]
    lab.swarmctl("m1", "service", "create", *words, "busybox:latest", "echo", "kept")
    lab.run("kill", "w1")
    wait_until(lambda: lab.node_states("m1").get("w1") == "down", 30, "w1 is seen to be down")
    lab.await_running("m1", "talk", 5)
    for client in ("docker", "swarmctl"):
        done = Reader(lab, "m1", client, tmp_path).run("--raw", "talk")
        assert done.returncode == 1
        assert done.stdout.split().count("one") == 5
        assert "incomplete log stream" in done.stderr
        assert "node w1 " in done.stderr
        assert "is down" in done.stderr
        done = Reader(lab, lab.leader("m1"), client, tmp_path).run("--raw", "ended")
        assert done.stdout == "kept\n", "the leader keeps what a finished task wrote"
        assert "those that the manager kept" in done.stderr
