"""`swarmctl ps`, start to finish, against `docker ps`; both ask our daemon."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.arena import Arena
from tests.bench.contest import Benchmark, Contender

SWARMCTL = Path(sys.executable).parent / "swarmctl"


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's."""
    arena = Arena(alone=True)
    client = arena.clients()["swarm"]
    for _ in range(5):
        client.run(["sleep", "100000"])
    environment = {**os.environ, "DOCKER_HOST": f"unix://{client.path}"}

    def sample(command: Sequence[str]) -> float:
        started = time.perf_counter()
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        return (time.perf_counter() - started) * 1000

    return Benchmark(
        title="swarmctl ps against docker ps, five containers, our daemon",
        unit="ms",
        contenders=(
            Contender("swarmctl ps", lambda: sample([str(SWARMCTL), "ps"])),
            Contender("docker ps", lambda: sample(["docker", "ps"])),
        ),
        budget=3.0,
        rounds=20,
        peer="docker ps",
        close=arena.close,
    )
