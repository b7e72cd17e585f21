"""`service create --replicas 50` to all Running on one node, beside dockerd in swarm mode."""

from functools import partial

from tests.bench.contest import Benchmark
from tests.bench.swarms import Swarm, Swarms, created, removed


def sample(swarm: Swarm, replicas: int) -> float:
    """Create the service and wait for its tasks; its removal is not counted."""
    spent_s = created(swarm, replicas)
    removed(swarm)
    return spent_s


def of(replicas: int) -> Benchmark:
    """Return the benchmark for a number of replicas."""
    title = f"service create --replicas {replicas} to all Running, one node"
    return Swarms().contest(title, partial(sample, replicas=replicas), budget=0.15)


def benchmark() -> Benchmark:
    """Return the benchmark."""
    return of(50)
