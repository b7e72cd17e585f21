"""IPv6 beside IPv4: overlays, leases, names and the routing mesh of a cluster."""

import json
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address, ip_network

import pytest

from tests.e2e.lab import LabHandle, wait_until

IMAGE = "swarm-demo/web:1"
SERVE = ("httpd", "-f", "-p", "[::]:80", "-h", "/www")
SUBNETS = ("10.66.0.0/29", "10.67.0.0/24", "fd66::/64")


@pytest.fixture
def web(lab: LabHandle) -> Iterator[LabHandle]:
    """Create a service of four on an overlay of both families, published by the mesh."""
    words = ["--ipv6", "--attachable", *(f"--subnet={subnet}" for subnet in SUBNETS)]
    lab.swarmctl("m1", "network", "create", "-d", "overlay", *words, "dual")
    words = ["--name", "web", "--network", "dual", "--replicas", "5", "-p", "8080:80"]
    lab.swarmctl("m1", "service", "create", *words, "--stop-grace-period", "1s", IMAGE, *SERVE)
    lab.await_running("m1", "web", 5)
    yield lab
    for name in ("c1", "c2"):
        lab.api("m1", "DELETE", f"/containers/{name}?force=1")
    lab.api("m1", "DELETE", "/services/web")
    wait_until(partial(is_removed, lab), 30, "the network is removed")


def is_removed(lab: LabHandle) -> bool:
    return lab.api("m1", "DELETE", "/networks/dual").status in (204, 404)


def client_of(answer: dict[str, str]) -> str:
    """Return the client as httpd has it: in brackets, of IPv4 as a mapped address."""
    return str(ip_address(answer["client"].strip("[]").removeprefix("::ffff:")))


def test_every_node_publishes_in_both_families_and_hides_nobody(web: LabHandle) -> None:
    for find in (web.address, web.ipv6_address):
        urls = [f"http://{f'[{own}]' if ':' in own else own}:8080/" for own in map(find, web.nodes)]
        answers = web.fetch(urls, times=20)
        assert {client_of(answer) for answer in answers} == {find("client")}
        assert len({answer["hostname"] for answer in answers}) == 5


def test_who_is_on_an_overlay_is_found_in_both_families(web: LabHandle) -> None:
    network = web.api("m1", "GET", "/networks/dual").body
    assert network["EnableIPv6"] is True
    assert [pool["Subnet"] for pool in network["IPAM"]["Config"]] == list(SUBNETS)
    tasks = web.api("m1", "GET", '/tasks?filters={"service":["web"]}').body
    given = {
        address.partition("/")[0]
        for task in tasks
        for place in task["NetworksAttachments"]
        if place["Network"]["Spec"]["Name"] == "dual"
        for address in place["Addresses"]
    }
    assert len(given) == 10
    counts = [sum(ip_address(a) in ip_network(s) for a in given) for s in SUBNETS[1:]]
    assert counts[0] >= 1, "the small subnet overflows into the second one"
    assert counts[1] == 5
    own = ("--ip", "10.67.0.77", "--ip6", "fd66::77")
    web.swarmctl("m1", "run", "-d", "--name", "c1", "--network", "dual", *own, IMAGE)
    place = web.api("m1", "GET", "/containers/c1/json").body["NetworkSettings"]["Networks"]["dual"]
    assert (place["IPAddress"], place["GlobalIPv6Address"]) == ("10.67.0.77", "fd66::77")
    again = web.run(
        *("exec", "m1", "swarmctl", "run", "--name", "c2", "--network", "dual", "--ip6"),
        *("fd66::77", IMAGE),
        check=False,
    )
    assert "in use" in again.stderr
    looked = web.swarmctl("m1", "exec", "c1", "nslookup", "tasks.web")
    assert all(address in looked for address in given)
    for host, client in (
        ("web", None),
        ("tasks.web", None),
        *(
            (f"[{a}]" if ":" in a else a, "fd66::77" if ":" in a else "10.67.0.77")
            for a in sorted(given)
        ),
    ):
        words = ("exec", "c1", "wget", "-qO-", f"http://{host}/")
        answer = json.loads(web.swarmctl("m1", *words))
        assert client in (None, client_of(answer))
    vips = web.api("m1", "GET", "/services/web").body["Endpoint"]["VirtualIPs"]
    (vip,) = [v["Addr"].partition("/")[0] for v in vips if v["Addr"].startswith("fd66::")]
    words = ("exec", "c1", "wget", "-qO-", f"http://[{vip}]/")
    answers = [json.loads(web.swarmctl("m1", *words)) for _ in range(24)]
    assert len({answer["hostname"] for answer in answers}) > 1
    assert {client_of(answer) for answer in answers} == {"fd66::77"}
