"""Ports of the mesh whose bytes are carried: with a PROXY header, and at ::1."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmapi.model.tables import EndpointState, NetworkTable, PublishedPort
from tests.privileged.network.lab import Lab, Server, ask, run_in, start_nodes
from tests.privileged.network.test_mesh import CLIENT, NODES, at, join
from tests.privileged.network.test_mesh_places import FEW, publishing
from worker.network.netlink import family_of
from worker.network.network import Network

MANY_BYTES = 8 << 20


class Echo:
    """Answers every connection with what it sent, once that has ended; `hold` waits before."""

    def __init__(self, fd: int) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self._listener = run_in(fd, lambda: socket.create_server(("0.0.0.0", 80)))
        self._peers: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._peers.append(peer)
            self._threads.append(threading.Thread(target=self._answer, args=(peer,)))
            self._threads[-1].start()

    def _answer(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            heard = []
            while piece := peer.recv(65536):
                heard.append(piece)
                self.go_on.wait(10)
            peer.sendall(b"".join(heard))

    def close(self) -> None:
        self.go_on.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


def connect(fd: int, address: str, port: int) -> socket.socket:
    def body() -> socket.socket:
        link = socket.socket(family_of(address))
        link.settimeout(10)
        try:
            link.connect((address, port))
        except OSError:
            link.close()
            raise
        return link

    return run_in(fd, body)


def exchange(fd: int, address: str, port: int, sent: bytes) -> tuple[tuple[str, int], bytes]:
    """Send, end that direction, and return our own place and all that comes back."""
    with connect(fd, address, port) as link:
        own = link.getsockname()[:2]

        def send() -> None:
            link.sendall(sent)
            link.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        heard = b"".join(iter(lambda: link.recv(65536), b""))
        sender.join(10)
        return own, heard


def v2(client: tuple[str, int], asked: tuple[str, int]) -> bytes:
    """Return the header HAProxy's text describes."""
    one, other = (ip_address(place[0]) for place in (client, asked))
    body = one.packed + other.packed + struct.pack(">HH", client[1], asked[1])
    kind = b"\x11" if one.version == 4 else b"\x21"
    return b"\r\n\r\n\0\r\nQUIT\n\x21" + kind + struct.pack(">H", len(body)) + body


@contextlib.contextmanager
def echoing(fd: int) -> Iterator[Echo]:
    echo = Echo(fd)
    try:
        yield echo
    finally:
        echo.close()


def carried() -> NetworkTable:
    """Return a table with one task, at n2."""
    table = publishing(
        PublishedPort(protocol="tcp", published=81, target=80, source="proxy-protocol"),
        PublishedPort(protocol="tcp", published=82, target=80, source="proxy-protocol-v1"),
        PublishedPort(protocol="tcp", published=83, target=80),
        PublishedPort(
            protocol="tcp", published=84, target=80, source="proxy-protocol", place=NODES["n1"]
        ),
    )
    return replace(table, endpoints={"t2": table.endpoints["t2"]})


async def tell(made: dict[str, Network], table: NetworkTable) -> None:
    for network in made.values():
        await network.set_tables({"ingress1": table})
        await network.settled()


@pytest.mark.parametrize("version", [4, 6])
def test_a_header_names_the_client_and_every_byte_follows(
    lab: Lab, tmp_path: Path, version: int
) -> None:
    client = lab.fd(lab.host("client", CLIENT))
    body = bytes(range(256)) * (MANY_BYTES // 256)

    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, FEW) as made:
            await tell(made, carried())
            with echoing((await join(made["n2"], 2)).netns_fd):
                for node in FEW:
                    here = at(NODES[node], version)
                    own, heard = await asyncio.to_thread(exchange, client, here, 81, body)
                    assert own[0] == at(CLIENT, version)
                    assert heard == v2(own, (here, 81)) + body
                    own, heard = await asyncio.to_thread(exchange, client, here, 82, b"hello")
                    words = f"PROXY TCP{version} {own[0]} {here} {own[1]} 82"
                    assert heard == f"{words}\r\nhello".encode()
                if version == 4:
                    await asyncio.to_thread(exchange, client, NODES["n1"], 84, b"")
                    with pytest.raises(ConnectionRefusedError):
                        await asyncio.to_thread(exchange, client, NODES["n2"], 84, b"")
            for network in made.values():
                assert await network.verify() == 0

    asyncio.run(scenario())


def test_a_node_reaches_the_port_at_its_own_loopback(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, FEW) as made:
            table = publishing(
                PublishedPort(protocol="tcp", published=80, target=80),
                PublishedPort(protocol="udp", published=53, target=53),
                PublishedPort(protocol="tcp", published=81, target=80, place="fd77::/16"),
            )
            await tell(made, table)
            node = lab.fd(tmp_path / "swt-n1")
            with contextlib.ExitStack() as stack:
                for i in (1, 2):
                    fd = (await join(made[f"n{i}"], i)).netns_fd
                    stack.callback(Server(fd, f"r{i}", 80).close)
                    stack.callback(Server(fd, f"r{i}", 53, udp=True).close)
                for port, udp in ((80, False), (53, True)):
                    names = {
                        (await asyncio.to_thread(ask, node, "::1", port, udp=udp))[0]
                        for _ in range(40)
                    }
                    assert names == {"r1", "r2"}
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.to_thread(ask, node, "::1", 81)

    asyncio.run(scenario())


def test_a_withdrawn_task_keeps_its_connections_until_it_is_gone(lab: Lab, tmp_path: Path) -> None:
    client = lab.fd(lab.host("client", CLIENT))

    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, FEW) as made:
            table = carried()
            await tell(made, table)
            with echoing((await join(made["n2"], 2)).netns_fd):
                first = await asyncio.to_thread(connect, client, NODES["n1"], 81)
                second = await asyncio.to_thread(connect, client, NODES["n1"], 81)
                with first, second:
                    endpoint = replace(table.endpoints["t2"], state=EndpointState.WITHDRAWN)
                    await tell(made, replace(table, endpoints={"t2": endpoint}))
                    with pytest.raises(ConnectionRefusedError):
                        await asyncio.to_thread(connect, client, NODES["n1"], 81)
                    first.sendall(b"still here")
                    first.shutdown(socket.SHUT_WR)
                    heard = await asyncio.to_thread(
                        lambda: b"".join(iter(lambda: first.recv(4096), b""))
                    )
                    assert heard.endswith(b"still here")
                    await tell(made, replace(table, endpoints={}))
                    with pytest.raises(ConnectionResetError):
                        await asyncio.to_thread(second.recv, 1)

    asyncio.run(scenario())


def test_who_does_not_read_holds_the_sender_up(lab: Lab, tmp_path: Path) -> None:
    """What is on the way stays within the sockets' buffers and two pieces."""
    client = lab.fd(lab.host("client", CLIENT))

    def push(link: socket.socket) -> int:
        link.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                sent += link.send(bytes(65536))
        return sent

    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, FEW) as made:
            await tell(made, carried())
            with echoing((await join(made["n2"], 2)).netns_fd) as echo:
                echo.go_on.clear()
                with await asyncio.to_thread(connect, client, NODES["n1"], 81) as link:
                    assert await asyncio.to_thread(push, link) < 32 << 20

    asyncio.run(scenario())
