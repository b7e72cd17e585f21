"""Fifty containers of one bundle started at once: our supervisor's wall time against crun's."""

from functools import partial

from tests.bench import peers
from tests.bench.contest import Benchmark, Contender
from tests.bench.start import Arena

COUNT = 50


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's."""
    arena = Arena()
    return Benchmark(
        title=f"{COUNT} parallel starts to exit of /bin/true",
        unit="ms",
        contenders=(
            Contender("swarm", partial(arena.own_parallel, COUNT)),
            Contender("crun", partial(arena.peer_parallel, "crun", COUNT), peers.missing("crun")),
        ),
        budget=0.3,
        rounds=20,
        peer="crun",
        warm_up_rounds=1,
        close=arena.close,
    )
