"""`service create --replicas 50` to all Running on one node, with real containers, through REST."""

import json
import os
import time

from tests.bench.contest import Benchmark, Contender
from tests.e2e.lab import LabHandle, http_quote, wait_until

REPLICAS = 50
NAME = "bench"
SPEC = {
    "Name": NAME,
    "TaskTemplate": {
        "ContainerSpec": {"Image": "busybox:latest", "Command": ["sleep", "100000"]},
    },
    "Mode": {"Replicated": {"Replicas": REPLICAS}},
}


class OneNode:
    """A lab of a single manager that also runs the tasks."""

    def __init__(self) -> None:
        self.lab = LabHandle(f"t{os.getpid()}b", ("m1",))
        self.lab.run("up", "--managers", "1", "--workers", "0")

    def sample(self) -> float:
        """Create the service, wait for all its tasks, remove it; returns seconds."""
        started = time.perf_counter()
        answer = self.lab.api("m1", "POST", "/services/create", SPEC)
        if answer.status != 201:
            raise RuntimeError(f"service create answers {answer.status}: {answer.body}")
        while len(self.lab.running("m1", NAME)) < REPLICAS:
            time.sleep(0.02)
        spent_s = time.perf_counter() - started
        self.lab.api("m1", "DELETE", f"/services/{NAME}")
        filters = http_quote(json.dumps({"label": ["com.docker.swarm.service.name=" + NAME]}))
        url = f"/containers/json?all=1&filters={filters}"
        wait_until(lambda: self.lab.api("m1", "GET", url).body == [], 60, "no container is left")
        return spent_s

    def close(self) -> None:
        """Take the lab down."""
        self.lab.run("down")


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the first end-to-end target, an absolute time."""
    node = OneNode()
    return Benchmark(
        title=f"service create --replicas {REPLICAS} to all Running, one node",
        unit="s",
        contenders=(Contender("swarm", node.sample),),
        budget=2.5,
        rounds=5,
        warm_up_rounds=1,
        close=node.close,
    )
