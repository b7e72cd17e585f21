"""Containers and execs on a real terminal: sizes, keys, detaching, signals."""

from collections.abc import Iterator

import pytest

from tests.e2e.engine.clients import Client, install_users
from tests.e2e.engine.machine import Machine, install_box
from tests.e2e.engine.terminal import Terminal
from tests.e2e.lab import wait_until

SHELL = ("-e", "PS1=ready> ", "users:1", "sh")
DETACH = "\x10\x11"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine for all."""
    machine = Machine(tmp_path_factory.mktemp("terminals"))
    try:
        machine.start()
        install_box(machine)
        install_users(machine)
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="module", params=["docker", "swarmctl"])
def client(shared: Machine, request: pytest.FixtureRequest) -> Client:
    """Each of the two clients."""
    return Client(request.param, shared)


@pytest.fixture
def name(client: Client) -> Iterator[str]:
    """The name of a container a test may make; removed at the end."""
    chosen = f"{client.name}-tty"
    yield chosen
    client.run("rm", "-f", chosen)


def terminal(client: Client, *words: str) -> Terminal:
    return Terminal([*client.argv, *words], client.environment)


def until_running(client: Client, name: str, command: str) -> None:
    """Return once a process of the container is this command: the shell reads no more keys."""
    wait_until(lambda: client.good("top", name).rstrip().endswith(command), 10, command)


def resized(client: Client, screen: Terminal, name: str) -> bool:
    """Resize once more, a client may just have begun to listen; tell whether it has arrived."""
    screen.resize(40, 119)
    screen.resize(40, 120)
    return client.good("exec", name, "sh", "-c", "stty size < /dev/pts/0") == "40 120\n"


def test_run_it(client: Client, name: str) -> None:
    with terminal(client, "run", "--rm", "-it", "--name", name, *SHELL) as screen:
        screen.expect("ready> ")
        screen.type("tty; stty size\n")
        screen.expect("/dev/pts/0")
        screen.expect("30 100")
        wait_until(
            lambda: resized(client, screen, name),
            10,
            "the container's terminal has the new size",
        )
        screen.type("sleep 100\n")
        until_running(client, name, "sleep 100")
        screen.type("\x03")
        screen.expect("ready> ")
        screen.type("exit 7\n")
        assert screen.wait() == 7


@pytest.mark.parametrize("keys", [DETACH, "\x01x"])
def test_detach_and_attach_again(client: Client, name: str, keys: str) -> None:
    flag = [] if keys == DETACH else ["--detach-keys", "ctrl-a,x"]
    with terminal(client, "run", "-it", "--name", name, *flag, *SHELL) as screen:
        screen.expect("ready> ")
        screen.type("cd /tmp; echo mo''ved\n")
        screen.expect("moved")
        screen.type(keys)
        screen.wait()
    assert client.good("inspect", "-f", "{{.State.Running}}", name) == "true\n"
    with terminal(client, "attach", *flag, name) as screen:
        screen.type("pwd\n")
        screen.expect("/tmp")
        screen.type("exit 4\n")
        assert screen.wait() == 4


def test_start_attached(client: Client, name: str) -> None:
    client.good("create", "-it", "--name", name, *SHELL)
    with terminal(client, "start", "-ai", name) as screen:
        screen.expect("ready> ")
        screen.type("exit 3\n")
        assert screen.wait() == 3


def test_exec_it(client: Client, name: str) -> None:
    client.good("run", "-d", "--name", name, "users:1")
    words = ["-it", "-e", "PS1=inside> ", name, "sh"]
    with terminal(client, "exec", *words) as screen:
        screen.expect("inside> ")
        screen.type("stty size; tty\n")
        screen.expect("30 100")
        screen.resize(25, 90)
        screen.expect("inside> ")
        screen.type("cat\n")
        until_running(client, name, " cat")
        screen.type("line\n")
        screen.expect("line\r\nline")
        screen.type("\x04")
        screen.expect("inside> ")
        screen.type("exit 6\n")
        assert screen.wait() == 6


def test_exec_detached_by_keys_goes_on(client: Client, name: str) -> None:
    client.good("run", "-d", "--name", name, "users:1")
    with terminal(client, "exec", "-it", name, "sh", "-c", "echo begun; sleep 300") as screen:
        screen.expect("begun")
        screen.type(DETACH)
        screen.wait()
    assert "sleep 300" in client.good("top", name)


def test_ctrl_c_reaches_a_container_without_a_terminal(client: Client, name: str) -> None:
    script = "trap 'echo caught; exit 5' INT; echo begun; while :; do sleep 0.1; done"
    with terminal(client, "run", "--name", name, "users:1", "sh", "-c", script) as screen:
        screen.expect("begun")
        screen.type("\x03")
        screen.expect("caught")
        assert screen.wait() == 5


def test_a_client_without_a_terminal_is_told(client: Client, name: str) -> None:
    refused = client.run("run", "--rm", "-it", "users:1", "true")
    assert refused.code != 0
    assert "TTY" in refused.err
