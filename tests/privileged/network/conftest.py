"""The lab fixture: an underlay that is gone after the test, whatever happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.privileged.network.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.close()
