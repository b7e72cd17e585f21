"""One lab of five nodes for the whole session; gone at the end, whatever happened."""

import os
from collections.abc import Iterator

import pytest

from tests.e2e.lab import LabHandle


@pytest.fixture(scope="session")
def whole_lab() -> Iterator[LabHandle]:
    """Bring up three managers and two workers with the demo's images."""
    lab = LabHandle(f"t{os.getpid()}e")
    try:
        lab.run("up")
        yield LabHandle(lab.name, tuple(lab.run("nodes").stdout.split()))
    finally:
        lab.run("down")


@pytest.fixture
def lab(whole_lab: LabHandle) -> Iterator[LabHandle]:
    """Hand the lab to a test and bring it back to five ready nodes without services.

    A lab that does not come back fails its test alone: the next one gets a new lab.
    """
    yield whole_lab
    try:
        _bring_back(whole_lab)
    except AssertionError:
        whole_lab.run("down")
        whole_lab.run("up")
        raise


def _bring_back(whole_lab: LabHandle) -> None:
    whole_lab.run("heal")
    for node in whole_lab.nodes:
        if whole_lab.run("exec", node, "true", check=False).returncode != 0:
            whole_lab.run("start", node)
    whole_lab.await_ready("m1", timeout_s=60)
    for service in whole_lab.api("m1", "GET", "/services").body:
        assert whole_lab.api("m1", "DELETE", f"/services/{service['ID']}").status == 200


@pytest.fixture
def web(lab: LabHandle) -> str:
    """Create the demo's service, three replicas on port 8080, and return its name."""
    words = ["--name", "web", "--replicas", "3", "--publish", "8080:80", "swarm-demo/web:1"]
    lab.swarmctl("m1", "service", "create", *words)
    lab.await_running("m1", "web", 3)
    return "web"
