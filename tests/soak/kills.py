"""Kill -9 of `swarmd`, fork server, log pump and holder while containers and images come and go.

What must hold: a container runs or has its right exit code, its log has every line once, and in
the end nothing is left. Only the holder's death may cost containers: those end as lost (255).
The pump's death may cost log lines it had read, but no line comes twice or out of order.
"""

import http.client
import io
import json
import os
import random
import signal
import subprocess
import tarfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.engine.machine import Machine, serving_registry
from tests.e2e.lab import connect

LINES, CODE, LOST = 60, 7, 255
PROGRAM = (
    f"i=0; while [ $i -lt {LINES} ]; do echo $i; i=$((i+1)); "
    f"test $((i % 20)) = 0 && sleep 0.03; done; exit {CODE}"
)
BODY = {"Image": "box:1", "Cmd": ["sh", "-c", PROGRAM]}
PORT = 5000
LAYERS, LAYER_BYTES = 3, 6_000_000
PULLED = f"test $(cat /layer* | wc -c) = {LAYERS * LAYER_BYTES} && {PROGRAM}"
"""Ends with 1 where the image it runs in is not whole."""
GIVE_UP_S = 60.0
VICTIMS = ("swarmd", "server", "both", "pump", "holder")


@dataclass
class Soak:
    """One run: workers make containers until so many kills have been survived."""

    machine: Machine
    seed: int
    kills: int
    holder_share: float = 0.1
    faults: list[str] = field(default_factory=list)
    done: int = 0
    killed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VICTIMS, 0))
    holder_kills: int = 0
    pump_kills: int = 0

    def run(self, workers: int = 3) -> None:
        """Run to the end; `faults` says what went wrong."""
        self._over = threading.Event()
        with serving_registry(self.machine, PORT, "none"):
            for number in range(workers):
                self._publish(number)
            self._survive(workers)
        self.faults += self._leftovers()

    def _survive(self, workers: int) -> None:
        threads = [threading.Thread(target=self._work, args=(n,)) for n in range(workers)]
        for thread in threads:
            thread.start()
        chance = random.Random(self.seed)
        try:
            for _ in range(self.kills):
                time.sleep(chance.uniform(0.05, 0.8))  # the moment is the experiment
                self._kill(_victim(chance, self.holder_share))
        finally:  # also when it is interrupted
            self._over.set()
            for thread in threads:
                thread.join()

    # ---- killing ---------------------------------------------------------------------------

    def _kill(self, victim: str) -> None:
        self.killed[victim] += 1
        if victim in ("server", "both"):
            self._end(" server ")
        if victim == "pump":
            self.pump_kills += 1
            self._end(" pump ")
            self.pump_kills += 1
        if victim == "holder":
            # Counted on both sides: what starts while the holder is being looked for dies with it.
            self.holder_kills += 1
            self._end(" holder ")
            self.holder_kills += 1
        if victim in ("swarmd", "both"):
            self.machine.stop(signal.SIGKILL)
            self.machine.start()

    def _end(self, role: str) -> None:
        state = str(self.machine.data / "runtime")
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().replace(b"\0", b" ").decode()
                # a container's process looks the same until it has executed its program
                ours = _namespaces(path.parent) == _namespaces(Path("/proc/self"))
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"{state}/supervisor-" in words and role in words and ours:
                os.kill(int(path.parent.name), signal.SIGKILL)

    # ---- work ------------------------------------------------------------------------------

    def _work(self, number: int) -> None:
        chance = random.Random(f"{self.seed}/{number}")
        count = 0
        while not self._over.is_set():
            count += 1
            name = f"c{number}-{count}"
            try:
                kind = chance.choice(("run", "run", "run", "stop", "build", "pull"))
                if kind == "build":
                    self._build(name)
                elif kind == "pull":
                    self._pull(name, _published(number))
                else:
                    self._container(name, BODY, stop=kind == "stop")
                self.done += 1
            except (AssertionError, OSError, subprocess.SubprocessError, KeyError) as error:
                self.faults.append(f"{name}: {type(error).__name__}: {error}")

    def _container(self, name: str, body: Any, *, stop: bool) -> None:
        before, pumps_before = self.holder_kills, self.pump_kills
        body = {**body, "HostConfig": {"NetworkMode": "none" if len(name) % 2 else "bridge"}}
        self._ask("POST", f"/containers/create?name={name}", body, (201, 409))
        self._start(name)
        if stop:
            self._ask("POST", f"/containers/{name}/stop?t=1", None, (204, 304))
        state = self._ended(name)
        lost = state["ExitCode"] == LOST and self.holder_kills > before
        right = (CODE, 137, 143) if stop else (CODE,)
        if state["ExitCode"] not in right and not lost:
            self.faults.append(f"{name}: ended badly: {state}")
        piped = self.pump_kills == pumps_before
        self._check_log(name, whole=not stop and not lost, piped=piped)
        self._ask("DELETE", f"/containers/{name}?force=1", None, (204, 404))

    def _start(self, name: str) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            status, answer = self._try("POST", f"/containers/{name}/start", None)
            if status in (204, 304):
                return
            # the answer may be lost and the container have run: a second start would be ours
            state = self._ask("GET", f"/containers/{name}/json", None, (200,))["State"]
            if not state["StartedAt"].startswith("0001"):
                return
            if status not in (0, 400, 500):
                raise AssertionError(f"start answered {status} {answer}")
        raise AssertionError("start: gave up")

    def _ended(self, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            shown = self._ask("GET", f"/containers/{name}/json", None, (200,))
            state: dict[str, Any] = shown["State"]
            if state["Status"] == "exited":
                return state
            if time.monotonic() > deadline:
                raise AssertionError(f"never ended: {state}")
            time.sleep(0.05)

    def _check_log(self, name: str, *, whole: bool, piped: bool) -> None:
        info = self._ask("GET", f"/containers/{name}/json", None, (200,))
        path = Path(info["LogPath"])
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line)["log"] for line in text.splitlines()]
        wanted = [f"{i}\n" for i in range(LINES if whole else len(lines))]
        right = lines == wanted if piped else _rises(lines)
        if not right:
            self.faults.append(f"{name}: {len(lines)} lines logged: {lines[:3]}..{lines[-3:]}")

    def _build(self, name: str) -> None:
        recipe = f"FROM box:1\nRUN echo {name} > /made\nRUN cat /made && sleep 0.05\n"
        self._insist("build", "-q", "-t", f"{name}:1", "-", stdin=recipe.encode())
        self._ask("DELETE", f"/images/{name}:1?force=1", None, (200, 404))

    def _pull(self, name: str, image: str) -> None:
        """Pull an image of which nothing is here but its base, run it and remove it."""
        self._insist("pull", "-q", image)
        self._container(name, {"Image": image, "Cmd": ["sh", "-c", PULLED]}, stop=False)
        self._ask("DELETE", f"/images/{image}?force=1", None, (200, 404))

    def _publish(self, number: int) -> None:
        """Push the image that a worker pulls and keep nothing of it."""
        recipe = "FROM box:1\n" + "".join(f"COPY layer{n} /\n" for n in range(LAYERS))
        chance = random.Random(number)
        files = {"Dockerfile": recipe.encode()}
        files |= {f"layer{n}": chance.randbytes(LAYER_BYTES) for n in range(LAYERS)}
        image = _published(number)
        self.machine.docker("build", "-q", "-t", image, "-", stdin=_tar(files))
        self.machine.docker("push", "-q", image)
        self.machine.docker("rmi", image)

    def _insist(self, *words: str, stdin: bytes = b"") -> None:
        """Run the docker CLI until it succeeds."""
        deadline = time.monotonic() + GIVE_UP_S
        while (done := self.machine.docker(*words, stdin=stdin, check=False)).returncode:
            if time.monotonic() > deadline:
                raise AssertionError(f"{words[0]}: {done.stderr.decode()}")
            time.sleep(0.2)

    def _ask(self, method: str, url: str, body: object, good: tuple[int, ...]) -> Any:
        """Ask until there is an answer; raises AssertionError when it is none of the good ones."""
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            status, answer = self._try(method, url, body)
            if status in good:
                return answer
            if status and status < 500:
                raise AssertionError(f"{method} {url} answered {status} {answer}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{method} {url}: gave up at {status} {answer}")
            time.sleep(0.05)

    def _try(self, method: str, url: str, body: object) -> tuple[int, Any]:
        """Return (status, decoded body); status 0 when the daemon went away."""
        try:
            connection = connect(str(self.machine.run_dir / "swarmd.sock"))
            try:
                payload = None if body is None else json.dumps(body)
                connection.request(method, url, payload, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
            finally:
                connection.close()
            return answer.status, json.loads(text) if text else None
        except (OSError, http.client.HTTPException):
            return 0, None

    # ---- afterwards ------------------------------------------------------------------------

    def _leftovers(self) -> list[str]:
        """Say what is still there once every container is removed."""
        for entry in self._ask("GET", "/containers/json?all=1", None, (200,)):
            self._ask("DELETE", f"/containers/{entry['Id']}?force=1", None, (204, 404))
        data, run_dir = self.machine.data, self.machine.run_dir
        places = [
            data / "containers", data / "runtime/launches", data / "images/tmp",
            run_dir / "network/endpoints",
        ]  # fmt: skip
        deadline = time.monotonic() + 10
        while (left := self._look(places)) and time.monotonic() < deadline:
            time.sleep(0.1)
        checked = self._ask("POST", "/swarm/v1/system/check?repair=0", None, (200,))
        return left + [str(finding) for finding in checked["Findings"]]

    def _look(self, places: list[Path]) -> list[str]:
        left = [str(path) for place in places if place.exists() for path in place.iterdir()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        left += [line for line in mounts if str(self.machine.data) in line]
        for group in Path("/sys/fs/cgroup").glob(f"*/{self.machine.cgroup}/*"):
            if group.is_dir() and group.name != "supervisor":
                left.append(str(group))
        links = subprocess.run(
            self.machine.inside("ip", "-o", "link"), capture_output=True, text=True, check=True
        )
        left += [line for line in links.stdout.splitlines() if "veth" in line]
        return left


def _published(number: int) -> str:
    return f"127.0.0.1:{PORT}/soak{number}:1"


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _rises(lines: list[str]) -> bool:
    """Tell whether the lines that are whole numbers come in order and once."""
    numbers = [int(line) for line in lines if line.strip().isdigit()]
    return numbers == sorted(set(numbers))


def _namespaces(process: Path) -> int:
    """Return in how many pid namespaces, from ours on, a process is."""
    for line in (process / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return len(line.split()) - 1
    return 0


def _victim(chance: random.Random, holder_share: float) -> str:
    if chance.random() < holder_share:
        return "holder"
    return chance.choice(("swarmd", "server", "both", "pump"))
