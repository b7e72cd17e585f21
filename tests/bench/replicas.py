"""`service create --replicas 50` to all Running on one node, beside dockerd in swarm mode."""

from tests.bench.contest import Benchmark
from tests.bench.swarms import Swarm, Swarms, created, removed

REPLICAS = 50


def sample(swarm: Swarm) -> float:
    """Create the service and wait for its tasks; its removal is not counted."""
    spent_s = created(swarm, REPLICAS)
    removed(swarm)
    return spent_s


def benchmark() -> Benchmark:
    """Return the benchmark; DESIGN's end target."""
    title = f"service create --replicas {REPLICAS} to all Running, one node"
    return Swarms().contest(title, sample, budget=0.15)
