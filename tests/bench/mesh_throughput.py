"""A long answer through the mesh from another node, against plain routing over VXLAN."""

from tests.bench.contest import Benchmark
from tests.bench.mesh_connect import contest
from tests.bench.nodes import Nodes
from tests.bench.ping import BULK_BYTES


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's, as a ratio of times."""
    title = f"{BULK_BYTES >> 20} MiB through the mesh, against plain routing over VXLAN"
    return contest(title, "ms", Nodes.pull, tracked=False)
