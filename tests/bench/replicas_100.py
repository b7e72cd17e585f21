"""`service create --replicas 100`, as `replicas` does with 50."""

from tests.bench import replicas
from tests.bench.contest import Benchmark


def benchmark() -> Benchmark:
    """Return the benchmark."""
    return replicas.of(100)
