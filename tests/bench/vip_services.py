"""Connections through a VIP on a network of 10,000 services, against one of ten."""

from tests.bench.contest import Benchmark, Contender
from tests.bench.nodes import Nodes
from tests.bench.vip_connect import NODE, client_of, table

FEW, MANY = 10, 10_000
FLAT = 1.05
"""A ratio of times at which the cost is still said to be flat."""


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is what noise may add to nothing."""
    nodes = Nodes(NODE)
    try:
        nodes.set_tables(table(1, FEW), table(2, MANY))
        few, many = client_of(nodes, 1), client_of(nodes, 2)
    except BaseException:
        nodes.close()
        raise
    return Benchmark(
        title=f"connect, ask, close through a VIP, {MANY:,} services against {FEW}",
        unit="us",
        contenders=(
            Contender(f"{MANY:,}", lambda: nodes.ask(many, "10.2.0.2")),
            Contender(f"{FEW}", lambda: nodes.ask(few, "10.1.0.2")),
        ),
        budget=FLAT,
        rounds=20,
        peer=f"{FEW}",
        close=nodes.close,
    )
