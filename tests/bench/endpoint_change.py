"""One endpoint withdrawn, from the request until the kernels of all five nodes have it."""

import os
import select
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.contest import Benchmark, Contender
from tests.e2e.lab import LabHandle, wait_until
from tests.privileged.network.lab import run_in

BUDGET_MS = 100.0
REPLICAS = 5
LIMIT_S = 60.0
QUIET_S = 1.0
"""Without a change before each sample, so that none is another's."""
_NETFILTER, _TABLE_CHANGES = 12, 1 << 6
"""The protocol of netlink, and its multicast group NFNLGRP_NFTABLES."""


class Cluster:
    """A lab of five nodes with a published service, and an ear at the rules of each node."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._lab = LabHandle(f"t{os.getpid()}b")
        self._stack.callback(self._lab.run, "down")
        try:
            self._lab.run("up")
            self._lab = LabHandle(self._lab.name, tuple(self._lab.run("nodes").stdout.split()))
            words = ["--name", "web", "--replicas", str(REPLICAS), "--publish", "8080:80"]
            self._lab.swarmctl("m1", "service", "create", *words, "swarm-demo/web:1")
            self._ears = [self._stack.enter_context(self._listen(n)) for n in self._lab.nodes]
            self._rest()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take the lab down."""
        self._stack.close()

    def _listen(self, node: str) -> socket.socket:
        path = Path("/run/netns", self._lab.run("netns", node).stdout.strip())
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            ear = run_in(fd, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER))
        finally:
            os.close(fd)
        ear.bind((0, _TABLE_CHANGES))
        return ear

    def _scale(self, replicas: int) -> float:
        """Ask for it; return the time of the request."""
        node = self._lab.leader("m1")
        service = self._lab.api(node, "GET", "/services/web").body
        spec, version = service["Spec"], service["Version"]["Index"]
        spec["Mode"]["Replicated"]["Replicas"] = replicas
        asked_s = time.perf_counter()
        done = self._lab.api(node, "POST", f"/services/web/update?version={version}", spec)
        assert done.status == 200, done
        return asked_s

    def _rest(self) -> None:
        """Wait until all tasks run and no node's rules change any more."""
        self._lab.await_running("m1", "web", REPLICAS, LIMIT_S)

        def is_quiet() -> bool:
            heard, _, _ = select.select(self._ears, [], [], QUIET_S)
            for ear in heard:
                ear.recv(1 << 16)
            return not heard

        wait_until(is_quiet, LIMIT_S, "no rules change")

    def withdraw(self) -> float:
        """Take one task away and bring it back; return milliseconds until the last node knew."""
        asked_s = heard_s = self._scale(REPLICAS - 1)
        deaf = set(self._ears)
        while deaf:
            heard, _, _ = select.select(list(deaf), [], [], LIMIT_S)
            assert heard, "a node has not heard of it"
            heard_s = time.perf_counter()
            deaf -= set(heard)
        self._scale(REPLICAS)
        self._rest()
        return (heard_s - asked_s) * 1000


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's."""
    cluster = Cluster()
    return Benchmark(
        title="scaling down by one through REST, until the rules of all five nodes have it",
        unit="ms",
        contenders=(Contender("swarm", cluster.withdraw),),
        budget=BUDGET_MS,
        rounds=15,
        warm_up_rounds=2,
        close=cluster.close,
    )
