"""Containers started with eight clients at once, against dockerd: time per container."""

import time
from concurrent.futures import ThreadPoolExecutor

from tests.bench.arena import Arena, Client
from tests.bench.contest import Benchmark

CLIENTS, EACH = 8, 2


def sample(client: Client) -> float:
    """Start sixteen sleeping containers; returns milliseconds for each."""

    def start(own: Client) -> list[str]:
        return [own.run(["sleep", "1000"]) for _ in range(EACH)]

    clients = [client.again() for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        started = time.perf_counter()
        made = [one for some in pool.map(start, clients) for one in some]
        spent_ms = (time.perf_counter() - started) * 1000
        list(pool.map(lambda one: client.again().remove(one), made))
    return spent_ms / len(made)


def benchmark() -> Benchmark:
    """Return the benchmark; ten times the containers per second is a tenth of the time."""
    title = f"create + start with {CLIENTS} clients, per container"
    return Arena().contest(title, sample, budget=0.1)
