"""Foreign clients against a manager's socket: curl-shaped REST and the docker CLI."""

import os
import subprocess
from typing import Any

import pytest

from tests.e2e.lab import LabHandle


def spec(name: str, **container: Any) -> dict[str, Any]:
    """A ServiceSpec as Docker's documentation writes it."""
    return {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox:latest", "Command": ["sleep", "100000"]}
            | container,
            "RestartPolicy": {"Condition": "any", "Delay": 1_000_000_000},
        },
        "Mode": {"Replicated": {"Replicas": 2}},
    }


@pytest.mark.parametrize("manager", ["m1", "m2", "m3"])
def test_any_manager_takes_a_service_and_shows_it(lab: LabHandle, manager: str) -> None:
    made = lab.api(manager, "POST", "/services/create", spec("curled"))
    assert made.status == 201, made.body
    shown = lab.api("m1", "GET", f"/services/{made.body['ID']}")
    assert shown.status == 200
    assert shown.body["Spec"]["Name"] == "curled"
    assert shown.body["Spec"]["Mode"] == {"Replicated": {"Replicas": 2}}
    lab.await_running("m1", "curled", 2)


@pytest.mark.parametrize(("node", "nodes_ready"), [("m2", True), ("w1", False)])
def test_every_node_tells_its_figures(lab: LabHandle, node: str, nodes_ready: bool) -> None:
    lines = str(lab.api(node, "GET", "/metrics").body).splitlines()
    assert any(line.startswith("swarm_network_drift_repaired_total ") for line in lines)
    assert ('swarm_nodes{state="ready"} 5' in lines) is nodes_ready


def test_a_bad_spec_is_refused_with_the_path_of_the_field(lab: LabHandle) -> None:
    bad = spec("bad")
    bad["Mode"]["Replicated"]["Replicas"] = "two"
    answer = lab.api("m1", "POST", "/services/create", bad)
    assert answer.status == 400
    assert "Mode.Replicated.Replicas" in answer.body["message"]


def test_an_unsupported_field_with_a_value_is_refused_by_name(lab: LabHandle) -> None:
    answer = lab.api("m1", "POST", "/services/create", spec("odd", NoSuchThing="value"))
    assert answer.status == 400
    assert "NoSuchThing" in answer.body["message"]
    empty = lab.api("m1", "POST", "/services/create", spec("empty", NoSuchThing=""))
    assert empty.status == 201, empty.body


@pytest.fixture
def docker(lab: LabHandle, docker_cli: str, tmp_path: os.PathLike[str]) -> Any:
    """Run the docker CLI against m1's socket and return what it prints."""
    host = f"unix://{lab.socket('m1')}"
    env = {"PATH": os.environ["PATH"], "DOCKER_HOST": host, "DOCKER_CONFIG": os.fspath(tmp_path)}

    def call(*words: str) -> str:
        done = subprocess.run(
            [docker_cli, *words], env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"docker {words}: {done.stdout}{done.stderr}"
        return done.stdout

    return call


def test_the_docker_cli_knows_the_engine_and_the_cluster(lab: LabHandle, docker: Any) -> None:
    assert docker("version", "--format", "{{.Server.APIVersion}}").strip() >= "1.41"
    assert docker("info", "--format", "{{.Swarm.LocalNodeState}}").strip() == "active"
    names = docker("node", "ls", "--format", "{{.Hostname}}").split()
    assert sorted(names) == sorted(lab.nodes)


def test_the_docker_cli_makes_shows_and_removes_a_service(lab: LabHandle, docker: Any) -> None:
    words = ["--replicas", "2", "--name", "x", "busybox:latest", "sleep", "100000"]
    docker("service", "create", *words)
    assert docker("service", "ls", "--format", "{{.Name}} {{.Replicas}}").strip() == "x 2/2"
    states = docker("service", "ps", "x", "--format", "{{.Name}} {{.CurrentState}}").splitlines()
    assert sorted(line.split()[:2] for line in states) == [["x.1", "Running"], ["x.2", "Running"]]
    docker("ps")
    docker("service", "rm", "x")
    assert docker("service", "ls", "--quiet") == ""
