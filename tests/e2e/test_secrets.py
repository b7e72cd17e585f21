"""Secrets and configs in the lab: to the nodes that use them, on tmpfs, replaced, and gone."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.lab import LabHandle, wait_until

VALUE = "hunter2-first-value"
NEXT = "hunter2-second-value"
SLEEP = ["busybox:latest", "sleep", "100000"]


def container_of(lab: LabHandle, service: str) -> tuple[str, str]:
    """Return node and container of the one running task of a service."""
    (task,) = lab.running("m1", service)
    node = lab.api("m1", "GET", f"/nodes/{task['NodeID']}").body["Description"]["Hostname"]
    return node, task["Status"]["ContainerStatus"]["ContainerID"]


def inside(lab: LabHandle, service: str, script: str) -> str:
    node, container = container_of(lab, service)
    return lab.swarmctl(node, "exec", container, "sh", "-c", script)


def files_with(lab: LabHandle, node: str, value: str, root: str) -> list[str]:
    """Return the files of a node under a directory that hold a value."""
    words = ["grep", "-rlF", "--devices=skip", value, root]
    return lab.run("exec", node, *words, check=False).stdout.splitlines()


def test_a_secret_is_read_by_its_task_and_found_nowhere_else(
    lab: LabHandle, docker_cli: str, tmp_path: Path
) -> None:
    def docker(*words: str, given: str | None = None) -> str:
        env = {
            "PATH": os.environ["PATH"],
            "DOCKER_HOST": f"unix://{lab.socket('m2')}",
            "DOCKER_CONFIG": os.fspath(tmp_path),
        }
        done = subprocess.run(
            [docker_cli, *words], env=env, input=given, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"docker {words}: {done.stdout}{done.stderr}"
        return done.stdout

    docker("secret", "create", "-l", "a=b", "pw", "-", given=VALUE)
    docker("config", "create", "conf", "-", given="port = 80")
    text = '{{.Service.Name}}.{{.Task.Slot}} on {{.Node.Hostname}}: {{secret "key"}} {{env "N"}}'
    docker("config", "create", "--template-driver", "golang", "made", "-", given=text)
    assert docker("secret", "ls", "--format", "{{.Name}}").split() == ["pw"]
    shown = docker("secret", "inspect", "pw")
    assert json.loads(shown)[0]["Spec"] == {"Name": "pw", "Labels": {"a": "b"}}
    on_worker = ["--constraint", "node.role==worker"]
    secret = "source=pw,target=key,uid=65534,gid=65534,mode=0400"
    config = "source=conf,target=/etc/app/conf"
    words = ["--name", "reader", *on_worker, "--secret", secret, "--config", config]
    words += ["--config", "made", "--env", "N=<{{.Task.Name}}>", "--hostname", "h{{.Task.Slot}}"]
    words += SLEEP
    docker("service", "create", "-d", *words)
    lab.await_running("m1", "reader", 1)
    node, container = container_of(lab, "reader")
    assert inside(lab, "reader", "cat /run/secrets/key /etc/app/conf") == VALUE + "port = 80"
    (task,) = lab.running("m1", "reader")
    told = f"reader.1 on {node}: {VALUE} <reader.1.{task['ID']}>"
    assert inside(lab, "reader", "cat /made") == told
    assert inside(lab, "reader", "hostname").strip() == "h1"
    listed = inside(lab, "reader", "stat -c '%a %u %g' /run/secrets/key /etc/app/conf")
    assert listed.splitlines() == ["400 65534 65534", "444 0 0"]
    for target in ("/run/secrets/key", "/etc/app/conf"):
        line = inside(lab, "reader", f"grep ' {target} ' /proc/mounts").split()
        assert line[0] == "tmpfs"
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(line[3].split(","))
    described = lab.api(node, "GET", f"/containers/{container}/json").body
    assert lab.traces(node, container) != []
    token = lab.api("m1", "GET", "/swarm").body["JoinTokens"]["Manager"]
    for one in (node, "m1"):
        assert lab.traces(one, VALUE) == [], "on a worker nowhere, on a manager sealed"
        assert lab.traces(one, token) == []
    assert lab.traces("m1", "PRIVATE KEY") == [], "neither the root's nor its own"
    assert len(files_with(lab, node, VALUE, "/run")) == 2
    other = next(n for n in lab.nodes if n.startswith("w") and n != node)
    assert files_with(lab, other, VALUE, "/run") == []
    for body in (described, lab.api("m1", "GET", "/tasks").body, lab.api("m1", "GET", "/services")):
        assert VALUE not in str(body)
    refused = lab.api("m3", "DELETE", "/secrets/pw")
    assert refused.status == 400
    assert "in use by the following service: reader" in refused.body["message"]
    lab.run("restart", node)
    lab.await_ready("m1")
    assert container_of(lab, "reader") == (node, container)
    assert inside(lab, "reader", "cat /run/secrets/key") == VALUE
    docker("service", "rm", "reader")
    wait_until(lambda: not files_with(lab, node, VALUE, "/run"), 30, "its file is gone")
    docker("secret", "rm", "pw")
    docker("config", "rm", "conf", "made")
    assert lab.api("m1", "GET", "/secrets").body == []


def test_a_replaced_secret_reaches_who_follows_it(lab: LabHandle, tmp_path: Path) -> None:
    for number, value in enumerate((VALUE, NEXT)):
        (tmp_path / str(number)).write_text(value)

    def create(number: int, *flags: str) -> str:
        file = str(tmp_path / str(number))
        return lab.swarmctl("m2", "secret", "create", *flags, "pw", file).strip()

    def read(service: str) -> str:
        return inside(lab, service, "cat /run/secrets/pw") if lab.running("m1", service) else ""

    first = create(0)
    for name, flag in (("follows", "source=pw,follow"), ("pins", "pw")):
        words = ["--name", name, "--secret", flag, "--stop-grace-period", "0s", *SLEEP]
        lab.swarmctl("m1", "service", "create", "-d", "--no-resolve-image", *words)
        lab.await_running("m1", name, 1)
        assert read(name) == VALUE
    second = create(1, "--replace")
    wait_until(lambda: replaced(lab, second), 30, "the service that follows has a new task")
    lab.await_running("m1", "follows", 1)
    assert (read("follows"), read("pins")) == (NEXT, VALUE)
    rows = lab.swarmctl("m1", "secret", "ls", "--format", "{{.ID}} {{.Revision}}").splitlines()
    assert rows == [f"{first} 1", f"{second} 2"]
    lab.swarmctl("m1", "service", "rm", "follows", "pins")
    assert lab.swarmctl("m1", "secret", "rm", "pw") == "pw\n"


def test_a_replaced_secret_is_swapped_into_the_running_container(
    lab: LabHandle, tmp_path: Path
) -> None:
    """By way of a follower; the task stays, and its program is told by a signal."""
    for number, value in enumerate((VALUE, NEXT)):
        (tmp_path / str(number)).write_text(value)
    lab.swarmctl("m2", "secret", "create", "pw", str(tmp_path / "0"))
    script = "trap 'cat /run/secrets/pw > /tmp/told' HUP; while true; do sleep 0.1; done"
    words = ["--name", "swaps", "--secret", "source=pw,swap,signal=HUP", "--stop-signal", "KILL"]
    words += ["--no-resolve-image", "busybox:latest", "sh", "-c", script]
    lab.swarmctl("m2", "service", "create", "-d", *words)
    lab.await_running("m1", "swaps", 1)
    first = container_of(lab, "swaps")
    assert inside(lab, "swaps", "cat /run/secrets/pw") == VALUE
    lab.swarmctl("m2", "secret", "create", "--replace", "pw", str(tmp_path / "1"))
    told = "cat /tmp/told 2>/dev/null || true"
    wait_until(lambda: inside(lab, "swaps", told) == NEXT, 20, "the program has the next value")
    assert container_of(lab, "swaps") == first
    lab.run("restart", first[0])
    lab.await_ready("m1")
    assert inside(lab, "swaps", "cat /run/secrets/pw") == NEXT
    lab.swarmctl("m1", "service", "rollback", "-d", "swaps")
    wait_until(lambda: inside(lab, "swaps", told) == VALUE, 20, "a rollback swaps back")
    assert container_of(lab, "swaps") == first
    lab.swarmctl("m1", "service", "rm", "swaps")
    assert lab.swarmctl("m1", "secret", "rm", "pw") == "pw\n"


def replaced(lab: LabHandle, secret_id: str) -> bool:
    """Tell whether the task that runs of `follows` has the secret of that id."""
    tasks: list[Any] = lab.running("m1", "follows")
    used = [t["Spec"]["ContainerSpec"]["Secrets"][0]["SecretID"] for t in tasks]
    return used == [secret_id]
