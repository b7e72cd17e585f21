"""The network's part of a container's start: a namespace with addresses, rules and names."""

import itertools
import time

from tests.bench.contest import Benchmark, Contender
from tests.bench.nodes import Nodes
from tests.bench.vip_connect import NODE, table
from worker.network.attachments import Attachment, BridgeNetwork

BUDGET_MS = 2.0


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's, for a service's task."""
    nodes = Nodes(NODE)
    network, numbers = nodes.networks["n1"], itertools.count()
    try:
        nodes.set_tables(table(1, 10))
        bridge = BridgeNetwork("red", "red", bridge="red")
        nodes.runner.run(network.create_bridge_network(bridge))
    except BaseException:
        nodes.close()
        raise

    async def once(wish: Attachment) -> float:
        key = f"c{next(numbers)}"
        began = time.perf_counter()
        await network.attach(key, [wish], host_ports=[])
        spent_ms = (time.perf_counter() - began) * 1000
        await network.detach(key)
        await network.verify()  # as every few seconds, between one container and the next
        return spent_ms

    def sample(wish: Attachment) -> float:
        return nodes.runner.run(once(wish))

    return Benchmark(
        title="network part of a container's start, on an overlay of ten services",
        unit="ms",
        contenders=(
            Contender("overlay", lambda: sample(Attachment("net1", "overlay", "10.1.0.3"))),
            Contender("bridge", lambda: sample(Attachment("red", "bridge", aliases=("web",)))),
        ),
        budget=BUDGET_MS,
        rounds=50,
        close=nodes.close,
    )
