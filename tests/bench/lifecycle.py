"""create, start, wait and delete of `true` through the API, without a network, against dockerd."""

import time

from tests.bench.arena import Arena, Client
from tests.bench.contest import Benchmark


def once(client: Client, network: str) -> float:
    """Run one container to its end and remove it; returns milliseconds."""
    started = time.perf_counter()
    made = client.run(["true"], network)
    ended = client.call("POST", f"/containers/{made}/wait")
    client.call("DELETE", f"/containers/{made}")
    spent_ms = (time.perf_counter() - started) * 1000
    if ended["StatusCode"] != 0:
        raise RuntimeError(f"{client.path}: {ended}")
    return spent_ms


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's."""
    title = "API create + start + wait + delete of true, network none"
    return Arena().contest(title, lambda client: once(client, "none"), budget=0.12)
