"""Drive a lab from a test: its command line, its nodes' API sockets, its outside client."""

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

PROGRAM = Path(__file__).parents[2] / "deploy" / "lab" / "lab"
COMMAND_TIMEOUT_S = 180.0
POLL_S = 0.05

FETCH = """
import json, sys, urllib.request
answers = []
for url in sys.argv[2:]:
    for _ in range(int(sys.argv[1])):
        with urllib.request.urlopen(url, timeout=5) as answer:
            answers.append(json.load(answer))
print(json.dumps(answers))
"""


def connect(path: str) -> http.client.HTTPConnection:
    """Open an HTTP connection over a unix socket."""
    connection = http.client.HTTPConnection("swarm", timeout=COMMAND_TIMEOUT_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(COMMAND_TIMEOUT_S)
    try:
        connection.sock.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


@dataclass(frozen=True)
class Answer:
    """A REST answer: status and decoded JSON, or text where it is none."""

    status: int
    body: Any


@dataclass(frozen=True)
class LabHandle:
    """One lab that is up; `nodes` are its nodes' names."""

    name: str
    nodes: tuple[str, ...] = ()

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the lab's command line; raises AssertionError with its complaint on failure."""
        done = subprocess.run(
            [str(PROGRAM), "--name", self.name, *words],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        assert not check or done.returncode == 0, f"lab {words}: {done.stdout}{done.stderr}"
        return done

    def swarmctl(self, node: str, *words: str) -> str:
        """Run swarmctl in a node and return its output."""
        return self.run("exec", node, "swarmctl", *words).stdout

    def socket(self, node: str) -> str:
        """Return the path of the node's API socket."""
        return _told(self, "socket", node)

    def address(self, node: str) -> str:
        """Return the node's address, or that of `client`."""
        return _told(self, "address", node)

    def ipv6_address(self, node: str) -> str:
        """Return the node's IPv6 address, or that of `client`."""
        return self.run("ipv6-address", node).stdout.strip()

    def api(self, node: str, method: str, url: str, body: object = None) -> Answer:
        """Send one JSON request to a node's API socket."""
        connection = connect(self.socket(node))
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, url, payload, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        try:
            return Answer(answer.status, json.loads(text))
        except json.JSONDecodeError:
            return Answer(answer.status, text)

    def traces(self, node: str, value: str) -> list[str]:
        """Return the files of a node's disk and the processes that hold a value, and its log."""
        pattern = f"[{value[0]}]{value[1:]}"  # which is no trace of its own
        root = self.api(node, "GET", "/info").body["DockerRootDir"]
        told = "/proc/[0-9]*/cmdline /proc/[0-9]*/environ"
        script = f"grep -rls --devices=skip -e '{pattern}' {root} {told}; exit 0"
        found = self.run("exec", node, "sh", "-c", script).stdout.splitlines()
        return found + (["log"] if value in self.run("logs", node).stdout else [])

    def fetch(self, urls: Sequence[str], times: int = 1) -> list[dict[str, str]]:
        """GET each URL so many times from the outside client and return the decoded answers."""
        command = ["/usr/bin/python3", "-c", FETCH, str(times), *urls]
        answers: list[dict[str, str]] = json.loads(self.run("client", *command).stdout)
        return answers

    def managers(self) -> list[str]:
        """Return the names of the nodes that came up as managers."""
        return [node for node in self.nodes if node.startswith("m")]

    def leader(self, via: str) -> str:
        """Return the leader's name as the node `via` tells it; raises StopIteration without one."""
        entries = self.api(via, "GET", "/nodes").body
        return next(
            str(entry["Description"]["Hostname"])
            for entry in entries
            if entry.get("ManagerStatus", {}).get("Leader")
        )

    def node_states(self, via: str) -> dict[str, str]:
        """Return every node's state as the node `via` tells it."""
        answer = self.api(via, "GET", "/nodes")
        if answer.status != 200:
            return {}
        return {e["Description"]["Hostname"]: e["Status"]["State"] for e in answer.body}

    def running(self, via: str, service: str) -> list[dict[str, Any]]:
        """Return the service's tasks that are wanted and observed running."""
        filters = json.dumps({"service": [service], "desired-state": ["running"]})
        answer = self.api(via, "GET", f"/tasks?filters={http_quote(filters)}")
        if answer.status != 200:
            return []
        return [task for task in answer.body if task["Status"]["State"] == "running"]

    def await_running(self, via: str, service: str, count: int, timeout_s: float = 30.0) -> None:
        """Return when the service has exactly so many running tasks."""
        wait_until(
            lambda: len(self.running(via, service)) == count,
            timeout_s,
            f"{service} has {count} running tasks",
        )

    def await_ready(self, via: str, timeout_s: float = 30.0) -> None:
        """Return when every node is ready."""
        wait_until(
            lambda: self.node_states(via) == dict.fromkeys(self.nodes, "ready"),
            timeout_s,
            "all nodes are ready",
        )


@cache
def _told(lab: LabHandle, verb: str, node: str) -> str:
    """Return a fact about a node that does not change while its lab is up."""
    return lab.run(verb, node).stdout.strip()


def http_quote(text: str) -> str:
    """Quote a query parameter."""
    return quote(text, safe="")


def wait_until(holds: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until a condition holds; raises AssertionError naming it after the time-out."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(POLL_S)
