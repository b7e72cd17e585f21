"""dockerd as a peer: one daemon in network, mount and process namespaces of its own."""

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.bench import peers

NAME = "dockerd"
_SCRIPT = (
    "ip link set lo up; mount -t proc proc /proc; exec dockerd --data-root $0/data"
    " --exec-root $0/exec -p $0/pid -H unix://$0/api.sock $2"
    " --ip6tables=false --cgroup-parent $1 >$0/log 2>&1"
)
_NO_BRIDGE = "--bridge=none --iptables=false"
_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 10.0


class Dockerd:
    """A dockerd that ends, with all it started, with this object's `close`."""

    def __init__(self, *, bridge: bool = False) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="swarm-bench-dockerd-"))
        self.cgroup = f"swarm-bench-dockerd-{os.getpid()}"
        self._process = subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"),
                *("sh", "-c", _SCRIPT, str(self.root), f"/{self.cgroup}"),
                "" if bridge else _NO_BRIDGE,
            ],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # ctrl-c is for the benchmark, which then closes this
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self.root / "log").read_text()[-2000:]
                self.close()
                raise RuntimeError(f"dockerd does not start: {log}")
            time.sleep(0.05)

    def _environment(self) -> dict[str, str]:
        """Return the peers' environment, with the name `iptables` that installing would link."""
        links = self.root / "bin"
        links.mkdir()
        (links / "iptables").symlink_to(peers.program("iptables-nft") or "/usr/sbin/iptables")
        found = peers.environment()
        more = {"PATH": f"{links}:{found['PATH']}"}
        for directory in peers.ROOT.glob("usr/lib/*-linux-gnu/xtables"):
            more["XTABLES_LIBDIR"] = str(directory)
        return {**found, **more}

    @property
    def namespace_pid(self) -> int:
        """A process in its network namespace."""
        return self._process.pid

    @property
    def socket(self) -> str:
        """The path of its API socket."""
        return str(self.root / "api.sock")

    def processes(self) -> list[int]:
        """Return its process, containerd's and the shims', without those of containers."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        first = int(children.read_text().split()[0])
        own = os.readlink(f"/proc/{first}/ns/pid")
        found = []
        for entry in Path("/proc").glob("[0-9]*/ns/pid"):
            try:
                if os.readlink(entry) == own:
                    found.append(int(entry.parts[2]))
            except OSError:
                continue
        return found

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
        deadline = time.monotonic() + _END_TIMEOUT_S
        while groups := self._groups():  # they are busy until the last container has died
            for group in groups:
                with suppress(OSError):
                    group.rmdir()
            if time.monotonic() > deadline:
                raise RuntimeError(f"cgroups remain: {groups}")
            time.sleep(0.05)

    def _groups(self) -> list[Path]:
        """Return the cgroups of its containers and their parents, children first."""
        tops = list(Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}"))
        return [*(child for top in tops for child in top.rglob("*") if child.is_dir()), *tops]


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
