"""Events of the cluster, and tasks of other nodes, through the docker CLI and swarmctl."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest

from tests.e2e.lab import PROGRAM, LabHandle, wait_until

WAIT_S = 30
FORMAT = (
    '{{.Scope}} {{.Type}} {{.Action}} {{index .Actor.Attributes "name"}}'
    ' {{index .Actor.Attributes "state.new"}}'
)


@contextmanager
def listening(command: list[str], config: Path) -> Iterator["Queue[str]"]:
    """Read what a client prints for the length of the block."""
    env = {"PATH": os.environ["PATH"], "DOCKER_CONFIG": os.fspath(config)}
    lines: Queue[str] = Queue()
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        stream = process.stdout

        def copy() -> None:
            for line in stream:
                lines.put(line)

        thread = threading.Thread(target=copy)
        thread.start()
        try:
            yield lines
        finally:
            process.terminate()
            thread.join(WAIT_S)


def client(lab: LabHandle, name: str, node: str) -> list[str]:
    if name == "docker":
        return ["docker", "-H", f"unix://{lab.socket(node)}"]
    return [str(PROGRAM), "--name", lab.name, "exec", node, "swarmctl"]


def until(lines: "Queue[str]", words: str) -> list[str]:
    """Read up to a line with these words; returns all of them."""
    seen: list[str] = []
    while not seen or words not in seen[-1]:
        seen.append(lines.get(timeout=WAIT_S))
    return seen


def sleepers(lab: LabHandle, via: str, name: str, replicas: int = 1, *words: str) -> None:
    command = ["--name", name, "--replicas", str(replicas), *words]
    sleep = ["busybox:latest", "sleep", "100000"]
    lab.swarmctl(via, "service", "create", "--detach", "--no-resolve-image", *command, *sleep)


@pytest.mark.parametrize("name", ["docker", "swarmctl"])
def test_a_followers_stream_outlives_the_leader(
    lab: LabHandle, docker_cli: str, tmp_path: Path, name: str
) -> None:
    leader = lab.leader("m1")
    here = next(node for node in lab.managers() if node != leader)
    own = lab.api(here, "GET", "/info").body["Swarm"]["NodeID"]
    command = [*client(lab, name, here), "events", "--filter", "scope=swarm", "--format", FORMAT]
    with listening(command, tmp_path) as lines:
        wait_until(
            lambda: lab.api(here, "GET", "/info").body["NEventsListener"] > 0, WAIT_S, "it listens"
        )
        sleepers(lab, here, "before", 1, "--constraint", f"node.id=={own}")
        until(lines, "swarm service create before")
        lab.run("kill", leader)
        until(lines, f"swarm node update {leader} down")
        sleepers(lab, here, "after")
        seen = until(lines, "swarm service create after")
        assert not any("container" in line for line in seen)
    past = lab.swarmctl(here, "events", "--since", "5m", "--until", "0s", "--format", FORMAT)
    told = past.splitlines()
    service = next(i for i, line in enumerate(told) if "swarm service create before" in line)
    start = "local container create before."
    container = next(i for i, line in enumerate(told) if line.startswith(start))
    assert service < container, "the past of both in the order of time"
    assert any("service create after" in line for line in told)


def test_tasks_are_told_where_they_are_asked_for(lab: LabHandle) -> None:
    sleepers(lab, "m1", "told", 2)
    lab.await_running("m1", "told", 2)
    words = ("events", "--since", "5m", "--until", "0s", "--format", FORMAT)
    asked = lab.swarmctl("m2", *words, "--filter", "type=task", "--filter", "service=told")
    assert sum(line.endswith(" running") for line in asked.splitlines()) == 2
    assert " task " not in lab.swarmctl("m2", *words)


def test_exec_and_logs_of_a_task_reach_it_on_any_node(lab: LabHandle) -> None:
    worker = next(
        e for e in lab.api("m1", "GET", "/nodes").body if e["Description"]["Hostname"] == "w1"
    )
    sleepers(lab, "m1", "far", 1, "--constraint", f"node.id=={worker['ID']}")
    lab.await_running("m1", "far", 1)
    (task,) = lab.running("m1", "far")
    container = task["Status"]["ContainerStatus"]["ContainerID"]
    assert lab.swarmctl("m1", "exec", "far.1", "echo", "hello") == "hello\n"
    assert lab.swarmctl("m1", "logs", task["ID"]) == ""
    assert lab.swarmctl("w1", "exec", container[:12], "echo", "hello") == "hello\n"
    assert lab.swarmctl("w1", "logs", container[:12]) == ""
    sleepers(lab, "m1", "near", 1, "--constraint", "node.hostname==m1")
    lab.await_running("m1", "near", 1)
    (task,) = lab.running("m1", "near")
    assert lab.swarmctl("m1", "exec", "near.1", "echo", "hello") == "hello\n"
    assert lab.swarmctl("m1", "exec", task["ID"], "sh", "-c", "echo to 1 >/proc/1/fd/1") == ""
    wait_until(lambda: lab.swarmctl("m1", "logs", "near.1") == "to 1\n", WAIT_S, "it is logged")
