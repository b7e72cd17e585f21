"""A cluster of one node of ours and one of dockerd's, asked for the same services through REST."""

import json
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import dockerd, peers
from tests.bench.arena import IMAGE, Client, pids_of
from tests.bench.contest import Benchmark, Contender
from tests.bench.dockerd import Dockerd
from tests.e2e.engine.machine import Machine, install_box

NAME = "bench"
LIMIT_S = 120.0
_POLL_S = 0.02
Sample = Callable[["Swarm"], float]


class Swarm:
    """One cluster, seen through its API."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, replicas: int) -> None:
        """Create the service; nothing is waited for."""
        self._client.call("POST", "/services/create", spec(replicas))

    def replace(self, parallelism: int) -> None:
        """Begin a rolling update that replaces every task."""
        service = self._client.call("GET", f"/services/{NAME}")
        wanted = service["Spec"]
        wanted["TaskTemplate"]["ForceUpdate"] = wanted["TaskTemplate"].get("ForceUpdate", 0) + 1
        wanted["UpdateConfig"] = {"Parallelism": parallelism, "Monitor": 10**9}
        version = service["Version"]["Index"]
        self._client.call("POST", f"/services/{NAME}/update?version={version}", wanted)

    def remove(self) -> None:
        """Remove the service; nothing is waited for."""
        self._client.call("DELETE", f"/services/{NAME}")

    def leave(self) -> None:
        """Leave the cluster and end its manager, also where a request was broken off."""
        self._client.again().call("POST", "/swarm/leave?force=1")

    def running(self) -> set[str]:
        """Return the tasks that run and are to."""
        wanted = {"service": [NAME], "desired-state": ["running"]}
        tasks = self._client.call("GET", f"/tasks?filters={_quoted(wanted)}")
        return {task["ID"] for task in tasks if task["Status"]["State"] == "running"}

    def containers(self) -> int:
        """Return how many containers of the service there are, running or not."""
        wanted = {"label": [f"com.docker.swarm.service.name={NAME}"]}
        return len(self._client.call("GET", f"/containers/json?all=1&filters={_quoted(wanted)}"))

    def until(self, holds: Callable[[], bool]) -> None:
        """Poll until a condition holds; raises RuntimeError after the time-out."""
        deadline = time.monotonic() + LIMIT_S
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError("the cluster does not get there")
            time.sleep(_POLL_S)


def spec(replicas: int) -> dict[str, Any]:
    """Return a service that sleeps, on no network."""
    container = {"Image": IMAGE, "Command": ["sleep", "100000"], "StopGracePeriod": 0}
    return {
        "Name": NAME,
        "TaskTemplate": {"ContainerSpec": container, "RestartPolicy": {"Delay": 0}},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


def _quoted(filters: object) -> str:
    return urllib.parse.quote(json.dumps(filters))


class Swarms:
    """Both clusters; dockerd's is left out where it is not downloaded."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="swarm-bench-"))
        self.machine = Machine(self.root)
        self.peer: Dockerd | None = None
        self.missing = peers.missing(dockerd.NAME)
        self.found: dict[str, Swarm] = {}
        try:
            self.machine.start()
            install_box(self.machine)
            ours = Client(f"{self.machine.run_dir}/swarmd.sock", lambda: pids_of(self.root))
            self._found("swarm", ours)
            if not self.missing:
                self.peer = Dockerd(bridge=True)
                box = (self.root / "box.tar").read_bytes()
                url = "/images/create?fromSrc=-&repo=box&tag=1"
                dockerd.request(self.peer.socket, "POST", url, box)
                self._found(dockerd.NAME, Client(self.peer.socket, self.peer.processes))
        except BaseException:
            self.close()
            raise

    def _found(self, name: str, client: Client) -> None:
        request = {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1:2377"}
        client.call("POST", "/swarm/init", request)
        self.found[name] = Swarm(client)

    def contest(self, title: str, sample: Sample, *, budget: float, rounds: int = 5) -> Benchmark:
        """Return the benchmark of one thing done in both clusters."""
        contenders = [
            Contender(name, lambda swarm=swarm: sample(swarm))  # type: ignore[misc]
            for name, swarm in self.found.items()
        ]
        if self.missing:
            contenders.append(Contender(dockerd.NAME, lambda: 0.0, self.missing))
        return Benchmark(
            title=title,
            unit="s",
            contenders=tuple(contenders),
            budget=budget,
            rounds=rounds,
            peer=dockerd.NAME,
            warm_up_rounds=1,
            close=self.close,
        )

    def close(self) -> None:
        """End both; ours leaves its cluster first, as a manager outlives its daemon."""
        try:
            if self.peer is not None:
                self.peer.close()
        finally:
            try:
                if ours := self.found.get("swarm"):
                    ours.leave()
            finally:
                self.machine.close()
            shutil.rmtree(self.root, ignore_errors=True)


def created(swarm: Swarm, replicas: int) -> float:
    """Create the service and wait for all its tasks; return seconds."""
    started = time.perf_counter()
    swarm.create(replicas)
    swarm.until(lambda: len(swarm.running()) == replicas)
    return time.perf_counter() - started


def removed(swarm: Swarm) -> float:
    """Remove the service and wait until no container is left; return seconds."""
    started = time.perf_counter()
    swarm.remove()
    swarm.until(lambda: swarm.containers() == 0)
    return time.perf_counter() - started
