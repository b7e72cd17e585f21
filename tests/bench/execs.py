"""An exec of `true` through the API, to its exit code, against dockerd."""

import time

from tests.bench.arena import Arena, Client
from tests.bench.contest import Benchmark


class Execs:
    """One running container for each daemon."""

    def __init__(self) -> None:
        self._containers: dict[str, str] = {}

    def sample(self, client: Client) -> float:
        """Create and start an exec, read its output to the end, ask for its code."""
        if client.path not in self._containers:
            self._containers[client.path] = client.run(["sleep", "100000"])
        container = self._containers[client.path]
        asked = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
        started = time.perf_counter()
        made = client.call("POST", f"/containers/{container}/exec", asked)["Id"]
        client.raw("POST", f"/exec/{made}/start", '{"Detach":false}')
        ended = client.call("GET", f"/exec/{made}/json")
        spent_ms = (time.perf_counter() - started) * 1000
        if ended["ExitCode"] != 0:
            raise RuntimeError(f"{client.path}: {ended}")
        return spent_ms


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's."""
    return Arena().contest("API exec of true", Execs().sample, budget=0.25)
