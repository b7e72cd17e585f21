"""exec and logs of a task: its container where it is here, else through the managers."""

import pytest

from tests.unit.swarmctl.conftest import Run
from tests.unit.swarmctl.daemon import Daemon, Reply, frame, refusal
from tests.unit.swarmctl.test_engine import spawn

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


@pytest.fixture
def elsewhere(task: Daemon) -> Daemon:
    """The same, on node n2: a manager that runs what it is asked to on n1."""
    task.on("GET", "/info", {"Swarm": {"NodeID": "n2"}})
    for path in ("tasks/t1", "services/web", "services/web.2"):
        task.on("POST", f"/swarm/v1/{path}/exec", {"Id": "x1", "TaskID": "t1", "NodeID": "n1"})
    task.hijacked.add("/swarm/v1/exec/x1/start")
    task.on("GET", "/swarm/v1/exec/x1", {"ExitCode": 7, "Running": False, "Error": ""})
    return task


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("exec",), "tasks/t1"),
        (("task", "exec"), "tasks/t1"),
        (("service", "exec"), "services/web"),
        (("service", "exec"), "services/web.2"),
    ],
)
def test_a_command_on_another_node_goes_through_the_managers(
    elsewhere: Daemon, words: tuple[str, ...], path: str
) -> None:
    flags = ("-i", "-e", "A=1", "-u", "u", "-w", "/w", "--privileged")
    name = path.partition("/")[2]
    done = spawn(elsewhere, *words, *flags, name, "cat", "-n", stdin=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"hello\ngot in", b"warning\n")
    body = elsewhere.body(f"/swarm/v1/{path}/exec")
    assert body == {
        "Cmd": ["cat", "-n"],
        "Env": ["A=1"],
        "User": "u",
        "WorkingDir": "/w",
        "Privileged": True,
        "Tty": False,
        "AttachStdin": True,
    }


def test_an_end_that_nobody_saw_is_no_success(elsewhere: Daemon) -> None:
    lost = {"ExitCode": None, "Running": False, "Error": "node w1 (n1) was lost"}
    elsewhere.on("GET", "/swarm/v1/exec/x1", lost)
    assert spawn(elsewhere, "task", "exec", "-i", "t1", "cat", stdin=b"").returncode == 1


@pytest.mark.parametrize("words", [("exec", "-d"), ("task", "exec", "-d"), ("exec", "-dit")])
def test_a_command_on_another_node_is_left_alone(
    elsewhere: Daemon, ctl: Run, words: tuple[str, ...]
) -> None:
    elsewhere.hijacked.clear()
    elsewhere.on("POST", "/swarm/v1/exec/x1/start", None)
    assert ctl(*words, "t1", "true") == (0, "", "")
    terminal = "-dit" in words
    assert elsewhere.body("/swarm/v1/exec/x1/start") == {"Detach": True, "Tty": terminal}


def test_what_needs_the_tasks_own_node_is_refused_by_name(elsewhere: Daemon, ctl: Run) -> None:
    done = ctl("exec", "--detach-keys", "ctrl-a", "t1", "true")
    assert done.code == 1
    assert "leave out --detach-keys" in done.err
    assert "POST /swarm/v1/tasks/t1/exec" not in elsewhere.calls()


def test_logs_of_a_container_on_another_node_are_its_tasks(elsewhere: Daemon, ctl: Run) -> None:
    labels = (
        b"com.docker.swarm.node.id=n1,com.docker.swarm.service.id=s,com.docker.swarm.task.id=t1"
    )
    pieces = (frame(1, labels + b" out\n"), frame(2, labels + b" err\n"))
    kind = "application/vnd.docker.multiplexed-stream"
    elsewhere.on("GET", "/tasks/t1/logs", Reply(200, pieces, kind))
    elsewhere.on("GET", "/containers/web.1.t1/json", refusal(404, "No such container"))
    assert ctl("logs", "--tail", "1", "web.1.t1") == (0, "out\n", "err\n")
    assert elsewhere.seen[-1].query["tail"] == "1"


def test_a_command_must_be_given(ctl: Run) -> None:
    assert ctl("service", "exec", "web").code == 1


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
