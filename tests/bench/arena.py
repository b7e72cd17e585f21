"""Our daemon and dockerd side by side, each in namespaces of its own, with the same image."""

import http.client
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import dockerd, peers
from tests.bench.contest import Benchmark, Contender
from tests.bench.dockerd import Dockerd
from tests.e2e.engine.machine import Machine, install_box

IMAGE = "box:1"
Sample = Callable[["Client"], float]
"""Does the thing once; returns what it took."""


class Client:
    """Requests over one kept connection to a daemon's unix socket.

    `processes` gives the pids of the daemon and its helpers, without those of containers.
    """

    def __init__(self, path: str, processes: Callable[[], list[int]]) -> None:
        self.path = path
        self.processes = processes
        self._connection = self._connect()

    def again(self) -> "Client":
        """Return another client of the same daemon."""
        return Client(self.path, self.processes)

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("api", timeout=120)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(120)
        connection.sock.connect(self.path)
        return connection

    def call(self, method: str, url: str, body: object = None) -> Any:
        """Return the decoded answer; raises RuntimeError for an error."""
        status, raw = self.raw(method, url, json.dumps(body) if body is not None else "")
        if status >= 400:
            raise RuntimeError(f"{self.path}: {method} {url}: {status} {raw[-500:]!r}")
        return json.loads(raw) if raw.strip() else None

    def raw(self, method: str, url: str, body: str = "") -> tuple[int, bytes]:
        """Return status and body."""
        if self._connection.sock is None:
            self._connection = self._connect()
        self._connection.request(method, url, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def run(self, command: list[str], network: str = "none") -> str:
        """Create and start a container; return its id."""
        asked = {"Image": IMAGE, "Cmd": command, "HostConfig": {"NetworkMode": network}}
        made = str(self.call("POST", "/containers/create", asked)["Id"])
        self.call("POST", f"/containers/{made}/start")
        return made

    def remove(self, container: str) -> None:
        """Remove a container, running or not."""
        self.call("DELETE", f"/containers/{container}?force=1")


def pids_of(path: Path) -> list[int]:
    """Return the processes whose command line names a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(path) in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


class Arena:
    """Both daemons; dockerd is left out where it is not downloaded."""

    def __init__(self, *, bridge: bool = False, alone: bool = False) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="swarm-bench-"))
        self.machine = Machine(self.root)
        self.peer: Dockerd | None = None
        self.missing = peers.missing(dockerd.NAME)
        try:
            self.machine.start()
            install_box(self.machine)
            if not self.missing and not alone:
                self.peer = Dockerd(bridge=bridge)
                box = (self.root / "box.tar").read_bytes()
                url = "/images/create?fromSrc=-&repo=box&tag=1"
                dockerd.request(self.peer.socket, "POST", url, box)
        except BaseException:
            self.close()
            raise

    def clients(self) -> dict[str, Client]:
        """Return a client of each daemon."""
        ours = f"{self.machine.run_dir}/swarmd.sock"
        found = {"swarm": Client(ours, lambda: pids_of(self.root))}
        if self.peer is not None:
            theirs = self.peer
            found[dockerd.NAME] = Client(theirs.socket, theirs.processes)
        return found

    def contest(
        self, title: str, sample: Sample, *, budget: float, unit: str = "ms", rounds: int = 20
    ) -> Benchmark:
        """Return the benchmark of one thing done through the API of both."""
        contenders = [
            Contender(name, lambda client=client: sample(client))  # type: ignore[misc]
            for name, client in self.clients().items()
        ]
        if self.missing:
            contenders.append(Contender(dockerd.NAME, lambda: 0.0, self.missing))
        return Benchmark(
            title=title,
            unit=unit,
            contenders=tuple(contenders),
            budget=budget,
            rounds=rounds,
            peer=dockerd.NAME,
            close=self.close,
        )

    def close(self) -> None:
        """End both."""
        try:
            if self.peer is not None:
                self.peer.close()
        finally:
            self.machine.close()
            shutil.rmtree(self.root, ignore_errors=True)
