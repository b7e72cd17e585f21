"""The numbered behaviours of a swarm (`test_b07_…`): none loses its test unseen."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
LAST = 60


def test_every_behaviour_has_a_test_named_after_it() -> None:
    named: set[int] = set()
    for path in TESTS.rglob("test_*.py"):
        for name in re.findall(r"def test_((?:b\d\d_)+)", path.read_text()):
            named |= {int(number) for number in re.findall(r"b(\d\d)_", name)}
    assert set(range(1, LAST + 1)) - named == set()
