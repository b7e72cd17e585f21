"""Members keep Raft's promises under random faults, and agree soon after they end."""

import pytest

from tests.sim.raft.simulation import run


@pytest.mark.parametrize("seed", range(5))
def test_b60_three_members(seed: int) -> None:
    outcome = run(seed)
    assert outcome.acknowledged
    assert outcome.reads


@pytest.mark.parametrize("seed", range(100, 105))
def test_b60_changing_members(seed: int) -> None:
    outcome = run(seed, members=True)
    assert outcome.acknowledged
    assert outcome.changes


@pytest.mark.parametrize("seed", range(200, 202))
def test_five_members_and_a_bad_power_supply(seed: int) -> None:
    outcome = run(seed, size=5, crash_chance=0.003)
    assert outcome.acknowledged
    assert outcome.crashes


@pytest.mark.parametrize("seed", range(300, 302))
def test_a_single_member(seed: int) -> None:
    outcome = run(seed, size=1, crash_chance=0.003)
    assert outcome.acknowledged
    assert outcome.crashes


def test_a_seed_replays_exactly() -> None:
    assert run(42, members=True) == run(42, members=True)
