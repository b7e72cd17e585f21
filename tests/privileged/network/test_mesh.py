"""The routing mesh: published ports on every node, the client's address kept."""

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

import pytest

from swarmapi.model.tables import (
    NetworkTable,
    NodeEntry,
    PublishedPort,
    ServiceEntry,
    TaskEndpoint,
)
from tests.privileged.network.lab import Lab, Server, ask, ipv6_of, run_in, start_nodes
from worker.network.attachments import Attached, Attachment, mac_of
from worker.network.local import VXLAN_PORT
from worker.network.netlink import mac_bytes
from worker.network.network import Network

NODES = {"n1": "192.168.77.1", "n2": "192.168.77.2", "n3": "192.168.77.3"}
CLIENT = "192.168.77.100"
ALSO_IPV6 = pytest.mark.parametrize("version", [4, 6])


def at(address: str, version: int) -> str:
    """Return the underlay address of the same machine in an IP version."""
    return ipv6_of(address) if version == 6 else address


def ingress(*, sticky: bool = False) -> NetworkTable:
    return NetworkTable(
        network_id="ingress1",
        name="ingress",
        revision=7,
        subnet="10.0.0.0/24",
        gateway="10.0.0.1",
        further_subnets=("fd00::/64",),
        vni=4096,
        ingress=True,
        services={
            "s1": ServiceEntry(
                service_id="s1",
                name="web",
                vip="10.0.0.50",
                sticky=sticky,
                ports=(
                    PublishedPort(protocol="tcp", published=8080, target=80),
                    PublishedPort(protocol="udp", published=5353, target=53),
                ),
            )
        },
        endpoints={
            f"t{i}": TaskEndpoint(
                task_id=f"t{i}",
                service_id="s1",
                node_id=f"n{i}",
                name=f"web.{i}.t{i}",
                address=f"10.0.0.{20 + i}",
                ipv6_address=f"fd00::{20 + i:x}",
            )
            for i in (1, 2, 3)
        },
        nodes={
            f"n{i}": NodeEntry(
                node_id=f"n{i}",
                data_path=NODES[f"n{i}"],
                gateway=f"10.0.0.{1 + i}",
                ipv6_gateway=f"fd00::{1 + i:x}",
                mesh_ports=(20000 + 4000 * i, 23999 + 4000 * i),
            )
            for i in (1, 2, 3)
        },
    )


async def join(network: Network, number: int) -> Attached:
    return await network.attach(
        f"c{number}",
        [
            Attachment(
                "ingress1",
                "ingress",
                f"10.0.0.{20 + number}",
                ipv6_address=f"fd00::{20 + number:x}",
            )
        ],
        host_ports=[],
    )


def spread(fd: int, address: str, port: int, *, udp: bool) -> dict[str, set[str]]:
    """Ask until every replica has answered, at most 200 times: replica to addresses it saw."""
    seen: dict[str, set[str]] = {}
    for _ in range(200):
        name, client, _ = ask(fd, address, port, udp=udp)
        seen.setdefault(name, set()).add(client)
        if len(seen) == 3:
            break
    return seen


@ALSO_IPV6
@pytest.mark.parametrize(("port", "udp"), [(8080, False), (5353, True)])
def test_every_node_reaches_every_replica_with_the_clients_address(
    lab: Lab, tmp_path: Path, port: int, udp: bool, version: int
) -> None:
    async def scenario() -> None:
        client = lab.fd(lab.host("client", CLIENT))
        async with start_nodes(lab, tmp_path, NODES) as made:
            for network in made.values():
                assert await network.set_tables({"ingress1": ingress()}) == {"ingress1": 7}
            with contextlib.ExitStack() as stack:
                for i in (1, 2, 3):
                    fd = (await join(made[f"n{i}"], i)).netns_fd
                    server = Server(fd, f"r{i}", 53 if udp else 80, udp=udp)
                    stack.callback(server.close)
                seen = {at(CLIENT, version)}
                for address in NODES.values():
                    found = spread(client, at(address, version), port, udp=udp)
                    assert found == {"r1": seen, "r2": seen, "r3": seen}
                for network in made.values():
                    assert await network.verify() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(("port", "udp"), [(8080, False), (5353, True)])
def test_a_node_reaches_the_port_on_its_own_loopback(
    lab: Lab, tmp_path: Path, port: int, udp: bool
) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODES) as made:
            for network in made.values():
                await network.set_tables({"ingress1": ingress()})
            with contextlib.ExitStack() as stack:
                for i in (1, 2, 3):
                    fd = (await join(made[f"n{i}"], i)).netns_fd
                    server = Server(fd, f"r{i}", 53 if udp else 80, udp=udp)
                    stack.callback(server.close)
                node = lab.fd(tmp_path / "swt-n1")
                assert spread(node, "127.0.0.1", port, udp=udp).keys() == {"r1", "r2", "r3"}
                for own in (NODES["n1"], ipv6_of(NODES["n1"])):
                    assert spread(node, own, port, udp=udp).keys() == {"r1", "r2", "r3"}

    asyncio.run(scenario())


@ALSO_IPV6
def test_each_ingress_node_uses_its_own_source_ports(
    lab: Lab, tmp_path: Path, version: int
) -> None:
    async def scenario() -> None:
        client = lab.fd(lab.host("client", CLIENT))
        async with start_nodes(lab, tmp_path, NODES) as made:
            for network in made.values():
                await network.set_tables({"ingress1": ingress()})
            with contextlib.ExitStack() as stack:
                for i in (1, 2, 3):
                    fd = (await join(made[f"n{i}"], i)).netns_fd
                    stack.callback(Server(fd, f"r{i}", 80).close)
                for i in (1, 2, 3):
                    node = at(NODES[f"n{i}"], version)
                    ports = {int(ask(client, node, 8080)[2]) for _ in range(20)}
                    low, high = ingress().nodes[f"n{i}"].mesh_ports
                    assert all(low <= port <= high for port in ports)

    asyncio.run(scenario())


@ALSO_IPV6
def test_a_sticky_client_gets_one_replica_whatever_node_it_asks(
    lab: Lab, tmp_path: Path, version: int
) -> None:
    async def scenario() -> None:
        clients = [f"192.168.77.{number}" for number in range(100, 112)]
        chosen: dict[str, set[str]] = {}
        async with start_nodes(lab, tmp_path, NODES) as made:
            for network in made.values():
                await network.set_tables({"ingress1": ingress(sticky=True)})
            with contextlib.ExitStack() as stack:
                for i in (1, 2, 3):
                    fd = (await join(made[f"n{i}"], i)).netns_fd
                    stack.callback(Server(fd, f"r{i}", 80).close)
                for address in clients:
                    fd = lab.fd(lab.host(f"c{address[-3:]}", address))
                    chosen[address] = {
                        ask(fd, at(node, version), 8080)[0]
                        for node in NODES.values()
                        for _ in range(4)
                    }
                for network in made.values():
                    assert await network.verify() == 0
        assert {len(replicas) for replicas in chosen.values()} == {1}
        assert len(set().union(*chosen.values())) == 3

    asyncio.run(scenario())


def test_vxlan_from_outside_the_cluster_is_dropped(lab: Lab, tmp_path: Path) -> None:
    """Even a well-formed frame to a task's MAC; the same one from a node arrives."""

    def frame(payload: bytes) -> bytes:
        source, target = "10.0.0.22", "10.0.0.21"
        udp = struct.pack(">HHHH", 999, 9999, 8 + len(payload), 0) + payload
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
        ip += socket.inet_aton(source) + socket.inet_aton(target)
        total = sum(struct.unpack(">10H", ip))
        ip = ip[:10] + struct.pack(">H", 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))) + ip[12:]
        ethernet = mac_bytes(mac_of(target)) + mac_bytes(mac_of(source)) + b"\x08\0"
        return struct.pack(">BxxxI", 8, 4096 << 8) + ethernet + ip + udp

    async def scenario() -> None:
        outside = lab.fd(lab.host("stranger", "192.168.77.66"))
        async with start_nodes(lab, tmp_path, NODES) as made:
            for network in made.values():
                await network.set_tables({"ingress1": ingress()})
            fd = (await join(made["n1"], 1)).netns_fd
            with contextlib.ExitStack() as stack:
                heard = run_in(fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                stack.callback(heard.close)
                heard.bind(("0.0.0.0", 9999))
                heard.settimeout(5)
                for name, where in ((b"evil", outside), (b"peer", lab.fd(tmp_path / "swt-n2"))):
                    sender = run_in(where, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    stack.callback(sender.close)
                    sender.sendto(frame(name), (NODES["n1"], VXLAN_PORT))
                assert heard.recv(10) == b"peer"

    asyncio.run(scenario())
