"""Whatever somebody takes away by hand comes back, is counted, and disturbs nobody else."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmapi.model.tables import NetworkTable, NodeEntry, ServiceEntry, TaskEndpoint
from tests.e2e.lab import wait_until
from tests.privileged.network.lab import Lab, Server, ask, run_in, start_nodes
from worker.network import netlink as nl
from worker.network import nftexpr as nx
from worker.network.attachments import Attachment, mac_of
from worker.network.conntrack import ConntrackSocket
from worker.network.network import Network
from worker.network.nft import NftSocket

NODES = {"n1": "192.168.77.1", "n2": "192.168.77.2"}
VIP = {1: "10.0.1.2", 2: "10.0.2.2"}
IPV6_VIP = {1: "fd01::2", 2: "fd02::2"}
TIMER_LIMIT_S = 10.0


def table(number: int) -> NetworkTable:
    """Return an overlay of two tasks, one on each node, the first of which serves nobody."""
    key = f"net{number}"
    return NetworkTable(
        network_id=key,
        name=key,
        revision=1,
        subnet=f"10.0.{number}.0/24",
        gateway=f"10.0.{number}.1",
        further_subnets=(f"fd0{number}::/64",),
        vni=4096 + number,
        services={
            "s": ServiceEntry(
                service_id="s", name="web", vip=VIP[number], ipv6_vip=IPV6_VIP[number]
            )
        },
        endpoints={
            f"t{node}": TaskEndpoint(
                task_id=f"t{node}",
                service_id="s" if node == 2 else "",
                node_id=f"n{node}",
                name=f"web.{node}",
                address=f"10.0.{number}.{10 + node}",
                ipv6_address=f"fd0{number}::{10 + node}",
            )
            for node in (1, 2)
        },
        nodes={n: NodeEntry(node_id=n, data_path=a) for n, a in NODES.items()},
    )


def ingress() -> NetworkTable:
    nodes = {
        name: NodeEntry(
            node_id=name,
            data_path=address,
            gateway=f"10.255.0.{index + 2}",
            ipv6_gateway=f"fd0f::{index + 2}",
        )
        for index, (name, address) in enumerate(NODES.items())
    }
    return NetworkTable(
        network_id="mesh",
        name="ingress",
        revision=1,
        subnet="10.255.0.0/24",
        gateway="10.255.0.1",
        further_subnets=("fd0f::/64",),
        vni=4096,
        ingress=True,
        nodes=nodes,
    )


@dataclass
class Place:
    """A node's network and the namespaces of it that a hand may reach into."""

    network: Network
    overlay: int
    container: int
    node: int


@asynccontextmanager
async def two_overlays(lab: Lab, base: Path) -> AsyncIterator[tuple[Place, int]]:
    """Yield node n1 with a container on net1, and the namespace of its other one, on net2."""
    async with start_nodes(lab, base, NODES) as made:
        tables = {"net1": table(1), "net2": table(2), "mesh": ingress()}
        spaces = {}
        for index, (name, network) in enumerate(made.items(), 1):
            await network.set_tables(tables)
            for number in (1, 2):
                wish = Attachment(
                    f"net{number}",
                    "overlay",
                    f"10.0.{number}.{10 + index}",
                    ipv6_address=f"fd0{number}::{10 + index}",
                )
                attached = await network.attach(f"c{number}", [wish], host_ports=[])
                spaces[name, number] = attached.netns_fd
        with contextlib.ExitStack() as stack:
            for number in (1, 2):
                stack.callback(Server(spaces["n2", number], "two", 80).close)
            overlay = os.open(base / "run-n1" / "netns" / "net1", os.O_RDONLY)
            stack.callback(os.close, overlay)
            node = lab.fd(base / "swt-n1")
            place = Place(made["n1"], overlay, spaces["n1", 1], node)
            yield place, spaces["n1", 2]


@contextmanager
def routes(fd: int) -> Iterator[Callable[[Callable[[nl.RouteSocket], object]], None]]:
    """Yield a way to do something with the routes and links of a namespace."""

    def do(action: Callable[[nl.RouteSocket], object]) -> None:
        def body() -> None:
            with nl.RouteSocket() as route:
                action(route)

        run_in(fd, body)

    yield do


def on_routes(where: str, action: Callable[[nl.RouteSocket], object]) -> Callable[[Place], None]:
    def take(place: Place) -> None:
        with routes(getattr(place, where)) as do:
            do(action)

    return take


def on_table(
    where: str, *operations: nx.Operation, family: int = nx.FAMILY_IPV4
) -> Callable[[Place], None]:
    def take(place: Place) -> None:
        def body() -> None:
            with NftSocket() as nft:
                nft.apply(family, "swarm", list(operations))

        run_in(getattr(place, where), body)

    return take


def remove_route(interface: str, subnet: str) -> Callable[[nl.RouteSocket], object]:
    def body(route: nl.RouteSocket) -> None:
        link = route.index(interface)
        first, size = str(ip_network(subnet)[1]), 20 if ":" in subnet else 8
        _, flags, raw = nl.link_route(link, subnet, first)
        # Without the preferred source: any route of this link to the subnet.
        route.batch([(nl.RTM_NEWROUTE + 1, flags & ~nl.NLM_CREATE, raw[:-size])])

    return body


def remove_address(interface: str, place: str) -> Callable[[nl.RouteSocket], object]:
    def body(route: nl.RouteSocket) -> None:
        _, _, raw = nl.add_address(route.index(interface), place)
        route.batch([(nl.RTM_NEWADDR + 1, 0, raw)])

    return body


def remove_links(*names: str) -> Callable[[nl.RouteSocket], object]:
    return lambda route: route.batch([nl.remove_link(route.index(name)) for name in names])


def remove_entry(kind: str) -> Callable[[nl.RouteSocket], object]:
    mac = mac_of("10.0.1.12")

    def body(route: nl.RouteSocket) -> None:
        vxlan = route.index("vxlan4097")
        gone = {
            "fdb": lambda: nl.fdb_entry(vxlan, mac, NODES["n2"], remove=True),
            "neighbour": lambda: nl.neighbour(vxlan, "10.0.1.12", mac, remove=True),
            "IPv6 neighbour": lambda: nl.neighbour(vxlan, "fd01::12", mac, remove=True),
            "station": lambda: nl.bridge_station(vxlan, mac, remove=True),
        }
        route.batch([gone[kind]()])

    return body


def unplug(route: nl.RouteSocket) -> None:
    ports = [link for link in route.links().values() if link.kind == "veth"]
    route.batch([nl.set_link(link.index, master=0) for link in ports])


VIP_KEY = socket.inet_aton(VIP[1])
HANDS: dict[str, Callable[[Place], None]] = {
    "an fdb entry": on_routes("overlay", remove_entry("fdb")),
    "a neighbour": on_routes("overlay", remove_entry("neighbour")),
    "an IPv6 neighbour": on_routes("overlay", remove_entry("IPv6 neighbour")),
    "an IPv6 address": on_routes("container", remove_address("eth0", "fd01::11/64")),
    "an IPv6 route": on_routes("container", remove_route("eth0", "fd01::/64")),
    "a container's IPv6 table": on_table("container", nx.RemoveTable(), family=nx.FAMILY_IPV6),
    "the node's IPv6 table": on_table("node", nx.RemoveTable(), family=nx.FAMILY_IPV6),
    "the mesh's IPv6 address": on_routes("node", remove_address("swarm-ingress", "fd0f::2/64")),
    "a bridge's entry": on_routes("overlay", remove_entry("station")),
    "the vxlan": on_routes("overlay", remove_links("vxlan4097")),
    "the bridge": on_routes("overlay", remove_links("br0")),
    "a container's port": on_routes("overlay", unplug),
    "an element": on_table("container", nx.RemoveElements("vips", (VIP_KEY,))),
    "a backend": on_table("container", nx.RemoveElements("backends", (VIP_KEY + bytes(4),))),
    "a chain's rules": on_table(
        "container", nx.RewriteChain("output", nx.Chain((), "nat", nx.HOOK_OUTPUT, -100))
    ),
    "a container's table": on_table("container", nx.RemoveTable()),
    "the node's table": on_table("node", nx.RemoveTable()),
    "a peer": on_table("node", nx.RemoveElements("peers", (socket.inet_aton(NODES["n2"]),))),
    "a container's way out": on_routes(
        "container", lambda route: route.batch([nl.remove_default_route()])
    ),
    "a container's route": on_routes("container", remove_route("eth0", "10.0.1.0/24")),
    "the mesh's leg": on_routes("node", remove_links("swarm-ingress")),
    "the mesh's route": on_routes("node", remove_route("swarm-ingress", "10.255.0.0/24")),
}


@pytest.mark.parametrize("hand", HANDS)
def test_what_a_hand_takes_away_comes_back(lab: Lab, tmp_path: Path, hand: str) -> None:
    async def scenario() -> None:
        async with two_overlays(lab, tmp_path) as (place, other):
            assert await place.network.verify() == 0
            HANDS[hand](place)
            repairing = asyncio.ensure_future(place.network.verify())
            while hand != "a peer" and not repairing.done():
                assert (await asyncio.to_thread(ask, other, VIP[2], 80))[0] == "two"
            repaired = await repairing
            assert repaired > 0
            assert place.network.drift_repaired_total() == repaired
            for vip in (VIP[1], IPV6_VIP[1]):
                assert ask(place.container, vip, 80)[0] == "two"
            assert await place.network.verify() == 0

    asyncio.run(scenario())


def test_nobody_has_to_ask_for_it(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two_overlays(lab, tmp_path) as (place, _):
            for hand in ("the vxlan", "an element", "a container's way out", "a peer"):
                HANDS[hand](place)
            await asyncio.to_thread(
                wait_until,
                lambda: place.network.drift_repaired_total() >= 4,
                TIMER_LIMIT_S,
                "four repairs",
            )
            assert ask(place.container, VIP[1], 80)[0] == "two"

    asyncio.run(scenario())


def test_connections_of_an_address_that_nobody_has_are_ended(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two_overlays(lab, tmp_path) as (place, _):
            dead = "10.0.1.99"

            def call() -> socket.socket:
                link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                for address in (dead, "10.0.1.12"):
                    link.sendto(b"?", (address, 9))
                return link

            def known() -> list[int]:
                with ConntrackSocket() as conntrack:
                    return [len(conntrack.of_backend(a)) for a in (dead, "10.0.1.12")]

            with contextlib.closing(run_in(place.container, call)):
                assert run_in(place.container, known) == [1, 1]
                assert await place.network.verify() == 1
                assert run_in(place.container, known) == [0, 1]

    asyncio.run(scenario())


def test_an_address_that_changes_its_node_is_found_at_once(lab: Lab, tmp_path: Path) -> None:
    """The bridge of a node that it leaves, or comes to, has learned where it was."""

    def moved(node: str) -> dict[str, NetworkTable]:
        first = table(1)
        endpoint = TaskEndpoint(
            task_id=f"m{node}", service_id="", node_id=node, name="m", address="10.0.1.50"
        )
        endpoints = {**first.endpoints, endpoint.task_id: endpoint}
        return {"net1": replace(first, endpoints=endpoints)}

    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODES) as made:
            asking = {}
            for name in NODES:
                await made[name].set_tables(moved("n1"))
                number = 11 if name == "n1" else 12
                wish = [Attachment("net1", "overlay", f"10.0.1.{number}")]
                attached = await made[name].attach("asker", wish, host_ports=[])
                asking[name] = attached.netns_fd
            for node in ("n1", "n2", "n1", "n2"):
                for network in made.values():
                    await network.set_tables(moved(node))
                wish = [Attachment("net1", "overlay", "10.0.1.50")]
                there = await made[node].attach("mover", wish, host_ports=[])
                with contextlib.closing(Server(there.netns_fd, node, 80)):
                    for fd in asking.values():
                        assert ask(fd, "10.0.1.50", 80, timeout_s=2.0)[0] == node
                # Its links outlive it: somebody holds its namespace.
                held = os.dup(there.netns_fd)
                lab.fds.append(held)
                await made[node].detach("mover")

    asyncio.run(scenario())
