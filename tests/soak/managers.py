"""All managers SIGKILLed at once, again and again, during a stream of service updates.

Every acknowledged update must be there afterwards: `python -m tests.soak.managers`. One writer per
manager updates a service of its own, one update at a time, so that the label of the service is
either the last acknowledged or the one in flight when the managers died.
"""

import argparse
import http.client
import os
import signal
import sys
import threading
import time
from pathlib import Path
from random import Random

from tests.e2e.lab import LabHandle, wait_until

STREAM = 20
"""Updates that every writer gets acknowledged between two kills."""


def pids(lab: LabHandle, node: str) -> list[int]:
    """Return the pids of a node's manager, as seen from outside."""
    name = lab.run("netns", node).stdout.strip()
    inode = Path("/run/netns", name).stat().st_ino
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            inside = (entry / "ns/net").stat().st_ino == inode
        except OSError:
            continue
        if inside and any(word in (b"manager.main", b"swarm-manager") for word in words):
            found.append(int(entry.name))
    return found


class Writer:
    """Updates one service through one manager until told to stop."""

    def __init__(self, lab: LabHandle, node: str) -> None:
        self.lab, self.node, self.service = lab, node, f"count-{node}"
        self.tried = self.acknowledged = self.refused = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        spec = {
            "Name": self.service,
            "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest"}},
            "Mode": {"Replicated": {"Replicas": 0}},
        }
        assert lab.api(node, "POST", "/services/create", spec).status == 201

    def value(self) -> int:
        """Return the number that the service carries now, as soon as a manager tells it."""
        told: list[int] = []

        def is_told() -> bool:
            try:
                read = self.lab.api(self.node, "GET", f"/services/{self.service}")
            except (OSError, http.client.HTTPException):
                return False
            if read.status == 200:
                told.append(int(read.body["Spec"]["Labels"].get("number", "0")))
            return bool(told)

        wait_until(is_told, 90, f"{self.node} tells of {self.service}")
        return told[0]

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                self._step()
            except (OSError, http.client.HTTPException, ValueError):
                self.refused += 1

    def _step(self) -> None:
        read = self.lab.api(self.node, "GET", f"/services/{self.service}")
        if read.status != 200:
            self.refused += 1
            return
        version = read.body["Version"]["Index"]
        self.tried += 1
        number = self.tried
        spec = read.body["Spec"] | {"Labels": {"number": str(number)}}
        url = f"/services/{self.service}/update?version={version}"
        if self.lab.api(self.node, "POST", url, spec).status == 200:
            self.acknowledged = number
        else:
            self.refused += 1


def await_stream(writers: list[Writer]) -> None:
    """Return when every writer has had STREAM more updates acknowledged."""
    goals = [(writer, writer.acknowledged + STREAM) for writer in writers]
    reached = lambda: all(writer.acknowledged >= goal for writer, goal in goals)  # noqa: E731
    wait_until(reached, 90, "every writer gets on")


def main() -> int:
    """Kill, restart and compare; exit 1 on a lost update."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random = Random(options.seed)
    lab = LabHandle(f"t{os.getpid()}k")
    lost = 0
    try:
        lab.run("up", "--workers", "0")
        lab = LabHandle(lab.name, tuple(lab.run("nodes").stdout.split()))
        writers = [Writer(lab, node) for node in lab.nodes]
        for writer in writers:
            writer.thread.start()
        assert len(pids(lab, "m1")) == 1
        for kill in range(1, options.kills + 1):
            await_stream(writers)
            time.sleep(random.uniform(0.0, 0.5))
            victims = [pid for node in lab.nodes for pid in pids(lab, node)]
            assert len(victims) == len(lab.nodes), victims
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            floor = [writer.acknowledged for writer in writers]
            wait_until(lambda: bool(lab.node_states("m1")), 90, "the managers are back")
            for writer, least in zip(writers, floor, strict=True):
                if writer.value() < least:
                    lost += 1
                    print(f"LOST: {writer.service} is {writer.value()}, acknowledged was {least}")
            print(f"kill {kill}: acknowledged {floor}", flush=True)
        for writer in writers:
            writer.stopped.set()
        for writer in writers:
            writer.thread.join(120)
            final = writer.value()
            if not writer.acknowledged <= final <= writer.tried:
                lost += 1
                print(f"LOST: {writer.service} is {final}, acknowledged {writer.acknowledged}")
        acknowledged = sum(writer.acknowledged for writer in writers)
        refused = sum(writer.refused for writer in writers)
        print(
            f"{options.kills} kills of all managers, {acknowledged} updates tried up to the last "
            f"acknowledged, {refused} answers refused or broken, {lost} lost"
        )
    finally:
        lab.run("down")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
