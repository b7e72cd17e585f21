"""Stacks of Compose files through both clients, on a whole cluster."""

import os
import subprocess
from pathlib import Path

from tests.e2e.lab import LabHandle, wait_until

FILE = """
services:
  web:
    image: swarm-demo/web:1
    ports: ["8091:80"]
    environment: {GREETING: "${GREETING:-hello}"}
    secrets: [key]
    configs: [{source: page, target: /page.txt}]
    depends_on: {first: {condition: service_completed_successfully}, db: {}}
    deploy: {replicas: 2}
  first:
    image: busybox:latest
    command: "true"
    deploy: {mode: replicated-job}
  db:
    image: busybox:latest
    command: sleep 999
    stop_grace_period: 0s
secrets: {key: {environment: KEY}}
configs: {page: {content: "${KEY} for the page"}}
"""
DOCKERS = """
version: "3.8"
services:
  web:
    image: swarm-demo/web:1
    ports: ["8092:80"]
    stop_grace_period: 0s
    secrets: [key]
secrets: {key: {file: ./key}}
"""


def in_task(lab: LabHandle, service: str, *words: str) -> list[str]:
    """Return what a command prints in every container of a service."""
    found = []
    for node in lab.nodes:
        wanted = ["ps", "-q", "--filter", f"label=com.docker.swarm.service.name={service}"]
        for one in lab.swarmctl(node, *wanted).split():
            found += [lab.swarmctl(node, "exec", one, *words)]
    return found


def test_a_stack_comes_in_order_changes_in_place_and_goes(lab: LabHandle, tmp_path: Path) -> None:
    file = tmp_path / "stack.yml"
    file.write_text(FILE)

    def deploy(key: str, *words: str) -> str:
        line = ["env", f"KEY={key}", "swarmctl", "stack", "deploy", "--resolve-image", "never"]
        done = lab.run("exec", "m2", *line, *words, "-c", str(file), "st")
        return done.stdout

    plan = deploy("one", "--plan")
    assert "create network st_default" in plan
    assert "create st_web: 2 to create" in plan
    assert lab.swarmctl("m1", "stack", "ls", "-q") == ""
    shown = deploy("one")
    order = [shown.index(f"Creating service st_{name}") for name in ("first", "db", "web")]
    assert order == sorted(order)
    assert "Waiting for service st_first to complete" in shown
    listed = lab.swarmctl("m1", "stack", "services", "st", "--format", "{{.Name}} {{.Replicas}}")
    assert "st_web 2/2" in listed.splitlines()
    assert in_task(lab, "st_web", "cat", "/run/secrets/key", "/page.txt") == (
        ["oneone for the page"] * 2
    )
    before = set(lab.swarmctl("m1", "stack", "ps", "-q", "st").split())
    deploy("one")
    assert set(lab.swarmctl("m1", "stack", "ps", "-q", "st").split()) == before
    plan = deploy("two", "--plan")
    assert "replace secret st_key" in plan
    assert "update st_web: 0 to create, 2 to replace" in plan
    version = plan.rpartition("Plan version: ")[2].strip()
    line = ["swarmctl", "stack", "deploy", "--prune", "-c", str(file), "st"]
    refused = lab.run("exec", "m2", "env", "KEY=one", *line, "--plan-version", version, check=False)
    assert refused.returncode == 1
    assert f"moved since plan {version}" in refused.stderr
    assert "Replacing secret st_key" in deploy("two", "--plan-version", version)
    assert in_task(lab, "st_web", "cat", "/run/secrets/key") == ["two"] * 2
    lab.swarmctl("m3", "stack", "rm", "st")
    assert lab.api("m1", "GET", "/networks?filters=%7B%22name%22%3A%5B%22st_%22%5D%7D").body == []
    assert lab.api("m1", "GET", "/secrets").body == []


def test_the_docker_clis_stacks(lab: LabHandle, docker_cli: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    file = tmp_path / "stack.yml"
    file.write_text(DOCKERS)
    host = f"unix://{lab.socket('m2')}"
    env = {"PATH": os.environ["PATH"], "DOCKER_HOST": host, "DOCKER_CONFIG": str(tmp_path)}

    def docker(*words: str) -> str:
        done = subprocess.run(
            [docker_cli, "stack", *words], env=env, capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, f"docker stack {words}: {done.stdout}{done.stderr}"
        return done.stdout

    line = ["deploy", "--resolve-image", "never", "-c", str(file), "dk"]
    docker(*line)
    wait_until(lambda: "1/1" in docker("services", "dk"), 30, "the stack runs")
    assert docker("ls", "--format", "{{.Name}} {{.Services}}") == "dk 1\n"
    assert "dk_web.1" in docker("ps", "dk")
    docker(*line)
    assert docker("ps", "-q", "dk").count("\n") == 1
    docker("rm", "dk")
    assert docker("ls", "--format", "{{.Name}}") == ""
