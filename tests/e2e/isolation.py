"""A node cut off from the others for a while, and how soon all is right again."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tests.e2e.lab import LabHandle, http_quote, wait_until

IMAGE, WORKER, OTHER = "swarm-demo/web:1", "w1", "m1"
REPLICAS = 4
LIVE = ("assigned", "accepted", "preparing", "ready", "starting", "running")


@contextmanager
def arranged(lab: LabHandle) -> Iterator[None]:
    """Have a service, two of its tasks on the worker, and a container on each side that asks."""
    lab.swarmctl("m1", "network", "create", "-d", "overlay", "--attachable", "cut")
    words = ["--name", "web", "--replicas", str(REPLICAS), "--network", "cut"]
    words += ["--constraint", "node.hostname in (w1, m1)"]
    lab.swarmctl("m1", "service", "create", *words, IMAGE)
    lab.await_running("m1", "web", REPLICAS, 60)
    for node in (WORKER, OTHER):
        lab.swarmctl(node, "run", "-d", "--init", "--name", "asks", "--network", "cut", IMAGE)
    try:
        yield
    finally:
        for node in (WORKER, OTHER):
            lab.api(node, "DELETE", "/containers/asks?force=1")
        lab.api("m1", "DELETE", "/services/web")
        wait_until(partial(_is_removed, lab), 60, "the network is removed")


def _is_removed(lab: LabHandle) -> bool:
    return lab.api("m1", "DELETE", "/networks/cut").status in (204, 404)


def cut_off(lab: LabHandle, seconds: float) -> float:
    """Isolate the worker for so long and return within how many seconds of healing all was right.

    Its tasks run on, the same ones, while the rest replaces them. Raises AssertionError otherwise.
    """
    before = runs(lab)
    assert before, "no task of the service is on the node to be cut off"
    lab.run("partition", WORKER)
    until = time.monotonic() + seconds
    try:
        wait_until(
            lambda: lab.node_states(OTHER).get(WORKER) == "down", 30, "the node is taken for down"
        )
        lab.await_running(OTHER, "web", REPLICAS, 60)
        wait_until(lambda: not wrongs(lab, OTHER), 30, "the others are right without it")
        while time.monotonic() < until:
            assert runs(lab) == before, "the isolated node did something to its tasks"
            assert not wrongs(lab, OTHER), "the others are not right without it"
    finally:
        lab.run("heal")
    healed = time.monotonic()
    wait_until(lambda: not any(wrongs(lab, n) for n in (WORKER, OTHER)), 30, "all is right again")
    spent_s = time.monotonic() - healed
    lab.await_ready(OTHER, 60)
    wait_until(lambda: not set(runs(lab)) - wanted(lab), 60, "what was replaced is gone")
    shared = [a for a, n in Counter(held(lab)).items() if n > 1]
    assert not shared, f"addresses that two containers have: {shared}"
    return spent_s


def runs(lab: LabHandle) -> dict[str, Any]:
    """Return the service's running containers on the worker, and since when."""
    filters = http_quote(json.dumps({"label": ["com.docker.swarm.service.name=web"]}))
    listed = lab.api(WORKER, "GET", f"/containers/json?filters={filters}").body
    shown = (lab.api(WORKER, "GET", f"/containers/{one['Id']}/json").body for one in listed)
    return {str(one["Id"]): one["State"]["StartedAt"] for one in shown if "State" in one}


def wanted(lab: LabHandle) -> set[str]:
    """Return the ids of the containers that the managers want."""
    return {t["Status"]["ContainerStatus"]["ContainerID"] for t in lab.running(OTHER, "web")}


def wrongs(lab: LabHandle, node: str) -> list[str]:
    """Return what a node's container learns of the service that is not so."""
    tasks = lab.running(OTHER, "web")
    real = {t["NetworksAttachments"][0]["Addresses"][0].partition("/")[0] for t in tasks}
    told = lab.run("exec", node, "swarmctl", "exec", "asks", "nslookup", "tasks.web", check=False)
    addresses = {word for word in told.stdout.split() if word.startswith("10.")}
    wrong = [] if addresses == real else [f"names {addresses} instead of {real}"]
    script = "for i in 1 2 3 4 5 6; do wget -qO- http://web/ >/dev/null || exit 1; done"
    asked = lab.run("exec", node, "swarmctl", "exec", "asks", "sh", "-c", script, check=False)
    return wrong + (["the VIP"] if asked.returncode else [])


def held(lab: LabHandle) -> list[str]:
    """Return the address on the network of every running container of every node."""
    found = []
    for node in lab.nodes:
        for one in lab.api(node, "GET", "/containers/json").body:
            place = one["NetworkSettings"]["Networks"].get("cut")
            found += [place["IPAddress"]] if place else []
    return found
