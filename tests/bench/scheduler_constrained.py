"""The scheduler in memory with a constraint that a third of the nodes satisfy."""

from tests.bench.contest import Benchmark, Contender
from tests.bench.scheduler import cluster, place_all


def benchmark() -> Benchmark:
    """5,000 nodes, 100,000 tasks."""
    eligible = ("node.labels.net==yes",)
    sample = Contender("swarm", lambda: place_all(cluster(5_000, 100_000, eligible)))
    title = "scheduler, constrained, 5k nodes × 100k tasks in memory"
    return Benchmark(title, "s", (sample,), 15.9, 1, "", 0)
