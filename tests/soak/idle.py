"""Connections on which nobody says anything, `python -m tests.soak.idle --minutes 40`: they live.

A manager and a worker, which has the server. One client is outside and comes through the mesh by
the manager, one is a container there and comes by the service's VIP: both ways lead over VXLAN to
the other node. Before, the connection timeouts that the kernel has in force are shown: of each
namespace that rewrites addresses.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.lab import PROGRAM, LabHandle
from tests.soak.drain import PYTHON, mounts

SCRIPT = Path(__file__).with_name("linger.py")
TIMEOUT = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established"
MARGIN_S = 60.0


def create(lab: LabHandle) -> str:
    """Create network, server and the client's container; return the id of the latter."""
    lab.swarmctl("m1", "network", "create", "--driver", "overlay", "idle")
    common = ["--network", "idle", "--no-resolve-image", *mounts(), "--constraint"]
    serve = ["busybox:latest", *PYTHON, "/soak/linger.py", "serve"]
    server = ["--name", "server", "--publish", "8080:80", *common, "node.role==worker", *serve]
    probe = ["--name", "probe", *common, "node.role==manager", "busybox:latest", "sleep", "1000000"]
    for words in (server, probe):
        lab.swarmctl("m1", "service", "create", *words)
        lab.await_running("m1", words[1], 1, 60)
    return container(lab, "m1", "probe")


def container(lab: LabHandle, node: str, service: str) -> str:
    """Return the id of a service's container on a node."""
    label = f"label=com.docker.swarm.service.name={service}"
    return lab.swarmctl(node, "ps", "--quiet", "--filter", label).split()[0]


def timeouts(lab: LabHandle, probe: str) -> dict[str, int]:
    """Return for how many seconds each namespace on the way remembers a silent connection."""
    server = container(lab, "w1", "server")
    ways = {
        "the mesh's node m1": ("exec", "m1", "cat", TIMEOUT),
        "the client's container": ("exec", "m1", "swarmctl", "exec", probe, "cat", TIMEOUT),
        "the server's container": ("exec", "w1", "swarmctl", "exec", server, "cat", TIMEOUT),
    }
    return {where: int(lab.run(*words).stdout) for where, words in ways.items()}


def start(lab: LabHandle, *words: str) -> subprocess.Popen[str]:
    """Start a client; its connection is open when this returns."""
    command = [str(PROGRAM), "--name", lab.name, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "open", words
    return process


def main() -> int:
    """Wait and ask; 1 when a connection was lost, or would have been with more patience."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40.0)
    options = parser.parse_args()
    silent_s = 60 * options.minutes
    lab, wrong = LabHandle(f"t{os.getpid()}i"), 0
    try:
        lab.run("up", "--managers", "1", "--workers", "1")
        lab = LabHandle(lab.name, ("m1", "w1"))
        probe = create(lab)
        for where, timeout_s in timeouts(lab, probe).items():
            print(f"{where} remembers a silent connection for {timeout_s / 60:.0f} min", flush=True)
            wrong += timeout_s < silent_s
        inside = ("exec", "m1", "swarmctl", "exec", probe, *PYTHON, "/soak/linger.py")
        outside = ("client", *PYTHON, str(SCRIPT), f"{lab.address('m1')}:8080")
        clients = {
            "the mesh": start(lab, *outside, str(silent_s)),
            "the VIP": start(lab, *inside, "server:80", str(silent_s)),
        }
        for way, client in clients.items():
            found = client.communicate(timeout=silent_s + MARGIN_S)[0].strip()
            print(f"through {way}, silent for {options.minutes:g} min: {found}", flush=True)
            wrong += found != "alive"
    finally:
        lab.run("down")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
