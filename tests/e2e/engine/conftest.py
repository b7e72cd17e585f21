"""A machine per test or per file; gone at the end, whatever happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine.clients import Client
from tests.e2e.engine.machine import Machine, install_box


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A running daemon with the image `box:1`."""
    machine = Machine(tmp_path)
    try:
        machine.start()
        install_box(machine)
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A running daemon with the image `box:1`, for all tests of a file."""
    machine = Machine(tmp_path_factory.mktemp("shared"))
    try:
        machine.start()
        install_box(machine)
        yield machine
    finally:
        machine.close()


@pytest.fixture(params=["docker", "swarmctl"])
def client(shared: Machine, request: pytest.FixtureRequest) -> Iterator[Client]:
    """Each of the two clients of the shared machine, which has images and nothing else."""
    yield Client(request.param, shared)
    if containers := shared.out("ps", "-aq").split():
        shared.docker("rm", "-f", "-v", *containers)
    shared.docker("network", "prune", "-f")
    shared.docker("volume", "prune", "-af")
