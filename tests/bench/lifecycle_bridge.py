"""create, start, wait and delete of `true` through the API, on the bridge, against dockerd."""

from tests.bench.arena import Arena
from tests.bench.contest import Benchmark
from tests.bench.lifecycle import once


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's."""
    title = "API create + start + wait + delete of true, network bridge"
    return Arena(bridge=True).contest(title, lambda client: once(client, "bridge"), budget=0.12)
