"""Registries through the docker CLI and swarmctl: a fake one, Debian's docker-registry, skopeo."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.bench import peers
from tests.e2e.engine.clients import Client
from tests.e2e.engine.machine import Machine, install_box, serving_registry

ALICE = "alice:$2b$04$MJpm6DG8nG7Gd.DdHDYiuu5C4NwY0YVeDVXpy3KfNQju.Vj.Cycae\n"  # sekret
PORTS = count(5000)
MIRROR = "http://127.0.0.1:4999"
Start = Callable[[str], str]
"""Starts a registry that lets in everybody (`none`) or alice (`basic`); returns its address."""


def need_peers(*names: str) -> None:
    for name in names:
        if why := peers.missing(name):
            pytest.skip(why)


@contextmanager
def distribution(machine: Machine, port: int, auth: str) -> Iterator[None]:
    """Debian's docker-registry."""
    home = machine.root / f"registry-{port}"
    home.mkdir()
    (home / "users").write_text(ALICE)
    settings: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(home / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if auth == "basic":
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(home / "users")}}
    (home / "config.yml").write_text(json.dumps(settings))  # YAML knows JSON
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            machine.inside(peers.program("docker-registry"), "serve", str(home / "config.yml")),
            stdout=log,
            stderr=log,
            env=peers.environment(),
        )
    try:
        deadline = time.monotonic() + 20
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        probe = machine.inside(sys.executable, "-c", connect)
        while subprocess.run(probe, capture_output=True, timeout=20, check=False).returncode:
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, (home / "log").read_text()
        yield
    finally:
        process.kill()
        process.wait(20)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine for all tests of this file."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    try:
        machine.start("--registry-mirror", MIRROR)
        install_box(machine)
        machine.docker("rmi", "box:1")
        yield machine
    finally:
        machine.close()


@pytest.fixture
def machine(started: Machine) -> Iterator[Machine]:
    """The machine with the image `box:1` and no other."""
    started.docker("import", str(started.root / "box.tar"), "box:1")
    yield started
    started.docker("rmi", "-f", *started.out("images", "-aq").split())


@pytest.fixture(params=["docker", "swarmctl"])
def client(request: pytest.FixtureRequest, machine: Machine) -> Client:
    """Each of the two clients."""
    return Client(request.param, machine)


@pytest.fixture(params=["fake", "docker-registry"])
def registry(
    request: pytest.FixtureRequest, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """How to start a registry on the machine's loopback; clients have logins of their own."""
    kind = serving_registry
    if request.param == "docker-registry":
        need_peers("docker-registry")
        kind = distribution
    monkeypatch.setenv("DOCKER_CONFIG", str(machine.root / "logins"))
    with ExitStack() as running:

        def start(auth: str) -> str:
            port = next(PORTS)
            running.enter_context(kind(machine, port, auth))
            return f"127.0.0.1:{port}"

        yield start


def test_push_pull_and_run(client: Client, registry: Start) -> None:
    name = f"{registry('none')}/team/box"
    client.good("tag", "box:1", f"{name}:1")
    pushed = client.out("push", f"{name}:1").splitlines()
    assert pushed[0] == f"The push refers to repository [{name}]"
    digest = pushed[-1].split()[2]
    assert pushed[-1].startswith(f"1: digest: {digest} size: ")
    image_id = client.out("images", "-q", "--no-trunc", f"{name}:1")
    client.good("rmi", "box:1", f"{name}:1")
    pulled = client.out("pull", f"{name}:1").splitlines()
    assert pulled[0] == "1: Pulling from team/box"
    assert pulled[-3:] == [
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {name}:1",
        f"{name}:1",
    ]
    assert client.out("images", "-q", "--no-trunc", f"{name}:1") == image_id
    shown = client.out("images", "--digests", "--format", "{{.Repository}} {{.Digest}}")
    assert shown == f"{name} {digest}"
    again = client.out("pull", f"{name}:1").splitlines()
    assert again[-2] == f"Status: Image is up to date for {name}:1"
    client.good("rmi", f"{name}:1")
    ran = client.run("run", "--rm", f"{name}:1", "echo", "pulled")
    assert ran.out == "pulled\n"
    assert f"Unable to find image '{name}:1' locally" in ran.err
    client.good("rmi", f"{name}:1")
    assert client.out("pull", "-q", f"{name}@{digest}") == f"{name}@{digest}"
    assert client.out("run", "--rm", f"{name}@{digest}", "echo", "pinned") == "pinned"
    missing = client.refused("run", "--rm", f"{name}:9", "true", code=125)
    assert f"manifest for {name}:9 not found: manifest unknown" in missing
    assert f"{name}:9 not found" in client.refused("pull", f"{name}:9")


def test_many_tags_and_a_base_from_afar(client: Client, registry: Start, tmp_path: Path) -> None:
    name = f"{registry('none')}/box"
    for tag in ("1", "2"):
        client.good("tag", "box:1", f"{name}:{tag}")
    client.good("push", "-a", name)
    client.good("rmi", f"{name}:1", f"{name}:2")
    assert client.out("pull", "-a", name).splitlines()[-1] == name
    assert set(client.out("images", "--format", "{{.Tag}}", name).split()) == {"1", "2"}
    own = client.out("image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", "box:1")
    assert client.out("pull", "--platform", own, f"{name}:1").endswith(f"\n{name}:1")
    other = client.refused("pull", "--platform", "linux/s390x", f"{name}:1")
    assert "does not match the specified platform" in other
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f'FROM {name}:4\nCMD ["echo", "built"]\n')
    client.good("tag", "box:1", f"{name}:4")
    client.good("push", f"{name}:4")
    client.good("rmi", f"{name}:4")
    client.good("build", "-t", "built:1", str(context))
    assert client.out("run", "--rm", "built:1") == "built"
    assert "has no search" in client.refused("search", name)


def test_a_closed_registry(client: Client, registry: Start) -> None:
    host = registry("basic")
    name = f"{host}/box:1"
    client.good("tag", "box:1", name)
    assert "no basic auth credentials" in client.refused("push", name)
    login = ("login", "-u", "alice", "--password-stdin", host)
    wrong = client.run(*login, stdin="wrong")
    assert wrong.code == 1
    assert "401 Unauthorized" in wrong.err
    assert client.good(*login, stdin="sekret") == "Login Succeeded\n"
    client.good("push", name)
    client.good("rmi", name)
    for either in ("docker", "swarmctl"):  # the login of one is the other's
        assert Client(either, client.machine).out("pull", "-q", name) == name
    client.good("logout", host)
    client.good("rmi", name)
    client.refused("pull", name)


def test_images_go_both_ways_with_skopeo(machine: Machine, tmp_path: Path) -> None:
    need_peers("skopeo", "docker-registry")
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false")

    def skopeo(*words: str) -> str:
        argv = [peers.program("skopeo"), "--insecure-policy", "--tmpdir", str(tmp_path), *words]
        done = subprocess.run(
            machine.inside(*argv), capture_output=True, text=True, timeout=60, check=False,
            env={**peers.environment(), "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    port = next(PORTS)
    host = f"127.0.0.1:{port}"
    with distribution(machine, port, "none"):
        ours = f"{host}/ours:1"
        machine.docker("tag", "box:1", ours)
        digest = machine.out("push", ours).splitlines()[-1].split()[2]
        layout = f"oci:{tmp_path}/layout:x"
        skopeo("copy", *plain, f"docker://{ours}", layout)
        for form in ("oci", "v2s2"):
            theirs = f"{host}/theirs:{form}"
            skopeo("copy", *plain, "--format", form, layout, f"docker://{theirs}")
            machine.docker("pull", theirs)
            assert machine.out("run", "--rm", theirs, "echo", form) == form
            # what was pulled is pushed as it came, whatever its format
            seen = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{theirs}"))
            machine.docker("tag", theirs, f"{host}/back:{form}")
            back = machine.out("push", f"{host}/back:{form}").splitlines()[-1]
            assert back.split()[2] == seen["Digest"]
        assert digest.startswith("sha256:")
        zstd = f"{host}/theirs:zstd"
        skopeo("copy", *plain, "--dest-compress-format", "zstd", layout, f"docker://{zstd}")
        machine.docker("pull", zstd)
        assert machine.out("run", "--rm", zstd, "echo", "zstd") == "zstd"


def test_a_mirror_is_asked_for_docker_hubs_images(machine: Machine) -> None:
    assert MIRROR in machine.out("info", "--format", "{{json .RegistryConfig.Mirrors}}")
    host = MIRROR.removeprefix("http://")
    with serving_registry(machine, int(host.partition(":")[2]), "none"):
        machine.docker("tag", "box:1", f"{host}/library/famous:1")
        machine.docker("push", f"{host}/library/famous:1")
        machine.docker("rmi", f"{host}/library/famous:1")
        assert machine.out("pull", "famous:1").endswith("docker.io/library/famous:1")
        assert machine.out("run", "--rm", "famous:1", "echo", "here") == "here"
