"""The resolver at 127.0.0.11, asked from inside a container's namespace."""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarmapi.model.tables import NetworkTable, NodeEntry, ServiceEntry, TaskEndpoint
from tests.privileged.network.lab import Lab, ipv6_of, run_in, start_nodes
from worker.network.attachments import Attached, Attachment, BridgeNetwork
from worker.network.network import Network

NODE = {"n1": "192.168.77.1"}
A, PTR, AAAA = 1, 12, 28


def question(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    head = struct.pack(">HHHHHH", 0x1234, 0x0100, 1, 0, 0, 0)
    return head + labels + b"\0" + struct.pack(">HH", kind, 1)


class Reply:
    """A parsed reply: code, truncation, and the raw data of each record."""

    def __init__(self, query: bytes, raw: bytes) -> None:
        assert raw[:2] == query[:2]
        assert raw[2] & 0x80
        self.code = raw[3] & 15
        self.truncated = bool(raw[2] & 2)
        (count,) = struct.unpack_from(">H", raw, 6)
        self.records, at = [], len(query)
        for _ in range(count):
            (size,) = struct.unpack_from(">H", raw, at + 10)
            self.records.append(raw[at + 12 : at + 12 + size])
            at += 12 + size

    @property
    def addresses(self) -> list[str]:
        return [socket.inet_ntoa(record) for record in self.records]


def resolve(fd: int, name: str, kind: int = A, *, tcp: bool = False) -> Reply:
    query = question(name, kind)

    def body() -> bytes:
        if tcp:
            with socket.create_connection(("127.0.0.11", 53), 5) as link:
                link.sendall(struct.pack(">H", len(query)) + query)
                with link.makefile("rb") as stream:
                    return stream.read(struct.unpack(">H", stream.read(2))[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.settimeout(5)
            link.connect(("127.0.0.11", 53))
            link.send(query)
            return link.recv(4096)

    return Reply(query, run_in(fd, body))


def table(tasks: int) -> NetworkTable:
    return NetworkTable(
        network_id="net1",
        name="app",
        revision=1,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        vni=4097,
        services={
            "s1": ServiceEntry(service_id="s1", name="web", vip="10.0.1.2", aliases=("www",)),
            "s2": ServiceEntry(service_id="s2", name="rr"),
        },
        endpoints={
            f"t{i}": TaskEndpoint(
                task_id=f"t{i}",
                service_id="s1" if i % 2 else "s2",
                node_id="n1",
                name=f"{'web' if i % 2 else 'rr'}.{i}.t{i}",
                address=f"10.0.1.{10 + i}",
            )
            for i in range(1, tasks + 1)
        },
        nodes={"n1": NodeEntry(node_id="n1", data_path=NODE["n1"])},
    )


def test_names_of_an_overlay(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODE) as made:
            await made["n1"].set_tables({"net1": table(4)})
            attached = await made["n1"].attach(
                "c1",
                [Attachment("net1", "overlay", "10.0.1.11")],
                host_ports=[],
            )
            assert attached.resolver

            async def get(name: str, kind: int = A, *, tcp: bool = False) -> Reply:
                return await asyncio.to_thread(resolve, attached.netns_fd, name, kind, tcp=tcp)

            for name in ("web", "WEB", "www", "web.app"):
                assert (await get(name)).addresses == ["10.0.1.2"]
            assert (await get("web", tcp=True)).addresses == ["10.0.1.2"]
            orders = {tuple((await get("tasks.web")).addresses) for _ in range(4)}
            assert orders == {("10.0.1.11", "10.0.1.13"), ("10.0.1.13", "10.0.1.11")}
            assert sorted((await get("rr")).addresses) == ["10.0.1.12", "10.0.1.14"]
            assert (await get("web.1.t1")).addresses == ["10.0.1.11"]
            pointer = await get("12.1.0.10.in-addr.arpa", PTR)
            assert pointer.records == [b"\2rr\1" + b"2\2t2\3app\0"]
            nothing = await get("web", AAAA)
            assert (nothing.code, nothing.records) == (0, [])
            assert (await get("unknown")).code == 2
            await made["n1"].set_tables({"net1": table(120)})
            many = await get("tasks.web")
            assert many.truncated
            assert len(many.records) < 60
            assert len((await get("tasks.web", tcp=True)).records) == 60

            # The container may have a name server of its own.
            def bind() -> None:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    with socket.socket(socket.AF_INET, kind) as own:
                        own.bind(("0.0.0.0", 53))

            run_in(attached.netns_fd, bind)

    asyncio.run(scenario())


async def join(network: Network, name: str) -> Attached:
    return await network.attach(
        name,
        [Attachment("red", "bridge", aliases=(name, f"{name}-alias"))],
        host_ports=[],
    )


@contextmanager
def name_server(lab: Lab) -> Iterator[list[bytes]]:
    """Answer every name with 9.8.7.6 at 192.168.77.53, and the same of IPv6; yields the queries."""
    outside = lab.fd(lab.host("dns", "192.168.77.53"))
    server = run_in(outside, lambda: socket.create_server(("0.0.0.0", 53)))
    link = run_in(outside, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    run_in(outside, lambda: link.bind(("::", 53)))
    seen: list[bytes] = []

    def serve() -> None:
        while True:
            query, address = link.recvfrom(512)
            if not query:
                return
            seen.append(query)
            record = b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 9, 4) + socket.inet_aton("9.8.7.6")
            link.sendto(query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:] + record, address)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield seen
    finally:
        stop = run_in(outside, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with stop:
            stop.sendto(b"", ("127.0.0.1", 53))
        thread.join(6)
        link.close()
        server.close()


@pytest.mark.parametrize("server", ["192.168.77.53", ipv6_of("192.168.77.53")])
def test_other_names_go_upstream_and_a_dead_server_does_not_delay(
    lab: Lab, tmp_path: Path, server: str
) -> None:
    async def scenario() -> None:
        upstream = ("192.168.77.99", server)
        with name_server(lab) as seen:
            async with start_nodes(lab, tmp_path, NODE, upstream) as made:
                network = made["n1"]
                await network.create_bridge_network(BridgeNetwork("red", "red", bridge="swt-red"))
                await join(network, "web")
                attached = await join(network, "db")
                fd = attached.netns_fd
                reply = await asyncio.to_thread(resolve, fd, "example.org")
                assert reply.addresses == ["9.8.7.6"]
                assert len(seen) == 1
                again = await asyncio.to_thread(resolve, fd, "example.org")
                assert again.addresses == ["9.8.7.6"]
                assert len(seen) == 1  # remembered for the 9 s that it said
                assert (await asyncio.to_thread(resolve, fd, "web-alias")).code == 0
                await network.detach("web")
                reply = await asyncio.to_thread(resolve, fd, "db")
                assert reply.addresses == [attached.endpoints[0].address]

    asyncio.run(scenario())


def test_the_default_bridge_has_no_names_until_another_network_is_joined(
    lab: Lab, tmp_path: Path
) -> None:
    async def scenario() -> None:
        with name_server(lab) as seen:
            async with start_nodes(lab, tmp_path, NODE, ("192.168.77.53",)) as made:
                network = made["n1"]
                await network.create_bridge_network(
                    BridgeNetwork("bridge", "bridge", bridge="swt-zero", default=True)
                )
                await network.create_bridge_network(
                    BridgeNetwork("in", "in", bridge="swt-in", internal=True)
                )
                attached = await network.attach(
                    "c", [Attachment("bridge", "bridge")], host_ports=[]
                )
                assert not attached.resolver
                grown = await network.connect(
                    "c", Attachment("in", "bridge", aliases=("c", "other"))
                )
                assert grown.resolver
                address = grown.endpoints[1].address

                async def get(name: str, kind: int = A) -> Reply:
                    return await asyncio.to_thread(resolve, attached.netns_fd, name, kind)

                for name in ("c", "other", "c.in"):
                    assert (await get(name)).addresses == [address]
                arpa = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
                assert (await get(arpa, PTR)).records == [b"\1c\2in\0"]
                await network.rename("c", {"in": ("renamed",)})
                assert (await get("renamed")).addresses == [address]
                # Without a way out nothing is asked of the node's resolvers: names would leak.
                assert (await get("elsewhere")).addresses == ["9.8.7.6"]
                await network.disconnect("c", "bridge")
                del seen[:]
                assert (await get("elsewhere")).code == 2
                assert seen == []

    asyncio.run(scenario())
