"""A manager starts with everything acknowledged, wherever the power was cut."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.sim.power.recording import Acknowledged, Recording, Step, Sync
from tests.sim.power.story import Labelled, check, tell

IMAGES = 300


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    folder = tmp_path_factory.mktemp("power")
    root = folder / "disk"
    root.mkdir()
    recording = Recording(root)

    async def story() -> None:
        async with asyncio.timeout(60):
            await tell(recording)

    with recording.running():
        asyncio.run(story())
    return recording.steps


def test_everything_acknowledged_survives_a_power_cut(steps: list[Step], tmp_path: Path) -> None:
    chance = Random(1)
    cuts = [*range(0, len(steps), len(steps) // (IMAGES // 2)), len(steps)]
    cuts += [chance.randrange(len(steps)) for _ in range(IMAGES - len(cuts))]
    looked_at = sum(check(steps, cut, seed, tmp_path / f"{seed}") for seed, cut in enumerate(cuts))
    assert looked_at > IMAGES // 2


def test_what_was_not_synced_is_missed(steps: list[Step], tmp_path: Path) -> None:
    """The check itself: without the last syncs some image has lost what was acknowledged."""
    labels = [
        number
        for number, step in enumerate(steps)
        if isinstance(step, Acknowledged) and isinstance(step.what, Labelled)
    ]
    bad = [step for step in steps[: labels[4] + 1] if not isinstance(step, Sync)]
    failures = 0
    for seed in range(10):
        try:
            check(bad, len(bad), seed, tmp_path / f"{seed}")
        except Exception:  # noqa: BLE001 - whatever is missing
            failures += 1
    assert failures
