"""Answers compared with a dockerd's: what once differed, through the docker CLI."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

import aiohttp
import docker
import pytest

from tests.e2e.engine.machine import Machine, install_box


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with `main` running, `new` created and `held` paused."""
    machine = Machine(tmp_path_factory.mktemp("dockerd"))
    try:
        machine.start()
        install_box(machine)
        machine.docker("run", "-d", "--name", "main", "-p", "8080:80", "box:1", "sleep", "1000")
        machine.docker("create", "--name", "new", "--expose", "90", "box:1", "true")
        machine.docker("run", "-d", "--name", "held", "box:1", "sleep", "1000")
        machine.docker("pause", "held")
        yield machine
    finally:
        machine.close()


@pytest.mark.parametrize(
    ("command", "code", "complaint"),
    [
        ("kill new", 1, "cannot kill container: new: container"),
        ("pause held", 1, "is already paused"),
        ("rm held", 1, "container is paused and must be unpaused first"),
        ("rename main new", 1, 'Conflict. The container name "/new" is already in use'),
        ("rename nobody x!", 1, "No such container: nobody"),
        ("exec -w /nowhere main ls", 127, "chdir to cwd"),
        ("run --pull never nothing true", 125, "No such image: nothing:latest"),
        ("ps --filter name=[", 1, "invalid filter 'name=['"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_likewise(
    shared: Machine, command: str, code: int, complaint: str
) -> None:
    done = shared.docker(*command.split(), check=False)
    assert (done.returncode, complaint in (done.stdout + done.stderr).decode()) == (code, True)


@pytest.mark.parametrize(
    ("criterion", "names"),
    [
        ("network=bridge", ["held", "main", "new"]),
        ("publish=8000-9000", ["main"]),
        ("publish=80", []),
        ("expose=85-90/tcp", ["new"]),
        ("is-task=false", ["held", "main", "new"]),
    ],
)
def test_filters_find_likewise(shared: Machine, criterion: str, names: list[str]) -> None:
    found = shared.out("ps", "-a", "--filter", criterion, "--format", "{{.Names}}")
    assert sorted(found.split()) == names


def test_inspect_shows_what_is_in_force(shared: Machine) -> None:
    shared.docker(
        "create", "--name", "seen", "-m", "64m", "-e", "B=1", "-e", "A=2", "box:1", "true"
    )
    seen = shared.inspect("inspect", "seen")
    host = seen["HostConfig"]
    assert (host["IpcMode"], host["MemorySwap"]) == ("private", 128 << 20)
    assert "/proc/kcore" in host["MaskedPaths"]
    assert "/proc/sys" in host["ReadonlyPaths"]
    # in front of the image's; among themselves the CLI sends them in any order
    assert sorted(seen["Config"]["Env"][:2]) == ["A=2", "B=1"]
    file = str(shared.root / "cid")
    words = ("--privileged", "--userns", "host", "--cidfile", file)
    shared.docker("create", "--name", "strong", *words, "box:1", "true")
    host = shared.inspect("inspect", "strong")["HostConfig"]
    assert (host["UsernsMode"], host["ContainerIDFile"]) == ("host", file)
    assert shared.inspect("inspect", "strong")["HostConfig"]["MaskedPaths"] is None


def test_an_ended_exec_is_no_longer_listed(shared: Machine) -> None:
    shared.docker("exec", "main", "true")
    assert shared.inspect("inspect", "main")["ExecIDs"] is None
    shared.docker("exec", "-d", "main", "sleep", "1000")
    assert len(shared.inspect("inspect", "main")["ExecIDs"]) == 1


def test_a_container_that_never_ran_can_be_committed(shared: Machine) -> None:
    shared.docker("commit", "-c", 'CMD ["echo","made"]', "new", "made:1")
    assert shared.out("run", "--rm", "made:1") == "made"


def test_a_stop_tells_of_its_signals_and_a_commit_of_its_container(shared: Machine) -> None:
    since = str(int(time.time()))
    shared.docker("run", "-d", "--name", "brief", "box:1", "sleep", "1000")
    shared.docker("commit", "brief", "brief:1")
    shared.docker("stop", "-t", "0", "brief")
    shared.docker("rm", "brief")
    words = ("--filter", "container=brief", "--until", str(int(time.time()) + 1))
    form = "{{.Action}} {{.Actor.Attributes.signal}}"
    told = shared.out("events", "--since", since, *words, "--format", form).splitlines()
    assert [line.removesuffix(" <no value>") for line in told] == [
        "create", "start", "pause", "commit", "unpause", "kill 15", "kill 9", "die", "stop",
        "destroy",
    ]  # fmt: skip


def test_a_link_gives_names_and_variables(shared: Machine) -> None:
    shared.docker("run", "-d", "--name", "db", "--expose", "80", "box:1", "httpd", "-f", "-h", "/")
    script = "wget -q -O - http://data/bin/busybox >/dev/null && echo $DATA_PORT $DATA_NAME"
    told = shared.out(
        "run", "--rm", "--name", "web", "--link", "db:data", "box:1", "sh", "-c", script
    )
    address = shared.inspect("inspect", "db")["NetworkSettings"]["IPAddress"]
    assert told == f"tcp://{address}:80 /web/data"
    shared.docker("network", "create", "linked")
    shared.docker("network", "connect", "linked", "db")
    ask = "run --rm --network linked --link db:data box:1 wget -q -O /dev/null http://data/bin/ls"
    shared.docker(*ask.split())
    shared.docker("run", "-d", "--name", "site", "--link", "db:data", "box:1", "sleep", "1000")
    assert "db,site/data" in shared.out("ps", "--no-trunc", "--format", "{{.Names}}").split()
    assert shared.inspect("inspect", "site/data")["Name"] == "/db"
    assert shared.out("exec", "site/data", "echo", "here") == "here"
    assert "default link name" in shared.refused("rm", "--link", "db")
    shared.swarmctl("rm", "--link", "site/data")
    assert "No such container: site/data" in shared.refused("rm", "--link", "site/data")
    assert "data" not in shared.out("exec", "site", "cat", "/etc/hosts")
    shared.docker("rm", "-f", "site")


def test_volumes_come_from_another_container(shared: Machine) -> None:
    shared.docker("create", "--name", "holder", "-v", "/kept", "box:1", "true")
    shared.docker("run", "--rm", "--volumes-from", "holder", "box:1", "touch", "/kept/here")
    listed = shared.swarmctl("run", "--rm", "--volumes-from", "holder:ro", "box:1", "ls", "/kept")
    assert listed == "here"
    words = ("run", "--rm", "--volumes-from", "holder:ro", "box:1", "touch", "/kept/more")
    assert "Read-only file system" in shared.refused(*words)


def test_compose_v1_is_spoken_to_as_it_knows(shared: Machine) -> None:
    client = docker.APIClient(
        f"unix://{shared.run_dir}/swarmd.sock",
        version="auto",
        user_agent="docker-compose/1.29.2 docker-py/5.0.3 Linux/6.1",
    )
    with contextlib.closing(client):
        assert client.api_version == "1.41"
        assert client.inspect_image("box:1")["ContainerConfig"].get("Volumes") is None


def test_a_container_is_attached_to_over_a_websocket(shared: Machine) -> None:
    shared.docker("create", "-i", "-a", "stdin", "-a", "stdout", "--name", "ws", "box:1", "cat")
    asyncio.run(_talk(shared))
    assert shared.out("wait", "ws") == "0"


async def _talk(machine: Machine) -> None:
    connector = aiohttp.UnixConnector(f"{machine.run_dir}/swarmd.sock")
    async with aiohttp.ClientSession(connector=connector) as client, asyncio.timeout(20):
        path = "http://engine/v1.50/containers/{}/attach/ws?stream=1&stdin=1&stdout=1"
        async with client.ws_connect(path.format("ws")) as socket:
            async with client.post("http://engine/containers/ws/start") as started:
                assert started.status == 204
            for text in ("one\n", "two\n"):
                await socket.send_str(text)
                assert await socket.receive_bytes() == text.encode()
        async with client.get(path.format("ws")) as plain:
            assert plain.status == 400
            assert "WebSocket handshake" in (await plain.json())["message"]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(path.format("nobody"))
        assert refused.value.status == 404
