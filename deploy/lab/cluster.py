"""Wait for daemons, form the cluster and spread the demo's images, over the nodes' API sockets."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import images
from layout import REPOSITORY, Lab, LabError

DAEMON_TIMEOUT_S = 60.0
CLUSTER_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 120.0
POLL_S = 0.02


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("swarm", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Open the socket; raises OSError where nobody listens."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(
    path: Path, method: str, url: str, body: bytes | Iterable[bytes] | None = None
) -> tuple[int, bytes]:
    """Send one request to an API socket and return status and body."""
    connection = UnixConnection(path, REQUEST_TIMEOUT_S)
    try:
        headers = {"Content-Type": "application/x-tar"} if body is not None else {}
        connection.request(method, url, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait_for_daemons(lab: Lab, nodes: list[str]) -> None:
    """Return when every node answers GET /_ping; raises LabError after DAEMON_TIMEOUT_S."""

    def silent() -> list[str]:
        return [node for node in nodes if not _pings(lab.socket(node))]

    left = _wait_until_empty(silent, DAEMON_TIMEOUT_S)
    if left:
        raise LabError(f"no answer from swarmd on {' '.join(left)}: see `lab logs {left[0]}`")


def _pings(path: Path) -> bool:
    try:
        return request(path, "GET", "/_ping")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def form(lab: Lab) -> None:
    """Make m1 the first manager and join the others; returns when all are ready."""
    first, *others = lab.nodes
    swarmctl(lab, first, "swarm", "init", "--advertise-addr", lab.address(first))
    remote = f"{lab.address(first)}:2377"
    kinds = {"m": "manager", "w": "worker"}
    tokens = {
        letter: swarmctl(lab, first, "swarm", "join-token", "-q", kind).strip()
        for letter, kind in kinds.items()
    }

    def join(node: str) -> None:
        swarmctl(lab, node, "swarm", "join", "--token", tokens[node[0]], remote)

    for node in [node for node in others if node[0] == "m"]:  # one membership change at a time
        join(node)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(join, [node for node in others if node[0] == "w"]))
    wait_until_ready(lab)


def wait_until_ready(lab: Lab) -> None:
    """Return when the first manager lists every node as ready."""
    left = _wait_until_empty(lambda: _not_ready(lab), CLUSTER_TIMEOUT_S)
    if left:
        raise LabError(f"not ready after {CLUSTER_TIMEOUT_S:.0f} s: {' '.join(left)}")


def _not_ready(lab: Lab) -> list[str]:
    try:
        status, body = request(lab.socket(lab.nodes[0]), "GET", "/nodes")
    except (OSError, http.client.HTTPException) as error:
        return [f"{lab.nodes[0]} ({error})"]
    if status != 200:
        return [f"{lab.nodes[0]} ({body.decode(errors='replace').strip()})"]
    states = {
        entry["Description"]["Hostname"]: entry["Status"]["State"] for entry in json.loads(body)
    }
    return [node for node in lab.nodes if states.get(node) != "ready"]


def _wait_until_empty(look: Callable[[], list[str]], timeout_s: float) -> list[str]:
    """Poll until nothing is left over; return what is after the time-out."""
    deadline = time.monotonic() + timeout_s
    left = look()
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = look()
    return left


def swarmctl(lab: Lab, node: str, *words: str) -> str:
    """Run swarmctl on a node and return what it prints; raises LabError with its complaint."""
    program = str(REPOSITORY / "deploy" / "lab" / "lab")
    command = [program, "--name", lab.name, "exec", node, f"{lab.bin_dir}/swarmctl", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shown = " ".join(word if not word.startswith("SWMTKN") else "TOKEN" for word in words)
        complaint = done.stderr.strip() or done.stdout.strip()
        raise LabError(f"swarmctl {shown} on {node} ended with {done.returncode}: {complaint}")
    return done.stdout


def spread_images(lab: Lab) -> None:
    """Build the demo's images on the first node and load them into all the others."""
    first, *others = lab.nodes
    for name, context in images.contexts():
        swarmctl(lab, first, "build", "-t", name, str(context))
    names = "&".join(f"names={name}" for name in images.NAMES)
    status, archive = request(lab.socket(first), "GET", f"/images/get?{names}")
    if status != 200:
        raise LabError(f"saving images on {first}: {archive.decode(errors='replace').strip()}")

    def load(node: str) -> None:
        status, body = request(lab.socket(node), "POST", "/images/load?quiet=1", archive)
        if status != 200 or b'"error"' in body:
            raise LabError(f"loading images on {node}: {body.decode(errors='replace').strip()}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(load, others))
