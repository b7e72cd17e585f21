"""A machine whose manager process is gone at the end, whatever happened."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cluster.bench import Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("FAKE_CERTS", "")
    made = Machine(tmp_path)
    yield made
    asyncio.run(made.end())
