"""exec and logs of a task: its container where it is here, else the way to it."""

import pytest

from tests.unit.swarmctl.conftest import Run
from tests.unit.swarmctl.daemon import Daemon, refusal

CONTAINER = "c" * 64


@pytest.fixture
def task(daemon: Daemon) -> Daemon:
    """A daemon on node n1 that knows a task t1 of node n1, and no container of that name."""
    daemon.on("POST", "/containers/t1/exec", refusal(404, "No such container: t1"))
    daemon.on("GET", "/containers/t1/json", refusal(404, "No such container: t1"))
    status = {"State": "running", "ContainerStatus": {"ContainerID": CONTAINER}}
    daemon.on("GET", "/tasks/t1", {"ID": "t1", "NodeID": "n1", "Status": status})
    daemon.on("GET", "/info", {"Swarm": {"NodeID": "n1"}})
    daemon.on("POST", f"/containers/{CONTAINER}/exec", {"Id": "e1"})
    daemon.on("GET", "/exec/e1/json", {"ExitCode": 7, "Running": False})
    daemon.on("POST", "/exec/e1/start", None)
    return daemon


def test_a_task_of_this_node_is_its_container(task: Daemon, ctl: Run) -> None:
    assert ctl("exec", "-d", "t1", "true").code == 0
    assert task.body("/exec/e1/start") == {"Detach": True, "Tty": False}


@pytest.mark.parametrize("words", [("exec", "t1", "true"), ("logs", "t1")])
def test_a_task_of_another_node_is_refused_with_the_way_to_it(
    task: Daemon, ctl: Run, words: tuple[str, ...]
) -> None:
    task.on("GET", "/info", {"Swarm": {"NodeID": "n2"}})
    node = {"Description": {"Hostname": "w1"}, "Status": {"Addr": "192.0.2.7"}}
    task.on("GET", "/nodes/n1", node)
    done = ctl(*words)
    assert done.code == 1
    assert "task t1 runs on node w1 (192.0.2.7)" in done.err
    assert f"swarmctl {words[0]} {CONTAINER[:12]}" in done.err
    assert "-H" in done.err


def test_what_is_neither_container_nor_task_is_no_container(daemon: Daemon, ctl: Run) -> None:
    daemon.on("POST", "/containers/x/exec", refusal(404, "No such container: x"))
    for status in (404, 503):
        daemon.on("GET", "/tasks/x", refusal(status, "not here"))
        done = ctl("exec", "x", "true")
        assert (done.code, "No such container: x" in done.err) == (1, True)


def test_a_containers_name_on_another_node_leads_to_its_task(task: Daemon, ctl: Run) -> None:
    task.on("POST", "/containers/web.1.t1/exec", refusal(404, "No such container: web.1.t1"))
    assert ctl("exec", "-d", "web.1.t1", "true").code == 0


def test_a_task_without_a_container_says_how_it_stands(task: Daemon, ctl: Run) -> None:
    task.on("GET", "/tasks/t1", {"ID": "t1", "NodeID": "", "Status": {"State": "pending"}})
    assert "task t1 has no container: it is pending" in ctl("exec", "t1", "true").err
