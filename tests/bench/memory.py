"""Memory of the engine for every further running container, outside the container, and dockerd's.

Proportional set size of all processes of the engine, over ten containers more in each round.
"""

from pathlib import Path

from tests.bench.arena import Arena, Client
from tests.bench.contest import Benchmark

MORE = 10


def sample(client: Client) -> float:
    """Start ten containers; return the growth in MB for each. They stay."""
    before = total_bytes(client)
    for _ in range(MORE):
        client.run(["sleep", "100000"])
    return (total_bytes(client) - before) / MORE / 1_000_000


def total_bytes(client: Client) -> int:
    """Sum the proportional set sizes of an engine's processes."""
    total = 0
    for pid in client.processes():
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it ended
        total += next(int(x.split()[1]) for x in text.splitlines() if x.startswith("Pss:")) << 10
    return total


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's, an absolute one."""
    made = Arena().contest(
        "memory of the engine per further running container",
        sample,
        budget=0.1,
        unit="MB",
        rounds=6,
    )
    return Benchmark(
        title=made.title,
        unit=made.unit,
        contenders=made.contenders,
        budget=made.budget,
        rounds=made.rounds,
        warm_up_rounds=1,
        close=made.close,
    )
