"""Replacements under load, `python -m tests.soak.drain`: no request may fail.

A lab of one manager and two workers; three replicas whose server ends at once when told to. The
clients are outside (through the mesh, by two nodes) and in a container (by the service's name,
which is its VIP). Rounds: an update start-first, one stop-first, a scale-down, a drained node.
Last come tasks killed by SIGKILL: their requests fail, and each must know it within a second.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.lab import PROGRAM, LabHandle, wait_until

HERE = Path(__file__).parent
PYTHON = ["/usr/bin/python3", "-S"]
REPLICAS = 3


def mounts() -> list[str]:
    """Return what gives a container the machine's Python and this directory."""
    words = []
    for source, target in (
        ("/usr", "/usr"),
        ("/usr/lib", "/lib"),
        ("/usr/lib64", "/lib64"),
        (str(HERE), "/soak"),
    ):
        words += ["--mount", f"type=bind,source={source},target={target},readonly"]
    return words


def create(lab: LabHandle, order: str = "start-first") -> None:
    """Create the network, the service under test and the container with the inner clients."""
    lab.swarmctl("m1", "network", "create", "--driver", "overlay", "soak")
    common = ["--network", "soak", "--no-resolve-image", *mounts()]
    web = ["--name", "web", "--replicas", str(REPLICAS), "--publish", "8080:80"]
    web += ["--update-order", order, "--update-monitor", "100ms", "--update-parallelism", "1"]
    web += ["--health-cmd", "wget -q -O /dev/null http://127.0.0.1/", "--health-interval", "1s"]
    web += ["--health-start-interval", "100ms", "--health-start-period", "20s"]
    lab.swarmctl(
        "m1", "service", "create", *web, *common, "busybox:latest", *PYTHON, "/soak/web.py"
    )
    probe = ["--name", "probe", "--constraint", "node.role==manager"]
    lab.swarmctl("m1", "service", "create", *probe, *common, "busybox:latest", "sleep", "1000000")
    lab.await_running("m1", "web", REPLICAS, 60)


class Clients:
    """One process of load; ended, it says what it saw."""

    def __init__(self, lab: LabHandle, *command: str) -> None:
        words = [str(PROGRAM), "--name", lab.name, *command]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def end(self) -> dict[str, object]:
        """Let it finish what is under way and return its counts."""
        out, _ = self._process.communicate(timeout=60)
        found: dict[str, object] = json.loads(out)
        return found


def start_clients(lab: LabHandle) -> list[Clients]:
    """Start the clients outside and those in the container."""
    targets = [f"{lab.address(node)}:8080" for node in lab.nodes[:2]]
    outside = Clients(lab, "client", *PYTHON, str(HERE / "load.py"), *targets)
    label = "label=com.docker.swarm.service.name=probe"
    probe = lab.swarmctl("m1", "ps", "--quiet", "--filter", label).split()[0]
    load = [*PYTHON, "/soak/load.py", "web:80"]
    inside = Clients(lab, "exec", "m1", "swarmctl", "exec", "-i", probe, *load)
    return [outside, inside]


def update(lab: LabHandle, order: str) -> None:
    """Replace every replica."""
    lab.swarmctl("m1", "service", "update", "-q", "--force", "--update-order", order, "web")


def scale(lab: LabHandle) -> None:
    """Take two replicas away and bring them back."""
    for count in (REPLICAS - 2, REPLICAS):
        lab.swarmctl("m1", "service", "scale", f"web={count}")


def drain(lab: LabHandle) -> None:
    """Empty the worker with most replicas, and let it take tasks again; m1 has the clients."""
    nodes = lab.api("m1", "GET", "/nodes").body
    workers = [node["ID"] for node in nodes if node["Spec"]["Role"] == "worker"]
    ids = [task["NodeID"] for task in lab.running("m1", "web")]
    node = max(workers, key=ids.count)
    lab.swarmctl("m1", "node", "drain", "--wait", "--timeout", "90s", node)
    lab.swarmctl("m1", "node", "update", "--availability", "active", node)
    lab.await_running("m1", "web", REPLICAS, 60)


def kill(lab: LabHandle) -> None:
    """Kill the oldest task's process and wait for its replacement."""
    task = min(lab.running("m1", "web"), key=lambda task: str(task["CreatedAt"]))
    nodes = lab.api("m1", "GET", "/nodes").body
    names = {node["ID"]: node["Description"]["Hostname"] for node in nodes}
    pid = task["Status"]["ContainerStatus"]["PID"]
    lab.run("exec", names[task["NodeID"]], "kill", "-9", str(pid))

    def replaced() -> bool:
        now = [t["ID"] for t in lab.running("m1", "web")]
        return len(now) == REPLICAS and task["ID"] not in now

    wait_until(replaced, 60, "the killed task is replaced")


KILLS = 2 * REPLICAS
"""At most: from the fourth early end of a slot on, its next task waits ever longer."""
RESET_S = 1.0
"""Within which an established connection to a killed task ends."""
ROUNDS: dict[str, Callable[[LabHandle], None]] = {
    "start-first": lambda lab: update(lab, "start-first"),
    "stop-first": lambda lab: update(lab, "stop-first"),
    "scale-down": scale,
    "drain": drain,
    "kill": kill,
}


def soak(lab: LabHandle, kind: str, rounds: int) -> int:
    """Run rounds of one kind under load, print the figures and return the failures."""
    if kind == "kill":
        rounds = min(rounds, KILLS)
    clients = start_clients(lab)
    began = time.monotonic()
    try:
        for _ in range(rounds):
            ROUNDS[kind](lab)
    finally:
        seen = [c.end() for c in clients]
    spent_s = time.monotonic() - began
    failed = 0
    for place, counts in zip(("outside", "inside"), seen, strict=True):
        failures = counts["failures"]
        assert isinstance(failures, dict)
        slowest_s = counts["slowest_s"]
        assert isinstance(slowest_s, float)
        failed += sum(failures.values()) if kind != "kill" else int(slowest_s > RESET_S)
        print(
            f"{kind} x {rounds} in {spent_s:.0f} s, {place}: {counts['requests']} requests to"
            f" {counts['servers']} tasks, failed: {failures or 0}"
            + (f", told after {slowest_s:.2f} s at most" if failures else ""),
            flush=True,
        )
    return failed


def main() -> int:
    """Run all rounds; 1 when a request failed that may not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="of each kind")
    parser.add_argument("--kinds", nargs="*", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--lab", help="one that is up already, with the services of an earlier run")
    options = parser.parse_args()
    lab = LabHandle(options.lab or f"t{os.getpid()}d")
    try:
        if not options.lab:
            lab.run("up", "--managers", "1", "--workers", "2")
        lab = LabHandle(lab.name, tuple(lab.run("nodes").stdout.split()))
        if not lab.api("m1", "GET", "/services").body:
            create(lab)
        wait_until(lambda: len(lab.running("m1", "web")) == REPLICAS, 60, "all replicas run")
        failed = sum(soak(lab, kind, options.rounds) for kind in options.kinds)
    finally:
        if not options.lab:
            lab.run("down")
    print(f"requests that failed and may not: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
