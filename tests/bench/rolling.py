"""A rolling update of 50 replicas, ten at once, to all new tasks Running, beside dockerd."""

import time

from tests.bench.contest import Benchmark
from tests.bench.swarms import Swarm, Swarms, created, removed

REPLICAS = 50
PARALLELISM = 10


def sample(swarm: Swarm) -> float:
    """Replace every task; creation and removal are not counted."""
    created(swarm, REPLICAS)
    old = swarm.running()
    started = time.perf_counter()
    swarm.replace(PARALLELISM)
    swarm.until(lambda: len(swarm.running() - old) == REPLICAS)
    spent_s = time.perf_counter() - started
    removed(swarm)
    return spent_s


def benchmark() -> Benchmark:
    """Return the benchmark; both watch each batch for a second."""
    title = f"rolling update of {REPLICAS} replicas, {PARALLELISM} at once, to all new Running"
    return Swarms().contest(title, sample, budget=0.25)
