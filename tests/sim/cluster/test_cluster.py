"""Random faults break no promise, and end when the faults end (B01, B16, B17, B54, B55)."""

import pytest

from tests.sim.cluster.simulation import run


@pytest.mark.parametrize("seed", range(10))
def test_seed(seed: int) -> None:
    run(seed)
