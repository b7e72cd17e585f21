"""`service rm` of 50 replicas to no container left, beside dockerd in swarm mode."""

from tests.bench.contest import Benchmark
from tests.bench.swarms import Swarm, Swarms, created, removed

REPLICAS = 50


def sample(swarm: Swarm) -> float:
    """Remove the service; its creation is not counted."""
    created(swarm, REPLICAS)
    return removed(swarm)


def benchmark() -> Benchmark:
    """Return the benchmark."""
    title = f"service rm of {REPLICAS} to no container left"
    return Swarms().contest(title, sample, budget=0.2)
