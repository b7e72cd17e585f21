"""dockerd as a peer: one daemon in network, mount and process namespaces of its own."""

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench import peers

NAME = "dockerd"
_SCRIPT = (
    "ip link set lo up; mount -t proc proc /proc; exec dockerd --data-root $0/data"
    " --exec-root $0/exec -p $0/pid -H unix://$0/api.sock --bridge=none --iptables=false"
    " --ip6tables=false --cgroup-parent $1 >$0/log 2>&1"
)
_START_TIMEOUT_S = 60.0


class Dockerd:
    """A dockerd that ends, with all it started, with this object's `close`."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="swarm-bench-dockerd-"))
        self.cgroup = f"swarm-bench-dockerd-{os.getpid()}"
        self._process = subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"),
                *("sh", "-c", _SCRIPT, str(self.root), f"/{self.cgroup}"),
            ],
            env=peers.environment(),
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self.root / "log").read_text()[-2000:]
                self.close()
                raise RuntimeError(f"dockerd does not start: {log}")
            time.sleep(0.05)

    @property
    def namespace_pid(self) -> int:
        """A process in its network namespace."""
        return self._process.pid

    @property
    def socket(self) -> str:
        """The path of its API socket."""
        return str(self.root / "api.sock")

    def _answers(self) -> bool:
        try:
            return request(self.socket, "GET", "/_ping")[0] == 200
        except OSError:
            return False

    def close(self) -> None:
        """End it; its mounts go with their namespace."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.root, ignore_errors=True)
        for group in Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}"):
            for inner in sorted(group.rglob("*/"), reverse=True):
                inner.rmdir()
            group.rmdir()


def request(path: str, method: str, url: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send one request over a unix socket; return status and the whole body."""
    connection = http.client.HTTPConnection("api", timeout=120)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(120)
    try:
        connection.sock.connect(path)
        connection.request(method, url, body, {"Content-Type": "application/x-tar"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
