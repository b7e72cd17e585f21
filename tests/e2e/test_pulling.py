"""Services pull their images from one node's registry: by tag and digest, with a login or none."""

import base64
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import PROGRAM, LabHandle, wait_until

REPOSITORY = Path(__file__).parents[2]
PRIVATE, PUBLIC = 5000, 5001
Client = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def registry(lab: LabHandle, port: int, auth: str) -> Iterator[str]:
    """Serve on m1 and return `host:port`."""
    serve = [sys.executable, "-m", "tests.fakes.registry", str(port), auth, lab.address("m1")]
    line = f"cd {shlex.quote(str(REPOSITORY))} && exec {shlex.join(serve)}"
    process = subprocess.Popen(
        [str(PROGRAM), "--name", lab.name, "exec", "m1", "sh", "-c", line],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        yield f"{lab.address('m1')}:{port}"
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


@pytest.fixture
def registries(lab: LabHandle) -> Iterator[tuple[str, str]]:
    """One that wants alice's password, and one for everybody."""
    with ExitStack() as stack:
        yield (
            stack.enter_context(registry(lab, PRIVATE, "basic")),
            stack.enter_context(registry(lab, PUBLIC, "none")),
        )


@pytest.fixture(params=["docker", "swarmctl"])
def client(
    request: pytest.FixtureRequest, lab: LabHandle, registries: tuple[str, str], tmp_path: Path
) -> Client:
    """Run a client against m1, logged in at the private registry."""
    program = str(Path(sys.executable).with_name("swarmctl"))
    if request.param == "docker":
        program = request.getfixturevalue("docker_cli")
    auth = base64.b64encode(b"alice:sekret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registries[0]: {"auth": auth}}}))
    host = f"unix://{lab.socket('m1')}"
    env = {"PATH": os.environ["PATH"], "DOCKER_HOST": host, "DOCKER_CONFIG": str(tmp_path)}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [program, *words], env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    call.__name__ = request.param
    return call


def publish(client: Client, image: str) -> str:
    """Push the lab's busybox under a name; return the digest. m1 forgets the name."""
    client("tag", "busybox:latest", image)
    client("push", image)
    [shown] = json.loads(client("image", "inspect", image).stdout)
    repository = image.rpartition(":")[0]
    [digest] = [
        d for name, _, d in (e.partition("@") for e in shown["RepoDigests"]) if name == repository
    ]
    client("rmi", image)
    return str(digest)


def nodes_of(lab: LabHandle, service: str) -> set[str]:
    return {task["NodeID"] for task in lab.running("m1", service)}


def image_of(lab: LabHandle, service: str) -> str:
    spec = lab.api("m1", "GET", f"/services/{service}").body["Spec"]
    return str(spec["TaskTemplate"]["ContainerSpec"]["Image"])


WORDS = ("--detach", "--replicas", "3", "--replicas-max-per-node", "1", "--restart-delay", "1s")
SLEEP = ("sleep", "100000")


def test_services_pull_by_tag_and_by_digest(
    lab: LabHandle, client: Client, registries: tuple[str, str]
) -> None:
    private, public = (f"{host}/{client.__name__}" for host in registries)
    digest = publish(client, f"{public}:1")
    publish(client, f"{private}:1")
    client("service", "create", *WORDS, "--name", "open", f"{public}:1", *SLEEP)
    client(
        *("service", "create", *WORDS, "--name", "login", "--with-registry-auth"),
        *(f"{private}:1", *SLEEP),
    )
    client("service", "create", *WORDS, "--name", "exact", f"{public}@{digest}", *SLEEP)
    for service in ("open", "login", "exact"):
        lab.await_running("m1", service, 3)
        assert len(nodes_of(lab, service)) == 3
    assert image_of(lab, "open") == f"{public}:1@{digest}"
    assert image_of(lab, "login") == f"{private}:1@{digest}"
    assert image_of(lab, "exact") == f"{public}@{digest}"
    shown = json.dumps([lab.api("m2", "GET", path).body for path in ("/services", "/tasks")])
    assert "alice" not in shown
    assert base64.b64encode(b"alice:sekret").decode() not in shown


def test_a_login_that_comes_with_an_update_heals_the_service(
    lab: LabHandle, client: Client, registries: tuple[str, str]
) -> None:
    image = f"{registries[0]}/{client.__name__}-late:1"
    publish(client, image)
    made = client("service", "create", *WORDS, "--name", "late", image, *SLEEP)
    assert "could not be accessed on a registry to record" in made.stderr

    def rejected() -> Any:
        tasks = lab.api("m1", "GET", "/tasks").body
        return [t["Status"]["Err"] for t in tasks if t["Status"]["State"] == "rejected"]

    wait_until(lambda: bool(rejected()), 30, "a task is rejected")
    assert rejected()[0] == f"No such image: {image}: no basic auth credentials"
    client("service", "update", "--detach", "--with-registry-auth", "late")
    lab.await_running("m1", "late", 3)
    # what is updated without a login keeps the one there is
    client("service", "update", "--detach", "--replicas", "5", "late")
    lab.await_running("m1", "late", 5)
    assert len(nodes_of(lab, "late")) == 5
