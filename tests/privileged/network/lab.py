"""Nodes as network namespaces, joined by a bridge in a namespace of its own."""

import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from worker.network import netlink as nl
from worker.network import netns
from worker.network.network import Network
from worker.network.overlay import short_name

T = TypeVar("T")


def run_in(fd: int, action: Callable[[], T]) -> T:
    """Run `action` in a namespace, on a thread of its own."""
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(netns.inside(fd, action))
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def ipv6_of(address: str) -> str:
    """Return the IPv6 address on the underlay of who has `address` there."""
    return f"fd77::{int(address.rpartition('.')[2]):x}"


class Lab:
    """An underlay 192.168.77.0/24 and fd77::/64; a namespace lives as long as its descriptor."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.fds: list[int] = []
        self.pins: list[Path] = []
        self.switch = self._namespace("swt-switch")
        self._route(
            self.switch, lambda r: r.batch([nl.add_bridge("br0", 1600), nl.set_link(1, up=True)])
        )

    def _namespace(self, name: str) -> Path:
        pin = self._base / name
        home = netns.current()
        fd = run_in(home, netns.create)
        os.close(home)
        self.fds.append(fd)
        netns.pin(fd, pin)
        self.pins.append(pin)
        return pin

    def _route(self, where: Path, action: Callable[[nl.RouteSocket], T]) -> T:
        def body() -> T:
            with nl.RouteSocket() as route:
                return action(route)

        return run_in(self.fd(where), body)

    def fd(self, where: Path) -> int:
        return self.fds[self.pins.index(where)]

    def host(self, name: str, address: str) -> Path:
        """Add a machine on the underlay and return the path of its namespace."""
        pin = self._namespace(f"swt-{name}")
        port = short_name("p", name)
        bridge = self._route(self.switch, lambda r: r.index("br0"))
        self._route(
            self.switch,
            lambda r: r.batch([nl.add_veth(port, "eth0", self.fd(pin), mtu=1600, master=bridge)]),
        )

        run_in(self.fd(pin), lambda: netns.allow_ipv6("eth0"))

        def configure(route: nl.RouteSocket) -> None:
            index = route.index("eth0")
            route.batch(
                [
                    nl.set_link(1, up=True),
                    nl.set_link(index, up=True),
                    nl.add_address(index, f"{address}/24"),
                    nl.add_address(index, f"{ipv6_of(address)}/64"),
                ]
            )

        self._route(pin, configure)
        return pin

    def address(self, pin: Path, address: str) -> None:
        """Give a machine one more address on the underlay."""
        self._route(pin, lambda r: r.batch([nl.add_address(r.index("eth0"), f"{address}/24")]))

    def close(self) -> None:
        for pin in self.pins:
            netns.unpin(pin)
        for fd in self.fds:
            os.close(fd)


class Server:
    """Answers every connection or datagram with its name and the peer's address."""

    def __init__(self, fd: int, name: str, port: int, *, udp: bool = False) -> None:
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM

        def listen() -> socket.socket:
            made = socket.socket(socket.AF_INET6, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            made.bind(("::", port))
            if not udp:
                made.listen(128)
            return made

        self._socket = run_in(fd, listen)
        self._name = name
        self._thread = threading.Thread(target=self._udp if udp else self._tcp)
        self._thread.start()

    def _tcp(self) -> None:
        while True:
            try:
                peer, address = self._socket.accept()
            except OSError:
                return
            with peer:
                peer.sendall(self._answer(address))

    def _udp(self) -> None:
        while True:
            try:
                data, address = self._socket.recvfrom(100)
            except OSError:
                return
            if not data:
                return
            self._socket.sendto(self._answer(address), address)

    def _answer(self, peer: tuple[str, int]) -> bytes:
        return f"{self._name} {peer[0].removeprefix('::ffff:')} {peer[1]}".encode()

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join(5)
        self._socket.close()


def ask(
    fd: int, address: str, port: int, *, udp: bool = False, timeout_s: float = 5.0
) -> list[str]:
    """Connect from a namespace and return the words of the answer."""

    def body() -> list[str]:
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        with socket.socket(nl.family_of(address), kind) as link:
            link.settimeout(timeout_s)
            link.connect((address, port))
            if udp:
                link.send(b"?")
            return link.recv(200).decode().split()

    return run_in(fd, body)


async def started_anew(base: Path, name: str, address: str) -> Network:
    """Start a network on what an earlier one of `start_nodes` left."""
    network = Network(
        node_id=name,
        run_dir=base / f"run-{name}",
        data_path_addr=address,
        upstream_dns=(),
        bridge_pool="172.16.0.0/12",
        node_netns=base / f"swt-{name}",
    )
    await network.start()
    return network


@asynccontextmanager
async def start_nodes(
    lab: Lab, base: Path, addresses: Mapping[str, str], upstream_dns: tuple[str, ...] = ()
) -> AsyncIterator[dict[str, Network]]:
    """Start a network per node and take everything down at the end."""
    made: dict[str, Network] = {}
    try:
        for name, address in addresses.items():
            made[name] = Network(
                node_id="",
                run_dir=base / f"run-{name}",
                data_path_addr="",
                upstream_dns=upstream_dns,
                bridge_pool="172.16.0.0/12",
                node_netns=lab.host(name, address),
            )
            await made[name].start()
            await made[name].identify(name, address)
        yield made
    finally:
        for network in made.values():
            await network.stop(remove=True)
