"""`docker run --rm` of `true` through the docker CLI, against dockerd."""

import os
import subprocess
import time

from tests.bench.arena import IMAGE, Arena, Client
from tests.bench.contest import Benchmark


def sample(client: Client) -> float:
    """Run the CLI once; returns milliseconds."""
    command = ["docker", "run", "--rm", "--net", "none", IMAGE, "true"]
    environment = {**os.environ, "DOCKER_HOST": f"unix://{client.path}"}
    started = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's."""
    return Arena().contest("docker run --rm of true, network none", sample, budget=0.35)
