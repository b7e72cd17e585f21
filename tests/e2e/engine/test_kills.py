"""A small share of `make soak-engine`: what kill -9 at random moments costs, which is nothing."""

from tests.e2e.engine.machine import Machine
from tests.soak.kills import Soak


def test_nothing_is_lost_doubled_or_left_by_kills(machine: Machine) -> None:
    soak = Soak(machine, seed=11, kills=4, holder_share=0.2)
    soak.run(workers=2)
    assert soak.faults == []
    assert soak.done > 0
