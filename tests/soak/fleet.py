"""One manager and a thousand simulated nodes: `python -m tests.soak.fleet`.

The manager is the real process with its journal on the disk; the nodes (`tests.soak.agents`) speak
real gRPC to it from processes of their own. Services are made until 30,000 tasks run, a third of
them on overlay networks with virtual IPs, a few with published ports. Prints what it takes to get
there, to stay there, to change something, to lose nodes and to start the manager anew; exit 1 where
a budget is missed. `--profile FILE` runs the manager under cProfile.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from swarmapi.override import override

CONVERGED_S: Final = 120.0
MOST_CORES: Final = 0.5
MOST_MIB: Final = 1024.0
PROCESSES: Final = 2
SERVICES_PER_NETWORK: Final = 2
PUBLISHED: Final = 5
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Socket(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    @override
    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ManagerUnderTest:
    """A `swarm-manager` of its own, and what the kernel says of it."""

    def __init__(self, root: Path, profile: str) -> None:
        self._root = root
        self._profile = profile
        self._log = (root / "manager.log").open("ab")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._process: subprocess.Popen[bytes]

    def _arguments(self, command: str) -> list[str]:
        state, run = self._root / "state", self._root / "run"
        arguments = [command, "--state-dir", str(state), "--run-dir", str(run)]
        return [*arguments, "--listen-addr", self.address, "--advertise-addr", self.address]

    def init(self) -> None:
        """Prepare the cluster; a /20 has room for every node on the ingress network."""
        command = [sys.executable, "-m", "manager.main", *self._arguments("init")]
        subprocess.run([*command, "--subnet-size", "20"], check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start the process and wait until it answers."""
        how = ["-m", "cProfile", "-o", self._profile] if self._profile else []
        command = [sys.executable, *how, "-m", "manager.main", *self._arguments("run")]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        wait_until(lambda: self.request("GET", "/swarm") is not None, 60, "the manager answers")

    def stop(self) -> None:
        """End it as a service manager does."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def cpu_s(self) -> float:
        """Return the CPU seconds it has used."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / _TICKS

    def memory_mib(self, what: str = "VmRSS") -> float:
        """Return its memory now, or at its most (`VmHWM`)."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(one.split()[1]) / 1024 for one in lines if one.startswith(what))

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer to a request, None where there is none, or an error."""
        connection = Socket(self._root / "run" / "manager.sock")
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
        except OSError:
            return None
        finally:
            connection.close()
        if answer.status >= 400:
            return None
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        return json.loads(data) if is_json and data else data.decode()

    def counts(self) -> dict[str, int]:
        """Return the manager's own figures by name, with their labels."""
        text = self.request("GET", "/swarm/v1/metrics") or ""
        lines = (line.rpartition(" ") for line in text.splitlines() if line[:5] == "swarm")
        return {name: int(float(value)) for name, _, value in lines}


class Fleet:
    """The processes with the nodes."""

    def __init__(self, manager: str, token: str, nodes: int) -> None:
        share = nodes // PROCESSES
        command = [sys.executable, "-m", "tests.soak.agents", manager, token]
        self._processes = [
            subprocess.Popen(
                [*command, str(number * share), str(share)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]
        for process in self._processes:
            self._read(process)

    @staticmethod
    def _read(process: "subprocess.Popen[str]") -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("a process with nodes ended")
        told: dict[str, Any] = json.loads(line)
        return told

    def tell(self, line: str, first: bool = False) -> dict[str, Any]:
        """Tell all processes, or the first, a line; return what their nodes saw since the last."""
        told = self._processes[:1] if first else self._processes
        for process in told:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
        all_seen = [self._read(process) for process in told]
        ended: Counter[str] = Counter()
        for seen in all_seen:
            ended.update(seen["ended"])
        beats = sorted(beat for seen in all_seen for beat in seen["beats"])
        sums = {key: sum(seen[key] for seen in all_seen) for key in ("running", "sessions")}
        return {**sums, "ended": dict(ended), "beats": beats}

    def close(self) -> None:
        """End all nodes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(30)


def wait_until(holds: Callable[[], bool], limit_s: float, what: str, poll_s: float = 0.5) -> float:
    """Wait for a condition; return the seconds it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > limit_s:
            raise SystemExit(f"not within {limit_s:g} s: {what}")
        time.sleep(poll_s)
    return time.monotonic() - began


class Trial:
    """The whole measurement, step by step."""

    def __init__(self, options: argparse.Namespace, root: Path) -> None:
        self.options = options
        self.manager = ManagerUnderTest(root, options.profile)
        self.missed: list[str] = []
        self.fleet: Fleet
        self._mark = 0.0, 0.0

    def say(self, what: str, budget: bool = True) -> None:
        """Print a figure with the CPU share since the last one, memory and the machine's load."""
        cpu_s, now = self.manager.cpu_s(), time.monotonic()
        spent_s, since_s = cpu_s - self._mark[0], now - self._mark[1]
        self._mark = cpu_s, now
        memory, load = self.manager.memory_mib(), os.getloadavg()[0]
        share = f"{spent_s:.1f} s CPU in {since_s:.1f} s, {memory:.0f} MiB, load {load:.1f}"
        print(f"{what}  [{share}]{'' if budget else '  MISSED'}", flush=True)
        if not budget:
            self.missed.append(what)

    def ready(self) -> int:
        """Return how many nodes are ready."""
        return self.manager.counts().get('swarm_nodes{state="ready"}', 0)

    def running(self) -> int:
        """Return how many tasks run."""
        return self.manager.counts().get('swarm_tasks{state="running"}', 0)

    def has_running(self, count: int) -> bool:
        """Tell whether so many tasks run."""
        return self.running() >= count

    def is_updated(self, name: str) -> bool:
        """Tell whether a service's update is completed."""
        shown = self.manager.request("GET", f"/services/{name}")
        return bool(shown["UpdateStatus"]["State"] == "completed")

    def join(self) -> None:
        """Make the cluster and let every node join and begin its session."""
        nodes = self.options.nodes
        self.manager.init()
        self.manager.start()
        self._mark = 0.0, time.monotonic()
        token = self.manager.request("GET", "/swarm")["JoinTokens"]["Worker"]
        began = time.monotonic()
        self.fleet = Fleet(self.manager.address, token, nodes)
        self.say(f"{nodes} nodes have joined in {time.monotonic() - began:.1f} s")
        self.fleet.tell("begin")
        took_s = wait_until(lambda: self.ready() == nodes, 300, "every node is ready")
        self.say(f"every session has begun {took_s:.1f} s later")
        time.sleep(10)
        self._mark = self.manager.cpu_s(), time.monotonic()
        time.sleep(20)
        self.say("20 s of beats without a task")

    def create(self) -> None:
        """Make all networks and services at once; wait until every task runs."""
        count, replicas = self.options.services, self.options.replicas
        networks = count // 3 // SERVICES_PER_NETWORK
        for number in range(networks):
            spec = {"Name": f"net{number}", "Driver": "overlay"}
            assert self.manager.request("POST", "/networks/create", spec) is not None
        began = time.monotonic()
        for number in range(count):
            made = service(number, replicas, networks)
            assert self.manager.request("POST", "/services/create", made) is not None, number
        created_s = time.monotonic() - began
        self.say(f"{count} services on {networks} networks created in {created_s:.1f} s")
        total = count * replicas
        wait_until(lambda: self.running() >= total, self.options.patience, "every task runs", 1.0)
        took_s = time.monotonic() - began
        met = took_s <= CONVERGED_S
        self.say(f"{total} tasks run {took_s:.1f} s after the first create", budget=met)

    def rest(self, minutes: float) -> None:
        """Stay there: no node leaves, and the manager is nearly idle."""
        self.fleet.tell("stats")
        cpu_s, began = self.manager.cpu_s(), time.monotonic()
        least = self.options.nodes
        while time.monotonic() - began < minutes * 60:
            time.sleep(5)
            least = min(least, self.ready())
        cores = (self.manager.cpu_s() - cpu_s) / (time.monotonic() - began)
        most_mib = self.manager.memory_mib("VmHWM")
        seen = self.fleet.tell("stats")
        beats = seen["beats"] or [0.0]
        calm = least == self.options.nodes and not seen["ended"]
        met = calm and cores <= MOST_CORES and most_mib <= MOST_MIB
        late = f"{beats[len(beats) // 2]:.3f}/{beats[len(beats) * 99 // 100]:.3f}/{beats[-1]:.3f}"
        self.say(
            f"{minutes:g} minutes: {cores:.3f} core, at most {most_mib:.0f} MiB, at least {least} "
            f"nodes ready, sessions ended {seen['ended']}, {len(beats)} beats answered after "
            f"{late} s (median/p99/most)",
            budget=met,
        )

    def reads(self) -> None:
        """Time what an operator asks, and a small change."""
        ask = self.manager.request
        shown = ask("GET", "/services/svc1")
        by_service = "/tasks?filters=" + json.dumps({"service": ["svc1"]}).replace(" ", "")
        for name, path in {
            "service ls": "/services?status=true",
            "node ls": "/nodes",
            "service ps": by_service,
            "all tasks": "/tasks",
        }.items():
            times = [timed(partial(ask, "GET", path)) for _ in range(5)]
            self.say(f"{name}: median {statistics.median(times) * 1e3:.0f} ms of 5")
        times = []
        for number in range(20):
            version = ask("GET", "/services/svc1")["Version"]["Index"]
            spec = shown["Spec"] | {"Labels": {"number": str(number)}}
            url = f"/services/svc1/update?version={version}"
            times.append(timed(partial(ask, "POST", url, spec)))
        most = max(times) * 1e3
        self.say(
            f"label of a service: median {statistics.median(times) * 1e3:.1f}, most {most:.1f} ms"
        )

    def plan(self) -> None:
        """Time a plan, of a new service and of an update."""
        ask = self.manager.request
        for number, what in ((0, "without a network"), (1, "on a network")):
            new = service(number, self.options.replicas, 1) | {"Name": "planned"}
            item = {"Action": "create", "Spec": new}
            took_s = timed(partial(ask, "POST", "/swarm/v1/plan", {"Services": [item]}))
            self.say(f"plan of a new service {what}: {took_s:.2f} s")
        shown = ask("GET", "/services/svc0")
        spec = shown["Spec"] | {"UpdateConfig": {"Parallelism": 10}}
        spec["TaskTemplate"]["ContainerSpec"]["Env"] = ["PLANNED=1"]
        item = {"Action": "update", "ID": shown["ID"], "Spec": spec}
        took_s = timed(lambda: ask("POST", "/swarm/v1/plan", {"Services": [item]}))
        self.say(f"plan of an update: {took_s:.2f} s")

    def change(self) -> None:
        """One more service, and an update of one, without and with a network."""
        ask = self.manager.request
        for number, where in ((0, "without a network"), (1, "on a network")):
            before = self.running()
            spec = service(number, 10, 1) | {"Name": f"more{number}"}
            began = time.monotonic()
            ask("POST", "/services/create", spec)
            wait_until(partial(self.has_running, before + 10), 60, "it runs", 0.05)
            self.say(f"one more service of 10, {where}: {time.monotonic() - began:.2f} s")
            name = f"svc{number * 3}" if number == 0 else "svc1"
            shown = ask("GET", f"/services/{name}")
            new = shown["Spec"] | {"UpdateConfig": {"Parallelism": 10, "Order": "stop-first"}}
            new["TaskTemplate"]["ContainerSpec"]["Env"] = ["NEW=1"]
            began = time.monotonic()
            ask("POST", f"/services/{name}/update?version={shown['Version']['Index']}", new)
            wait_until(partial(self.is_updated, name), 300, "the update is over")
            replicas = self.options.replicas
            self.say(f"update of {replicas} by 10, {where}: {time.monotonic() - began:.1f} s")

    def lose(self, number: int) -> None:
        """Lose nodes at once; their tasks run elsewhere; the nodes come back."""
        nodes, wanted = self.options.nodes, self.running()
        began = time.monotonic()
        self.fleet.tell(f"lose {number}", first=True)
        wait_until(lambda: self.ready() <= nodes - number, 60, "they are missed")
        missed_s = time.monotonic() - began
        self.fleet.tell("stats")
        wait_until(lambda: self.fleet.tell("stats")["running"] >= wanted, 300, "all run elsewhere")
        self.say(
            f"{number} nodes lost: missed after {missed_s:.1f} s, "
            f"their tasks run elsewhere after {time.monotonic() - began:.1f} s"
        )
        began = time.monotonic()
        self.fleet.tell("find", first=True)
        wait_until(lambda: self.ready() == nodes, 60, "they are back")
        wait_until(lambda: self.running() == wanted, 120, "what they ran is known to be over")
        self.say(
            f"{number} nodes back, and their old tasks over, {time.monotonic() - began:.1f} s later"
        )

    def restart(self) -> None:
        """Start the manager anew with all this: no task is replaced."""
        before = self._task_ids()
        began = time.monotonic()
        self.manager.stop()
        stopped_s = time.monotonic() - began
        self.manager.start()
        self._mark = 0.0, time.monotonic()
        served_s = time.monotonic() - began
        self.fleet.tell("stats")
        nodes: int = self.options.nodes
        sessions = 0

        def all_back() -> bool:
            nonlocal sessions
            sessions += int(self.fleet.tell("stats")["sessions"])
            return sessions >= nodes and self.ready() == nodes

        wait_until(all_back, 120, "every session has begun again")
        took_s = time.monotonic() - began
        time.sleep(20)
        replaced = len(before - self._task_ids())
        self.say(
            f"manager restarted: stopped in {stopped_s:.1f} s, serves after {served_s:.1f} s, "
            f"every session after {took_s:.1f} s, {replaced} tasks replaced",
            budget=not replaced,
        )

    def _task_ids(self) -> set[str]:
        return {
            task["ID"]
            for task in self.manager.request("GET", "/tasks")
            if task["Status"]["State"] == "running"
        }

    def run(self) -> int:
        """Do everything in turn."""
        self.join()
        self.create()
        time.sleep(10)
        self.rest(self.options.minutes)
        for step in self.options.steps.split(","):
            match step:
                case "reads":
                    self.reads()
                case "plan":
                    self.plan()
                case "change":
                    self.change()
                case "lose":
                    self.lose(1)
                    self.lose(self.options.nodes // 20)
                case "restart":
                    self.restart()
        print(f"most memory {self.manager.memory_mib('VmHWM'):.0f} MiB")
        print("every budget met" if not self.missed else f"MISSED: {'; '.join(self.missed)}")
        return 1 if self.missed else 0


def service(number: int, replicas: int, networks: int) -> dict[str, Any]:
    """Return the spec of one service; every third is on a network, the first few publish a port."""
    container = {"Image": "busybox:latest", "Command": ["sleep", "100000"]}
    resources = {"Reservations": {"MemoryBytes": 16 << 20}}
    template: dict[str, Any] = {"ContainerSpec": container, "Resources": resources}
    spec: dict[str, Any] = {
        "Name": f"svc{number}",
        "TaskTemplate": template,
        "Mode": {"Replicated": {"Replicas": replicas}},
    }
    if number % 3 == 1 and networks:
        template["Networks"] = [{"Target": f"net{number // 3 % networks}"}]
    if number % 3 == 2 and number < 3 * PUBLISHED:
        port = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 30_000 + number}
        spec["EndpointSpec"] = {"Mode": "vip", "Ports": [port]}
    return spec


def timed(act: Callable[[], Any]) -> float:
    """Return the seconds it takes; a refusal ends the trial."""
    began = time.monotonic()
    if act() is None:
        raise SystemExit("the manager refused")
    return time.monotonic() - began


def main() -> int:
    """Measure; exit 1 where a budget is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--services", type=int, default=300)
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", default="reads,plan,change,lose,restart")
    parser.add_argument("--patience", type=float, default=1200.0, help="seconds for the tasks")
    parser.add_argument("--profile", default="")
    root = Path(tempfile.mkdtemp(prefix="fleet", dir="/var/tmp"))
    trial = Trial(parser.parse_args(), root)
    try:
        return trial.run()
    finally:
        trial.fleet.close()
        trial.manager.stop()
        shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
