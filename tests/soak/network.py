"""Random operations on services, networks and nodes, and nothing left of them anywhere.

`python -m tests.soak.network --operations 10000`: three managers and a worker. After every hundred
operations the cluster comes to rest, and what each node holds is compared with what the managers
say: namespaces, VXLAN ids, members, neighbours, addresses and ports, each once. At last everything
is removed and each node must hold what it held before the first operation.
"""

import argparse
import http.client
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.e2e.lab import Answer, LabHandle, wait_until

ROOT = Path(__file__).parents[2]
LOOK = [
    "env",
    f"PYTHONPATH={ROOT}:{ROOT / 'proto'}",
    str(ROOT / ".venv/bin/python"),
    "-m",
    "tests.soak.leftovers",
]
MOST_NETWORKS, MOST_SERVICES, MOST_REPLICAS = 5, 6, 3
REST_S = 180.0
IMAGE = "busybox:latest"
REFUSALS = (400, 403, 404, 409, 503)
"""Answers that an operation on moving things may have: in use, gone, changed meanwhile."""


class Soak:
    """One run: what it did, and what it found wrong."""

    def __init__(self, lab: LabHandle, seed: int) -> None:
        self.lab = lab
        self.rng = random.Random(seed)
        self.made = 0
        self.down = ""
        """The node without power."""
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    # Operations

    def step(self) -> None:
        """Do one random operation; while a node is away it comes back soon."""
        operations: tuple[tuple[float, Callable[[], str]], ...] = (
            (8, self.create_network),
            (6, self.remove_network),
            (18, self.create_service),
            (12, self.remove_service),
            (30, self.scale),
            (16, self.update),
            (0.15, lambda: self.cut(self.lab.nodes[-1])),
            (0.15, lambda: self.cut(self.lab.leader(self.via()))),
            (0.2, self.restart),
        )
        if self.down and self.rng.random() < 0.1:
            self.power_on()
        operation = self.rng.choices([o for _, o in operations], [w for w, _ in operations])[0]
        try:
            self.counts[operation()] += 1
        except (OSError, http.client.HTTPException, StopIteration, KeyError, TypeError):
            self.counts["broken off"] += 1  # by a manager that went away

    def via(self) -> str:
        """Return a manager that has power."""
        return self.rng.choice([m for m in self.lab.managers() if m != self.down])

    def call(self, method: str, url: str, body: object = None) -> Answer:
        """Ask a manager; an answer that no operation may have is wrong."""
        answer = self.lab.api(self.via(), method, url, body)
        late = "out of sequence" in str(answer.body)
        if answer.status >= 400 and answer.status not in REFUSALS and not late:
            self.wrong.append(f"{method} {url}: {answer.status} {answer.body}")
        return answer

    def all(self, what: str) -> list[dict[str, Any]]:
        """Return all objects of a kind, without the ingress network and those of one machine."""
        found: list[dict[str, Any]] = self.call("GET", f"/{what}").body
        if what != "networks":
            return found
        return [one for one in found if one["Scope"] == "swarm" and not one["Ingress"]]

    def name(self, kind: str) -> str:
        """Return a name nobody had."""
        self.made += 1
        return f"{kind}{self.made}"

    def create_network(self) -> str:
        """Make an overlay."""
        if len(self.all("networks")) < MOST_NETWORKS:
            body = {"Name": self.name("net"), "Driver": "overlay"}
            self.call("POST", "/networks/create", body)
        return "create network"

    def remove_network(self) -> str:
        """Remove one, which is refused where it is in use."""
        if found := self.all("networks"):
            self.call("DELETE", f"/networks/{self.rng.choice(found)['Id']}")
        return "remove network"

    def create_service(self) -> str:
        """Make a service on some networks, with a port or none."""
        if len(self.all("services")) >= MOST_SERVICES:
            return self.scale()
        networks = self.all("networks")
        chosen = self.rng.sample(networks, min(len(networks), self.rng.choice((0, 1, 1, 2))))
        ports = [{"TargetPort": 80, "Protocol": self.rng.choice(("tcp", "udp"))}]
        if self.rng.random() < 0.5:
            ports[0]["PublishedPort"] = self.rng.randrange(8000, 8004)
        body = {
            "Name": self.name("svc"),
            "TaskTemplate": {
                "ContainerSpec": {"Image": IMAGE, "Command": ["sleep", "100000"], "Init": True},
                "Networks": [{"Target": one["Id"]} for one in chosen],
                "RestartPolicy": {"Delay": 0},
            },
            "Mode": {"Replicated": {"Replicas": self.rng.randint(0, MOST_REPLICAS)}},
            "EndpointSpec": {"Ports": ports if self.rng.random() < 0.6 else []},
            "UpdateConfig": {
                "Parallelism": 0,
                "Order": self.rng.choice(("start-first", "stop-first")),
                "Monitor": 1_000_000,
            },
        }
        self.call("POST", "/services/create", body)
        return "create service"

    def remove_service(self) -> str:
        """Remove one with all its tasks."""
        if found := self.all("services"):
            self.call("DELETE", f"/services/{self.rng.choice(found)['ID']}")
        return "remove service"

    def change(self, alter: Callable[[dict[str, Any]], None]) -> None:
        """Update a random service."""
        if found := self.all("services"):
            one = self.rng.choice(found)
            alter(one["Spec"])
            url = f"/services/{one['ID']}/update?version={one['Version']['Index']}"
            self.call("POST", url, one["Spec"])

    def scale(self) -> str:
        """Give a service another number of replicas."""
        count = self.rng.randint(0, MOST_REPLICAS)
        self.change(lambda spec: spec["Mode"]["Replicated"].update(Replicas=count))
        return "scale"

    def update(self) -> str:
        """Replace a service's tasks, and perhaps its ports."""

        def alter(spec: dict[str, Any]) -> None:
            force = spec["TaskTemplate"].get("ForceUpdate", 0)
            spec["TaskTemplate"]["ForceUpdate"] = force + 1
            if self.rng.random() < 0.3:
                port = {"TargetPort": 80, "Protocol": "tcp"}
                spec.setdefault("EndpointSpec", {})["Ports"] = [port] * self.rng.randint(0, 1)

        self.change(alter)
        return "update"

    def cut(self, node: str) -> str:
        """Cut a node's power, unless one is away already."""
        if self.down:
            return "update" if self.update() else ""
        self.down = node
        self.lab.run("kill", node)
        return "power cut of the leader" if node.startswith("m") else "power cut"

    def power_on(self) -> None:
        """Boot the node that is away."""
        if self.down:
            self.lab.run("start", self.down)
            self.down = ""

    def restart(self) -> str:
        """Restart a node's daemons under its containers."""
        self.lab.run("restart", self.rng.choice([n for n in self.lab.nodes if n != self.down]))
        return "restart of daemons"

    # Checks

    def rest(self) -> None:
        """Wait until all nodes are there and every task is what it is to be."""
        self.power_on()
        self.lab.await_ready("m1", REST_S)
        wait_until(self.is_at_rest, REST_S, "every task is what it is to be")

    def is_at_rest(self) -> bool:
        """Tell whether each service runs as often as asked, and nothing else does."""
        services, tasks = (self.lab.api("m1", "GET", f"/{k}") for k in ("services", "tasks"))
        if (services.status, tasks.status) != (200, 200):
            return False
        wanted = {s["ID"]: s["Spec"]["Mode"]["Replicated"]["Replicas"] for s in services.body}
        refused = {s["ID"] for s in services.body if not s.get("Endpoint", {}).get("Spec")}
        live = [t for t in tasks.body if t["Status"]["State"] in LIVE]
        unfit = [t for t in live if t["Status"]["State"] == "pending" and t["Status"].get("Err")]
        settled = all(
            t["Status"]["State"] == t["DesiredState"] == "running" for t in live if t not in unfit
        )
        running = Counter(t["ServiceID"] for t in live if t["DesiredState"] == "running")
        return settled and all(
            running[i] == count or i in refused or any(t["ServiceID"] == i for t in unfit)
            for i, count in wanted.items()
        )

    def look(self, node: str) -> dict[str, Any]:
        """Return what a node holds."""
        found: dict[str, Any] = json.loads(self.lab.run("exec", node, *LOOK).stdout)
        return found

    def check(self) -> None:
        """Compare every node with the managers' word, once it has caught up."""
        self.rest()
        self.once("addresses", self.addresses())
        ids = self.vxlan_ids()
        self.once("VXLAN ids", ids.values())
        ports = [
            f"{port['PublishedPort']}/{port['Protocol']}"
            for service in self.lab.api("m1", "GET", "/services").body
            for port in service.get("Endpoint", {}).get("Ports") or ()
        ]
        self.once("ports", ports)
        with ThreadPoolExecutor(len(self.lab.nodes)) as pool:
            for found in pool.map(lambda node: self.lasting(node, ids), self.lab.nodes):
                self.wrong += found

    def lasting(self, node: str, vxlan_ids: dict[str, str]) -> list[str]:
        """Return the differences that a node does not mend by itself."""
        found = ["not looked at"]

        def is_right() -> bool:
            found[:] = self.differences(node, vxlan_ids)
            return not found

        try:
            wait_until(is_right, 30, f"{node} holds what it should")
        except AssertionError:
            return [f"{node}: {one}" for one in found]
        return []

    def once(self, what: str, values: Any) -> None:
        """Note what is there more than once."""
        often = [(v, n) for v, n in Counter(values).items() if n > 1]
        self.wrong += [f"{what}: {v} is there {n} times" for v, n in often]

    def addresses(self) -> list[tuple[str, str]]:
        """Return (network, address) of every live task and VIP."""
        tasks = self.lab.api("m1", "GET", "/tasks").body
        found = [
            (attachment["Network"]["ID"], address.partition("/")[0])
            for task in tasks
            if task["Status"]["State"] in LIVE
            for attachment in task.get("NetworksAttachments") or ()
            for address in attachment["Addresses"]
        ]
        services = self.lab.api("m1", "GET", "/services").body
        vips = [v for s in services for v in s.get("Endpoint", {}).get("VirtualIPs") or ()]
        return found + [(v["NetworkID"], v["Addr"].partition("/")[0]) for v in vips]

    def vxlan_ids(self) -> dict[str, str]:
        """Return the VXLAN id of each network of the cluster."""
        networks = self.lab.api("m1", "GET", "/networks").body
        return {
            one["Id"]: one["Options"]["com.docker.network.driver.overlay.vxlanid_list"]
            for one in networks
            if one["Scope"] == "swarm"
        }

    def differences(self, node: str, vxlan_ids: dict[str, str]) -> list[str]:
        """Return what a node holds too much or too little of."""
        held = self.look(node)
        nodes = self.lab.api("m1", "GET", "/nodes").body
        mine = next(n["ID"] for n in nodes if n["Description"]["Hostname"] == node)
        members: dict[str, list[str]] = {}
        here: Counter[str] = Counter()
        ingress = next(n["Id"] for n in self.lab.api("m1", "GET", "/networks").body if n["Ingress"])
        for task in self.lab.api("m1", "GET", "/tasks").body:
            if task["Status"]["State"] not in LIVE or not task.get("NodeID"):
                continue
            for attachment in task.get("NetworksAttachments") or ():
                network = attachment["Network"]["ID"]
                address = attachment["Addresses"][0].partition("/")[0]
                if task["NodeID"] == mine:
                    here[network] += 1
                else:
                    members.setdefault(network, []).append(address)
        wrong = []
        expected = {*here, ingress}
        if set(held["overlays"]) != expected:
            wrong.append(f"namespaces of {set(held['overlays']) ^ expected}")
        for network in expected & set(held["overlays"]):
            vxlan, count, *near = held["overlays"][network]
            inside = here[network] + (network == ingress)
            if (vxlan, count) != (f"vxlan{vxlan_ids[network]}", f"{inside} members"):
                wrong.append(f"{network}: {vxlan} with {count} instead of {inside}")
            # On a network of both families every neighbour has an address of each.
            families = 2 if any(":" in address for address in near) else 1
            gateways = len(self.lab.nodes) - 1 if network == ingress else 0
            expected_near = families * (len(members.get(network, ())) + gateways)
            if len(near) != expected_near or set(members.get(network, ())) - set(near):
                wrong.append(f"{network}: neighbours {near}, members {members.get(network)}")
        containers = self.lab.api(node, "GET", "/containers/json").body
        if len(containers) != len(held["kept"]):
            wrong.append(f"{len(held['kept'])} kept endpoints, {len(containers)} containers")
        return wrong

    def clear(self) -> None:
        """Remove everything, and wait until nothing of it is left on the managers."""
        self.rest()
        for one in self.all("services"):
            self.call("DELETE", f"/services/{one['ID']}")

        def gone() -> bool:
            for one in self.all("networks"):
                self.call("DELETE", f"/networks/{one['Id']}")
            tasks = self.lab.api("m1", "GET", "/tasks").body
            return not self.all("networks") and not tasks

        wait_until(gone, REST_S, "nothing is left on the managers")

    def compare(self, before: dict[str, dict[str, Any]]) -> None:
        """Wait until each node holds what it held before."""
        for node, then in before.items():
            now: dict[str, Any] = {}

            def is_same(node: str = node, then: dict[str, Any] = then, now: Any = now) -> bool:
                now.clear()
                now.update(self.look(node))
                return bool(now == then)

            try:
                wait_until(is_same, 30, f"{node} holds what it held")
            except AssertionError:
                self.wrong += [f"{node}: {line}" for line in leftovers(then, now)]


LIVE = (
    "new",
    "pending",
    "assigned",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
)


def leftovers(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return how two looks at a node differ."""
    flat = [
        {(part, json.dumps(line)) for part in ("links", "addresses", "elements", "chains")
         for line in look["node"][part]} | {("kept", one) for one in look["kept"]}
        | {(key, json.dumps(lines)) for key, lines in look["overlays"].items()}
        for look in (then, now)
    ]  # fmt: skip
    return [f"{'too much' if one in flat[1] else 'missing'}: {one}" for one in flat[0] ^ flat[1]]


def warm_up(soak: Soak) -> None:
    """Have each node make what it keeps for good: the bridges of tasks on no network, or on one."""
    network = {"Name": "warm", "Driver": "overlay"}
    assert soak.call("POST", "/networks/create", network).status == 201
    for name, networks in (("on", [{"Target": "warm"}]), ("off", [])):
        template = {
            "ContainerSpec": {"Image": IMAGE, "Command": ["sleep", "100000"], "Init": True},
            "Networks": networks,
        }
        body = {"Name": name, "TaskTemplate": template, "Mode": {"Global": {}}}
        assert soak.call("POST", "/services/create", body).status == 201
        soak.lab.await_running("m1", name, len(soak.lab.nodes), 60)
        assert soak.call("DELETE", f"/services/{name}").status == 200
    wait_until(
        lambda: soak.call("DELETE", "/networks/warm").status in (204, 404), 60, "all is removed"
    )


def main() -> int:
    """Run so many operations, or for so long; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most")
    parser.add_argument("--every", type=int, default=100, help="operations between two checks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lab", help="one that is up already, without services")
    options = parser.parse_args()
    lab = LabHandle(options.lab or f"t{os.getpid()}n")
    began, done = time.monotonic(), 0
    try:
        if not options.lab:
            lab.run("up", "--managers", "3", "--workers", "1")
        lab = LabHandle(lab.name, tuple(lab.run("nodes").stdout.split()))
        soak = Soak(lab, options.seed)
        warm_up(soak)
        soak.clear()
        before = {node: soak.look(node) for node in lab.nodes}
        while done < options.operations and time.monotonic() - began < options.seconds:
            soak.step()
            done += 1
            if done % options.every == 0:
                soak.check()
                spent_s = time.monotonic() - began
                print(f"{done} operations in {spent_s:.0f} s, wrong: {soak.wrong or 0}", flush=True)
        soak.clear()
        soak.compare(before)
    finally:
        if not options.lab:
            lab.run("down")
    print(f"{done} operations: {dict(sorted(soak.counts.items()))}")
    print("\n".join(soak.wrong) or "nothing is left anywhere, and nothing is there twice")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
