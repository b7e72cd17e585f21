"""Clients of three managers in a lab, and a nemesis: `python -m tests.soak.nemesis --minutes 10`.

What the clients saw of registers and lists must be linearizable, nothing acknowledged be lost, and
once all is healed a service must have each of its slots once. Values are labels of configs: a
write is an update of the version that was read, so it is a compare-and-set.

Clocks are the machine's own: they leap for a member only as far as it is stopped.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import math
import os
import resource
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from random import Random

from tests.e2e.lab import LabHandle, connect, wait_until
from tests.linearizable import AppendList, Operation, Register, violation
from tests.soak.managers import pids

TIMEOUT_S = 4.0
REGISTERS = 3
LIST_LENGTH = 25
SERVICE = {
    "Name": "web",
    "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest", "Command": ["sleep", "100000"]}},
    "Mode": {"Replicated": {"Replicas": 6}},
}


class Unknown(Exception):
    """Nobody knows whether it was done."""


class Cluster:
    """The managers' sockets, asked with a short patience, and what was seen through them."""

    def __init__(self, lab: LabHandle) -> None:
        self.lab = lab
        self._sockets = {node: lab.socket(node) for node in lab.nodes}
        self._lock = threading.Lock()
        self.histories: dict[str, list[Operation]] = defaultdict(list)
        self.answers: Counter[str] = Counter()

    def ask(
        self, node: str, method: str, url: str, body: object = None
    ) -> tuple[int, dict[str, object]]:
        """Return status and body. Raises Unknown without an answer."""
        try:
            connection = connect(self._sockets[node])
            connection.sock.settimeout(TIMEOUT_S)
            try:
                payload = None if body is None else json.dumps(body)
                connection.request(method, url, payload, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read() or b"{}")
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unknown from error

    def record(self, key: str, operation: Operation) -> None:
        """Keep an operation of an object."""
        with self._lock:
            self.histories[key].append(operation)
            self.answers["unknown" if operation.unknown else operation.kind] += 1

    def read(self, node: str, key: str) -> tuple[str, int, dict[str, object]] | None:
        """Read an object's label, its version and its spec; None where that failed."""
        called = time.monotonic()
        try:
            status, body = self.ask(node, "GET", f"/configs/{key}")
        except Unknown:
            return None
        if status != 200:
            self.answers[f"refused {status}"] += 1
            return None
        spec = body["Spec"]
        assert isinstance(spec, dict)
        value = str((spec.get("Labels") or {}).get("v", ""))
        told = tuple(value.split(",")) if key.startswith("list") and value else value or None
        answer = (told or ()) if key.startswith("list") else value
        self.record(key, Operation(called, time.monotonic(), "read", answer=answer))
        return value, int(body["Version"]["Index"]), spec  # type: ignore[index]

    def update(
        self, node: str, key: str, seen: tuple[str, int, dict[str, object]], value: str
    ) -> bool:
        """Set the label where the version is still the one seen; False where it is not.

        Raises Unknown.
        """
        _, version, spec = seen
        url = f"/configs/{key}/update?version={version}"
        status, body = self.ask(node, "POST", url, {**spec, "Labels": {"v": value}})
        if status == 200:
            return True
        if "out of sequence" in str(body.get("message", "")):
            return False
        self.answers[f"refused {status}"] += 1
        raise Unknown


class Client:
    """One after the other: reads, compare-and-sets and appends, by any manager."""

    def __init__(self, cluster: Cluster, number: int, seed: int) -> None:
        self._cluster = cluster
        self._random = Random(f"{seed}-{number}")
        self._values = (f"{number}.{n}" for n in itertools.count())
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.stopped.wait(self._random.uniform(0, 0.15)):
            node = self._random.choice(self._cluster.lab.nodes)
            if self._random.random() < 0.5:
                self._register(node, f"register{self._random.randrange(REGISTERS)}")
            else:
                self._list(node)

    def _register(self, node: str, key: str) -> None:
        seen = self._cluster.read(node, key)
        if seen is None or self._random.random() < 0.4:
            return
        value, called = next(self._values), time.monotonic()
        try:
            done, returned = self._cluster.update(node, key, seen, value), time.monotonic()
        except Unknown:
            done, returned = False, math.inf
        self._cluster.record(key, Operation(called, returned, "cas", (seen[0], value), done))

    def _list(self, node: str) -> None:
        key = f"list{current_list(self._cluster)}"
        value, called = next(self._values), time.monotonic()
        while not self.stopped.is_set():
            seen = self._cluster.read(node, key)
            if seen is None:
                return
            held = [each for each in seen[0].split(",") if each]
            if len(held) >= LIST_LENGTH:
                begin_list(self._cluster, key)
                return
            try:
                if not self._cluster.update(node, key, seen, ",".join([*held, value])):
                    continue
                returned = time.monotonic()
            except Unknown:
                returned = math.inf
            self._cluster.record(key, Operation(called, returned, "append", value))
            return


def current_list(cluster: Cluster) -> int:
    """Return the number of the list that is appended to now."""
    return cluster.answers["lists"]


def begin_list(cluster: Cluster, full: str) -> None:
    """Go on with the next list, when this one is still the present one."""
    with cluster._lock:
        if full == f"list{cluster.answers['lists']}":
            cluster.answers["lists"] += 1


class Nemesis:
    """Breaks one thing at a time, and mends it."""

    def __init__(self, lab: LabHandle, random: Random) -> None:
        self._lab, self._random = lab, random
        self._addresses = {node: lab.address(node) for node in lab.nodes}
        self.done: Counter[str] = Counter()
        self.broken_s: Counter[str] = Counter()
        self._faults: dict[str, Callable[[list[str]], Callable[[], None]]] = {
            "kill -9 of one": self._kill_one,
            "kill -9 of all": self._kill_all,
            "power cut": self._power,
            "SIGSTOP": self._pause,
            "halves": self._halves,
            "bridge": self._bridge,
            "one-way": self._one_way,
            "disk full": self._disk_full,
            "disk full on all": self._disk_full_on_all,
            "restart": self._restart,
        }

    def strike(self) -> None:
        """Do one fault, hold it, mend it."""
        left = [name for name in self._faults if not self.done[name]]
        name = self._random.choice(left or list(self._faults))
        nodes = self._random.sample(self._lab.nodes, len(self._lab.nodes))
        began_s = time.monotonic()
        mend = self._faults[name](nodes)
        time.sleep(self._random.uniform(1.5, 6))
        mend()
        self.done[name] += 1
        self.broken_s[name] += int(time.monotonic() - began_s)

    def _kill_one(self, nodes: list[str]) -> Callable[[], None]:
        for pid in pids(self._lab, nodes[0]):
            os.kill(pid, signal.SIGKILL)
        return lambda: None

    def _kill_all(self, nodes: list[str]) -> Callable[[], None]:
        for pid in [pid for node in nodes for pid in pids(self._lab, node)]:
            os.kill(pid, signal.SIGKILL)
        return lambda: None

    def _power(self, nodes: list[str]) -> Callable[[], None]:
        self._lab.run("kill", nodes[0])

        def mend() -> None:
            self._lab.run("start", nodes[0])

        return mend

    def _pause(self, nodes: list[str]) -> Callable[[], None]:
        self._lab.run("pause", nodes[0])

        def mend() -> None:
            self._lab.run("resume", nodes[0])

        return mend

    def _halves(self, nodes: list[str]) -> Callable[[], None]:
        self._lab.run("partition", nodes[0])

        def mend() -> None:
            self._lab.run("heal")

        return mend

    def _bridge(self, nodes: list[str]) -> Callable[[], None]:
        """Leave one node that sees both others, which do not see each other."""
        return self._deaf({nodes[0]: [nodes[1]], nodes[1]: [nodes[0]]})

    def _one_way(self, nodes: list[str]) -> Callable[[], None]:
        """Let one node hear nobody, or one that only one other."""
        return self._deaf({nodes[0]: nodes[1 : self._random.choice([2, 3])]})

    def _deaf(self, unheard: dict[str, list[str]]) -> Callable[[], None]:
        """Lose what others send to a node: they think that it is at another link address."""
        wrong = [(other, self._addresses[node]) for node in unheard for other in unheard[node]]
        for sender, address in wrong:
            script = (
                f"ip neigh replace {address} lladdr 02:00:00:00:00:01 nud permanent "
                f"dev $(ip -o route get {address} | sed 's/.* dev \\([^ ]*\\).*/\\1/')"
            )
            self._lab.run("exec", sender, "sh", "-c", script)

        def mend() -> None:
            for sender, address in wrong:
                script = (
                    f"ip neigh del {address} "
                    f"dev $(ip -o route get {address} | sed 's/.* dev \\([^ ]*\\).*/\\1/')"
                )
                self._lab.run("exec", sender, "sh", "-c", script)

        return mend

    def _disk_full(self, nodes: list[str]) -> Callable[[], None]:
        return self._limited(nodes[:1])

    def _disk_full_on_all(self, nodes: list[str]) -> Callable[[], None]:
        return self._limited(nodes)

    def _limited(self, nodes: list[str]) -> Callable[[], None]:
        """Let no file of these managers grow (EFBIG), which is a full disk to them."""
        limited = [pid for node in nodes for pid in pids(self._lab, node)]
        before = {
            pid: resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
            for pid in limited
        }

        def mend() -> None:
            for pid, limits in before.items():
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)

        return mend

    def _restart(self, nodes: list[str]) -> Callable[[], None]:
        self._lab.run("restart", nodes[0], check=False)
        return lambda: None


def slots_of(cluster: Cluster) -> list[int]:
    """Return the slots of the service's running tasks, one for each task."""
    running = cluster.lab.running(cluster.lab.nodes[0], "web")
    return sorted(int(task["Slot"]) for task in running)


def containers(lab: LabHandle) -> int:
    """Count the containers that run on all nodes."""
    return sum(len(lab.api(node, "GET", "/containers/json").body) for node in lab.nodes)


def healed(cluster: Cluster) -> None:
    """Return when all managers answer and the service has each of its slots once."""
    lab, wanted = cluster.lab, list(range(1, 7))
    lab.await_ready(lab.nodes[0], 120)
    wait_until(lambda: slots_of(cluster) == wanted, 120, "each slot runs once")
    wait_until(lambda: containers(lab) == len(wanted), 120, "no container is one too many")
    for key in list(cluster.histories):
        for node in lab.nodes:
            if cluster.read(node, key) is None:
                raise AssertionError(f"{node} does not tell of {key} after all is healed")


def run(lab: LabHandle, minutes: float, seed: int) -> int:
    """Let clients and nemesis loose; print what happened, return how many promises broke."""
    cluster, random = Cluster(lab), Random(seed)
    assert lab.api("m1", "POST", "/services/create", SERVICE).status == 201
    names = [f"register{n}" for n in range(REGISTERS)] + [f"list{n}" for n in range(400)]
    for name in names:
        assert (
            lab.api("m1", "POST", "/configs/create", {"Name": name, "Data": "eA=="}).status == 201
        )
    lab.await_running("m1", "web", 6)
    clients = [Client(cluster, number, seed) for number in range(5)]
    for client in clients:
        client.thread.start()
    nemesis, ends_s = Nemesis(lab, random), time.monotonic() + 60 * minutes
    while time.monotonic() < ends_s:
        time.sleep(random.uniform(1, 3))
        nemesis.strike()
    healed_after_s = -time.monotonic()
    for client in clients:
        client.stopped.set()
        client.thread.join(60)
    healed(cluster)
    healed_after_s += time.monotonic()
    broken = 0
    for key, history in sorted(cluster.histories.items()):
        stuck = violation(history, AppendList() if key.startswith("list") else Register())
        if stuck:
            broken += 1
            print(f"NOT LINEARIZABLE: {key}: {stuck}")
            print(json.dumps([vars(operation) for operation in history], default=str))
    for fault, times in sorted(nemesis.done.items()):
        print(f"{fault:<18}{times:>4} times {nemesis.broken_s[fault]:>5} s")
    print(f"{dict(cluster.answers)}")
    print(
        f"{minutes:g} min, seed {seed}: {len(cluster.histories)} objects, {broken} not "
        f"linearizable, healed within {healed_after_s:.0f} s"
    )
    return broken


def main() -> int:
    """Run in a lab of three managers; exit 1 where a promise broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lab = LabHandle(f"t{os.getpid()}n")
    try:
        lab.run("up", "--workers", "0")
        lab = LabHandle(lab.name, tuple(lab.run("nodes").stdout.split()))
        return 1 if run(lab, options.minutes, options.seed) else 0
    finally:
        lab.run("down")


if __name__ == "__main__":
    sys.exit(main())
