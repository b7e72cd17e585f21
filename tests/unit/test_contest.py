"""The bench driver's arithmetic and its turns."""

import importlib
from typing import get_type_hints

import pytest

from tests.bench.__main__ import modules
from tests.bench.contest import Benchmark, Contender, run


def contest(budget: float, peer: str = "peer", missing: str = "") -> tuple[Benchmark, list[str]]:
    turns: list[str] = []

    def side(name: str, takes: float) -> Contender:
        def sample() -> float:
            turns.append(name)
            return takes

        return Contender(name, sample, missing if name == "peer" else "")

    made = Benchmark(
        title="a thing",
        unit="ms",
        contenders=(side("ours", 2.0), side("peer", 10.0)),
        budget=budget,
        rounds=3,
        peer=peer,
        warm_up_rounds=1,
        close=lambda: turns.append("closed"),
    )
    return made, turns


def test_contenders_take_turns_and_warm_up_is_not_kept() -> None:
    made, turns = contest(0.25)
    result = run(made)
    assert turns == ["ours", "peer"] * 4 + ["closed"]
    assert result.samples == {"ours": [2.0] * 3, "peer": [10.0] * 3}


def test_the_budget_is_a_ratio_to_the_peer() -> None:
    assert run(contest(0.25)[0]).met
    missed = run(contest(0.1)[0])
    assert not missed.met
    assert "MISSED" in missed.table()


def test_without_a_peer_the_budget_is_absolute() -> None:
    assert run(contest(2.0, peer="")[0]).met
    assert not run(contest(1.9, peer="")[0]).met


def test_a_missing_peer_is_named_and_never_meets_a_budget() -> None:
    result = run(contest(0.25, missing="not downloaded: run deploy/peers")[0])
    assert not result.met
    assert "not run: not downloaded" in result.table()
    assert result.record()["measured"] is None


@pytest.mark.parametrize("name", modules())
def test_every_module_follows_the_contract(name: str) -> None:
    made = importlib.import_module(f"tests.bench.{name}").benchmark
    assert get_type_hints(made) == {"return": Benchmark}
