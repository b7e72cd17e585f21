"""A machine per test; gone at the end, whatever happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
