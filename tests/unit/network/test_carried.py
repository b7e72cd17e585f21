"""Carried ports: which they are, where they lead, and what the header says."""

import pytest
from msgspec.structs import replace

from swarmapi.model.tables import EndpointState, PublishedPort, ServiceEntry
from tests.unit.network.test_plan import overlay, task
from worker.network.carried import Front, Way, carried_ports, proxy_header

LINKS = {"lo": ("127.0.0.1/8", "::1/128"), "eth0": ("10.9.0.5/24", "fd09::5/64")}


def ways(port: PublishedPort, *states: EndpointState, sticky: bool = False) -> dict[Front, Way]:
    ends = [task(i, state=state) for i, state in enumerate(states, 1)]
    table = overlay(*(replace(e, ipv6_address=f"fd01::{e.task_id[1:]}") for e in ends))
    service = ServiceEntry(service_id="s1", name="web", ports=(port,), sticky=sticky)
    return carried_ports({"net1": replace(table, ingress=True, services={"s1": service})}, LINKS)


@pytest.mark.parametrize(
    ("place", "source", "fronts"),
    [
        ("", "", {"::1"}),
        ("", "snat", {"::1"}),
        ("10.9.0.5", "", set()),
        ("::/0", "", {"::1"}),
        ("0.0.0.0/0", "", set()),
        ("%lo", "", {"::1"}),
        ("%eth0", "", set()),
        ("", "proxy-protocol", {"0.0.0.0", "::"}),
        ("%eth0", "proxy-protocol-v1", {"10.9.0.5", "fd09::5"}),
        ("fd09::5", "proxy-protocol", {"fd09::5"}),
    ],
)
def test_what_the_kernel_cannot_forward_is_carried(
    place: str, source: str, fronts: set[str]
) -> None:
    port = PublishedPort(protocol="tcp", published=80, target=8080, place=place, source=source)
    found = ways(port, EndpointState.SERVING, EndpointState.WITHDRAWN)
    assert found.keys() == {Front("tcp", address, 80) for address in fronts}
    header = source if source.startswith("proxy") else ""
    way = Way((("10.0.1.11", 8080),), header=header, others=(("fd01::1", 8080),))
    assert all(one == way for one in found.values())
    assert not ways(port, EndpointState.WITHDRAWN)


def test_headers_of_both_versions() -> None:
    """The texts are those of HAProxy's proxy-protocol.txt."""
    client, asked = ("192.168.0.1", 56324), ("192.168.0.11", 443)
    assert proxy_header("proxy-protocol-v1", client, asked) == (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    )
    assert proxy_header("proxy-protocol", client, asked) == (
        b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c"
        b"\xc0\xa8\x00\x01\xc0\xa8\x00\x0b\xdc\x04\x01\xbb"
    )
    there = proxy_header("proxy-protocol", ("fe80::1%eth0", 1), ("fe80::2", 2))
    assert there[12:16] == b"\x21\x21\x00\x24"
    assert len(there) == 16 + 36
