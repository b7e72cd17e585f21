"""Containers that are no task's on an attachable network: leased addresses, names, services."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.e2e.lab import LabHandle, wait_until

IMAGE = "swarm-demo/web:1"


@pytest.fixture
def net(lab: LabHandle) -> Iterator[LabHandle]:
    """Create an attachable network and one for services, and take all of it away again."""
    lab.swarmctl("m1", "network", "create", "-d", "overlay", "--attachable", "open")
    lab.swarmctl("m1", "network", "create", "-d", "overlay", "closed")
    yield lab
    for node in ("m1", "w1"):
        for name in ("c1", "c2"):
            lab.api(node, "DELETE", f"/containers/{name}?force=1")
    for service in lab.api("m1", "GET", "/services").body:
        lab.api("m1", "DELETE", f"/services/{service['ID']}")
    for name in ("open", "closed"):
        wait_until(partial(is_removed, lab, name), 30, f"{name} is removed")


def is_removed(lab: LabHandle, name: str) -> bool:
    return lab.api("m1", "DELETE", f"/networks/{name}").status in (204, 404)


def run(lab: LabHandle, node: str, name: str, *options: str) -> str:
    words = ["run", "-d", "--name", name, "--network", "open"]
    lab.swarmctl(node, *words, *options, IMAGE)
    return address(lab, node, name)


def address(lab: LabHandle, node: str, name: str) -> str:
    shown = lab.api(node, "GET", f"/containers/{name}/json").body
    return str(shown["NetworkSettings"]["Networks"]["open"]["IPAddress"])


def get(lab: LabHandle, node: str, container: str, host: str) -> dict[str, str]:
    """Ask until it is known there, and serves."""
    answers: list[dict[str, str]] = []

    def asked() -> bool:
        words = ("exec", container, "wget", "-qO-", f"http://{host}/")
        done = lab.run("exec", node, "swarmctl", *words, check=False)
        answers.extend([json.loads(done.stdout)] if done.returncode == 0 else [])
        return bool(answers)

    wait_until(asked, 10, f"{host} answers {container}")
    return answers[0]


def resolves(lab: LabHandle, node: str, container: str, host: str) -> bool:
    words = ("exec", node, "swarmctl", "exec", container, "nslookup", host)
    return lab.run(*words, check=False).returncode == 0


def on_network(lab: LabHandle) -> dict[str, str]:
    shown: dict[str, Any] = lab.api("m1", "GET", "/networks/open?verbose=1").body
    alone = shown["Services"].get("", {"Tasks": []})
    return {one["Name"]: one["EndpointIP"] for one in alone["Tasks"]}


def test_containers_of_two_nodes_and_a_service_find_each_other(net: LabHandle) -> None:
    first = run(net, "m1", "c1", "--network-alias", "one")
    second = run(net, "w1", "c2")
    assert first != second
    assert get(net, "m1", "c1", "c2")["client"] == first
    assert get(net, "w1", "c2", "one.open")["client"] == second
    words = ("--name", "web", "--network", "open", "--stop-grace-period", "1s", IMAGE)
    net.swarmctl("m1", "service", "create", *words)
    net.await_running("m1", "web", 1)
    assert get(net, "w1", "c2", "web")["client"] == second
    assert on_network(net) == {"c1": first, "c2": second}
    removed = net.api("m1", "DELETE", "/networks/open")
    assert removed.status == 400


def test_an_address_stays_with_its_container_and_goes_with_it(net: LabHandle) -> None:
    run(net, "m1", "c1")
    second = run(net, "w1", "c2", "--restart", "always")
    net.swarmctl("w1", "stop", "-t", "1", "c2")
    wait_until(lambda: not resolves(net, "m1", "c1", "c2"), 10, "nobody finds c2")
    net.swarmctl("w1", "start", "c2")
    assert address(net, "w1", "c2") == second
    net.run("restart", "w1")
    assert get(net, "m1", "c1", "c2")["client"] == address(net, "m1", "c1")
    net.run("kill", "w1")
    net.run("start", "w1")
    wait_until(lambda: on_network(net).get("c2") == second, 30, "c2 is back after a reboot")
    wait_until(lambda: resolves(net, "m1", "c1", "c2"), 10, "c2 is found again")
    net.swarmctl("w1", "rm", "-f", "c2")
    wait_until(lambda: "c2" not in on_network(net), 10, "c2's address is given back")


def test_what_cannot_be_joined_is_said(net: LabHandle) -> None:
    for node in ("m1", "w1"):
        body = {"Image": IMAGE, "HostConfig": {"NetworkMode": "closed"}}
        refused = net.api(node, "POST", "/containers/create", body)
        assert refused.status == 403
        assert "network closed not manually attachable" in refused.body["message"]
    first = run(net, "w1", "c1", "--ip", "10.0.1.200")
    assert first == "10.0.1.200"
    taken = net.run(
        *("exec", "m1", "swarmctl", "run", "--rm", "--network", "open", "--ip", first, IMAGE),
        check=False,
    )
    assert taken.returncode == 125
    assert f"address {first} is in use" in taken.stderr
    net.swarmctl("w1", "network", "disconnect", "open", "c1")
    wait_until(lambda: first not in on_network(net).values(), 10, "c1 is off the network")
