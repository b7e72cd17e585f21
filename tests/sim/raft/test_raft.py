"""Members keep Raft's promises under random faults, and agree soon after they end."""

import pytest

from tests.sim.raft.simulation import run


@pytest.mark.parametrize("seed", range(2))
def test_b60_three_members(seed: int) -> None:
    outcome = run(seed)
    assert outcome.acknowledged
    assert outcome.reads


@pytest.mark.parametrize("seed", range(100, 103))
def test_b60_changing_members(seed: int) -> None:
    outcome = run(seed, "members")
    assert outcome.acknowledged
    assert outcome.changes
    assert outcome.installs


def test_five_members_and_a_bad_power_supply() -> None:
    outcome = run(200, "five")
    assert outcome.acknowledged
    assert outcome.crashes


def test_a_single_member() -> None:
    outcome = run(300, "single")
    assert outcome.acknowledged
    assert outcome.crashes


def test_a_slow_network() -> None:
    assert run(400, "slow").acknowledged


def test_a_seed_replays_exactly() -> None:
    assert run(42, "members", 15) == run(42, "members", 15)
