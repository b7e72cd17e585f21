"""The kernel side of one machine's network. Every method runs on one thread of its own."""

import contextlib
import errno
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from swarmapi.model.tables import NetworkTable
from worker.network import netlink as nl
from worker.network import netns
from worker.network import nftexpr as nx
from worker.network.apply import TableKeeper
from worker.network.attachments import (
    AttachedEndpoint,
    BridgeNetwork,
    NetworkError,
    PortBinding,
    mac_of,
)
from worker.network.conntrack import ConntrackSocket
from worker.network.dns import open_listeners
from worker.network.drift import mend_link, mend_port, mend_way_out
from worker.network.family import IPV4, IPV6
from worker.network.local import INGRESS_LINK, TABLE, VXLAN_PORT
from worker.network.nft import NftSocket
from worker.network.overlay import BRIDGE, Overlay, prefix_of, short_name
from worker.network.plan import DesiredState
from worker.network.publishing import hold

_log = logging.getLogger(__name__)
SPARES = 4
"""Namespaces made ahead: that takes a third of what the network does for a container's start."""
DEAD_LOOKS = 4
"""Namespaces whose connections are looked at in one round of verifying."""


@dataclass
class ContainerNamespace:
    """A container's namespace and the handles open in it."""

    fd: int
    route: nl.RouteSocket
    nft: NftSocket
    conntrack: ConntrackSocket
    rules: TableKeeper
    returns: TableKeeper
    ipv6_rules: TableKeeper
    endpoints: dict[str, AttachedEndpoint] = field(default_factory=dict)
    """By network id."""
    way_out: AttachedEndpoint | None = None
    uses_ipv6: bool = False

    def settle_ipv6(self, desired: nx.TableState | None) -> int:
        """Make its `ip6` table as planned; one that never was needs no look at the kernel."""
        if desired is None and not self.uses_ipv6:
            return 0
        self.uses_ipv6 = True
        return self.ipv6_rules.settle(desired)

    def verify_rules(self) -> int:
        """Read its tables back, repair them, and return how much there was."""
        return sum(t.verify() for t in (self.rules, self.returns, self.ipv6_rules))

    def close(self) -> None:
        """Close every handle; with the last one the kernel drops the namespace and its veths."""
        for handle in (self.route, self.nft, self.conntrack):
            handle.close()
        os.close(self.fd)


def open_namespace(fd: int) -> ContainerNamespace:
    """Open the handles of a namespace, which is then owned."""
    route, nft, conntrack = netns.inside(
        fd, lambda: (nl.RouteSocket(), NftSocket(), ConntrackSocket())
    )
    return ContainerNamespace(
        fd,
        route,
        nft,
        conntrack,
        TableKeeper(nft, nx.FAMILY_IPV4, TABLE),
        TableKeeper(nft, nx.FAMILY_NETDEV, TABLE),
        TableKeeper(nft, nx.FAMILY_IPV6, TABLE),
    )


def with_loopback(fd: int) -> ContainerNamespace:
    """Open a namespace whose loopback is up; on failure `fd` is closed."""
    try:
        space = open_namespace(fd)
    except BaseException:
        os.close(fd)
        raise
    try:
        space.route.batch([nl.set_link(1, up=True)])
    except BaseException:
        space.close()
        raise
    return space


class Spares:
    """Namespaces made ahead."""

    def __init__(self, make: Callable[[], ContainerNamespace]) -> None:
        self._make = make
        self._ready: list[ContainerNamespace] = []
        self._is_lacking = False

    def take(self) -> ContainerNamespace:
        """Return one, made now where none is ready."""
        return self._ready.pop() if self._ready else self._make()

    def fill(self) -> None:
        """Make what is missing; that none can be made holds nobody up, and is told of once."""
        try:
            while len(self._ready) < SPARES:
                self._ready.append(self._make())
        except OSError as error:
            if not self._is_lacking:
                _log.warning("no network namespace can be made ahead: %s", error)
            self._is_lacking = True
        else:
            self._is_lacking = False

    def close(self) -> None:
        """Let go of those that nobody took."""
        while self._ready:
            self._ready.pop().close()


def node_addresses() -> dict[str, list[str]]:
    """Return the addresses with prefix, by link, of the calling thread's namespace.

    Link-local ones of IPv6 are left out: every link has one.
    """
    with nl.RouteSocket() as route:
        links = {link.index: link.name for link in route.links().values()}
        found: dict[str, list[str]] = {}
        for index, address, prefix in sorted(route.addresses()):
            if not address.startswith("fe80:"):
                found.setdefault(links.get(index, ""), []).append(f"{address}/{prefix}")
    return found


class Host:
    """Links, namespaces and tables of the node whose namespace is `node_fd`."""

    def __init__(self, node_fd: int, run_dir: Path, data_path_addr: str) -> None:
        self._fd = node_fd
        self._pins = run_dir / "netns"
        self._data_path = data_path_addr
        self._node = open_namespace(node_fd)
        self.overlays: dict[str, Overlay] = {}
        self.containers: dict[str, ContainerNamespace] = {}
        self.bridges: dict[str, BridgeNetwork] = {}
        self._spares = Spares(lambda: with_loopback(netns.create()))
        netns.inside(node_fd, lambda: netns.write_sysctl("ipv4/ip_forward", 1))

    def use_data_path(self, address: str) -> None:
        """Take the VXLAN underlay address of overlays opened from now on."""
        self._data_path = address

    # Networks

    def add_bridge(self, spec: BridgeNetwork) -> None:
        """Create a bridge, or adopt the one that is there."""
        self._ensure_bridge(spec)
        self.bridges[spec.network_id] = spec

    def _ensure_bridge(self, spec: BridgeNetwork) -> int:
        existing = self._node.route.link(spec.bridge)
        if existing is None:
            # A fixed MAC: a bridge without one changes it with its members.
            mac = mac_of(spec.gateway or spec.ipv6_gateway)
            self._node.route.batch([nl.add_bridge(spec.bridge, spec.mtu, mac)])
        elif existing.kind != "bridge":
            raise NetworkError(f"interface {spec.bridge} exists and is not a bridge: rename it")
        if existing is None or spec.network_id not in self.bridges:
            netns.inside(self._fd, lambda: _permit(spec, adopted=existing is not None))
        return mend_link(self._node.route, spec.bridge, spec.own_addresses())

    def remove_bridge(self, network_id: str) -> None:
        """Delete a bridge network's link."""
        spec = self.bridges.pop(network_id)
        link = self._node.route.link(spec.bridge)
        if link is not None:
            self._node.route.batch([nl.remove_link(link.index)])

    def addresses(self) -> dict[str, list[str]]:
        """Return the node's addresses with prefix, by link."""
        return netns.inside(self._fd, node_addresses)

    def foreign_subnets(self, ours: set[str]) -> list[str]:
        """Return the subnets the node is on by other links than `ours` and its bridges."""
        ours = ours | {spec.bridge for spec in self.bridges.values()}
        return [
            str(ip_interface(address).network)
            for link, addresses in self.addresses().items()
            if link not in ours
            for address in addresses
        ]

    def ensure_overlay(self, table: NetworkTable, node_id: str) -> None:
        """Open an overlay; one whose subnet, VNI or MTU changed is refused."""
        known = self.overlays.get(table.network_id)
        if known is not None:
            shape = (known.table.vni, known.table.subnets(), known.table.mtu)
            if shape != (table.vni, table.subnets(), table.mtu):
                raise NetworkError(f"network {table.name}: its vni, subnet or mtu cannot change")
            known.table = table
            return
        overlay = Overlay(table, self._pins / table.network_id)
        node = table.nodes.get(node_id)
        if table.ingress:
            if node is None or not node.gateway:
                raise NetworkError(f"network {table.name}: this node has no gateway address yet")
            overlay.ingress_gateway = node.gateway
            overlay.ingress_ipv6_gateway = node.ipv6_gateway
        overlay.open(self._node.route, self._fd, self._data_path, VXLAN_PORT)
        self.overlays[table.network_id] = overlay

    def remove_overlay(self, network_id: str) -> None:
        """Take an overlay down, and its leg into this node: by itself that would go later."""
        overlay = self.overlays.pop(network_id)
        overlay.close(remove=True)
        if overlay.table.ingress:
            self._remove_leg()

    def _remove_leg(self) -> None:
        leg = self._node.route.link(INGRESS_LINK)
        if leg is not None:
            self._node.route.batch([nl.remove_link(leg.index)], ignore=(errno.ENODEV,))

    # Containers

    def make_container(self, container_id: str, netns_fd: int = -1) -> None:
        """Create a namespace, or share the caller's, and bring loopback up."""
        self.containers[container_id] = (
            self._spares.take() if netns_fd < 0 else with_loopback(os.dup(netns_fd))
        )

    def adopt_container(
        self, container_id: str, path: Path, endpoints: Iterable[AttachedEndpoint]
    ) -> None:
        """Take over a namespace that outlived its former owner."""
        space = open_namespace(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        space.endpoints.update({e.network_id: e for e in endpoints})
        self.containers[container_id] = space

    def adopt_ports(self, container_id: str, way_out: str | None) -> None:
        """Know again the ports of overlays it is behind, and the network that leads out of it."""
        space = self.containers[container_id]
        space.way_out = space.endpoints.get(way_out or "")
        for endpoint in space.endpoints.values():
            link = space.route.link(endpoint.interface)
            if link is not None and endpoint.network_id in self.overlays:
                self.overlays[endpoint.network_id].welcome(endpoint.mac, link.peer)

    def connect(
        self, container_id: str, network_id: str, interface: str, addresses: Sequence[str], mac: str
    ) -> AttachedEndpoint:
        """Plug a container into a network with an address of each family, or of one."""
        space = self.containers[container_id]
        bridge = self.bridges.get(network_id)
        if bridge is not None:
            socket_of, master = self._node.route, self._node.route.index(bridge.bridge)
            subnets: tuple[str, ...] = (bridge.subnet, bridge.ipv6_subnet)
            gateways, mtu = (bridge.gateway, bridge.ipv6_gateway), bridge.mtu
        else:
            overlay = self.overlays.get(network_id)
            if overlay is None:
                raise NetworkError(f"network {network_id} is not known on this node")
            socket_of, master = overlay.socket, overlay.socket.index(BRIDGE)
            subnets, mtu = overlay.table.subnets(), overlay.table.mtu
            gateways = (overlay.ingress_gateway, overlay.ingress_ipv6_gateway)
        # Never the same twice: a former one may still be on its way out.
        name = short_name("sv", container_id, network_id, secrets.token_hex(8))
        mac = mac or mac_of(addresses[0])
        socket_of.batch(
            [nl.add_veth(name, interface, space.fd, mtu=mtu, master=master, peer_mac=mac)]
        )
        if bridge is not None:
            port = nl.set_port(socket_of.index(name), isolated=not bridge.talkative)
            socket_of.batch([port])
        made = _endpoint(network_id, interface, addresses, mac, subnets, gateways)
        _configure(space, made, subnets)
        if network_id in self.overlays:
            self.overlays[network_id].welcome(mac, socket_of.index(name))
        space.endpoints[network_id] = made
        return made

    def disconnect(self, container_id: str, network_id: str) -> None:
        """Unplug a container from one network."""
        space = self.containers[container_id]
        endpoint = space.endpoints.pop(network_id)
        self._part(endpoint)
        if space.way_out == endpoint:
            space.way_out = None
        link = space.route.link(endpoint.interface)
        if link is not None:
            space.route.batch([nl.remove_link(link.index)])

    def route_through(self, container_id: str, endpoint: AttachedEndpoint) -> None:
        """Make a network the way out."""
        space = self.containers[container_id]
        index = space.route.index(endpoint.interface)
        space.route.batch([nl.default_route(gateway, index) for gateway in endpoint.gateways()])
        space.way_out = endpoint

    def _part(self, endpoint: AttachedEndpoint) -> None:
        if endpoint.network_id in self.overlays:
            self.overlays[endpoint.network_id].part(endpoint.mac)

    def drop_container(self, container_id: str) -> None:
        """Let go of a container's namespace."""
        space = self.containers.pop(container_id, None)
        if space is not None:
            for endpoint in space.endpoints.values():
                self._part(endpoint)
            space.close()

    def listeners(self, container_id: str) -> tuple[socket.socket, socket.socket]:
        """Open the resolver's sockets in a container's namespace."""
        return netns.inside(self.containers[container_id].fd, open_listeners)

    def node_socket(
        self, kind: socket.SocketKind, family: socket.AddressFamily = socket.AF_INET
    ) -> socket.socket:
        """Open a non-blocking socket in the node's namespace."""
        return netns.inside(self._fd, lambda: socket.socket(family, kind | socket.SOCK_NONBLOCK))

    def hold(self, bindings: Sequence[PortBinding]) -> list[socket.socket]:
        """Hold a port of the node for all of `bindings` (see `publishing`)."""
        return hold(self._fd, bindings)

    # The plan

    def settle(self, desired: DesiredState) -> int:
        """Make every table, fdb and neighbour list as planned; return the number of changes."""
        changed = 0
        for network_id, state in desired.overlays.items():
            if network_id in self.overlays:
                changed += self.overlays[network_id].settle(state)
        for container_id, tables in desired.containers.items():
            space = self.containers.get(container_id)
            if space is not None:
                changed += space.rules.settle(tables.ipv4) + space.returns.settle(tables.returns)
                changed += space.settle_ipv6(tables.ipv6)
        return (
            changed
            + self._node.rules.settle(desired.node)
            + self._node.settle_ipv6(desired.ipv6_node)
        )

    def verify(self, desired: DesiredState) -> int:
        """Read the node's networks back, repair, and return how many things had drifted.

        Namespaces for containers to come are made by the way: this is nobody's hurry.
        """
        repaired = sum(self._ensure_bridge(spec) for spec in self.bridges.values())
        repaired += self._mend_ports()
        repaired += sum(
            overlay.ensure_links(self._node.route, self._fd, self._data_path, VXLAN_PORT)
            for overlay in self.overlays.values()
        )
        repaired += sum(
            self.overlays[key].verify(state)
            for key, state in desired.overlays.items()
            if key in self.overlays
        )
        repaired += self._node.verify_rules()
        self._spares.fill()
        return repaired

    def _mend_ports(self) -> int:
        """Plug containers into their bridges again; return how many were not."""
        links = {link.index: link for link in self._node.route.links().values()}
        mended = 0
        for space in self.containers.values():
            for network_id, endpoint in space.endpoints.items():
                bridge = self.bridges.get(network_id)
                inner = space.route.link(endpoint.interface)
                port = links.get(inner.peer) if bridge and inner else None
                if bridge is None or port is None:
                    continue
                plugged = mend_port(self._node.route, port, self._node.route.index(bridge.bridge))
                if plugged:
                    isolated = not bridge.talkative
                    self._node.route.batch([nl.set_port(port.index, isolated=isolated)])
                mended += plugged
        return mended

    def verify_container(self, container_id: str) -> int:
        """Read a container's namespace back, repair, and return how many things had drifted.

        What one did to itself holds the repairs of the others up for nothing.
        """
        space = self.containers.get(container_id)
        if space is None:
            return 0
        repaired = 0
        try:
            for endpoint in space.endpoints.values():
                repaired += mend_link(space.route, endpoint.interface, endpoint.places())
            if space.way_out is not None:
                out = space.way_out
                repaired += mend_way_out(space.route, out.interface, out.gateways())
            repaired += space.verify_rules()
        except OSError as error:
            _log.warning("container %s cannot be mended: %s", container_id[:12], error)
        return repaired

    def forget_dead(self, subnets: Mapping[str, frozenset[str]], turn: int) -> int:
        """Delete the connections of addresses that overlays no longer have; return how many.

        `subnets` are the overlays' and the addresses in use. A few namespaces in each turn: the
        kernel walks the connections of the whole machine for each.
        """
        spaces = [self._node, *self.containers.values()]
        first = turn * DEAD_LOOKS % len(spaces)
        looked = (spaces + spaces)[first : first + min(DEAD_LOOKS, len(spaces))]
        return sum(s.conntrack.forget_dead(subnets) for s in looked if s.conntrack.count())

    def connections(self, container_id: str, addresses: Iterable[str]) -> int:
        """Return how many TCP connections to these addresses of a container are open."""
        space = self.containers.get(container_id)
        if space is None or not space.conntrack.count():
            return 0
        return sum(space.conntrack.connections(address) for address in addresses)

    def forget(self, address: str, protocols: tuple[int, ...] = ()) -> int:
        """Delete the connection entries of a backend everywhere on this node."""
        spaces = [*self.containers.values(), self._node]
        # Counting first: a dump walks the whole machine's table even for an empty namespace.
        return sum(s.conntrack.forget(address, protocols) for s in spaces if s.conntrack.count())

    def forget_on_node(self, address: str, protocols: tuple[int, ...]) -> int:
        """Delete a backend's connection entries in the node's own namespace."""
        if not self._node.conntrack.count():
            return 0
        return self._node.conntrack.forget(address, protocols)

    def close(self, *, remove: bool) -> None:
        """Close all handles; with `remove` take links, tables and pins away too."""
        for container_id in list(self.containers):
            self.drop_container(container_id)
        self._spares.close()
        for overlay in self.overlays.values():
            overlay.close(remove=remove)
        self.overlays.clear()
        if remove:
            with contextlib.suppress(OSError):
                self._node.rules.settle(None)
                self._node.ipv6_rules.settle(None)
            for network_id in list(self.bridges):
                self.remove_bridge(network_id)
            self._remove_leg()
            # Pins of a former process whose tables never came back.
            for pin in self._pins.glob("*"):
                netns.unpin(pin)
        self._node.close()


def _permit(spec: BridgeNetwork, *, adopted: bool) -> None:
    # 127.0.0.1:PORT of a published port leads into the bridge.
    netns.write_sysctl(f"ipv4/conf/{spec.bridge}/route_localnet", 1)
    if spec.ipv6_subnet:
        if not (adopted and netns.was_told_off(spec.bridge)):
            netns.allow_ipv6(spec.bridge)
        netns.forward_ipv6()
    elif netns.has_ipv6():
        netns.write_sysctl(f"ipv6/conf/{spec.bridge}/disable_ipv6", 1)


def _endpoint(
    network_id: str,
    interface: str,
    addresses: Sequence[str],
    mac: str,
    subnets: Sequence[str],
    gateways: Sequence[str],
) -> AttachedEndpoint:
    ipv4, ipv6 = (next(iter(family.of(addresses)), "") for family in (IPV4, IPV6))
    subnets = [subnet for subnet in subnets if subnet]
    return AttachedEndpoint(
        network_id,
        interface,
        ipv4,
        prefix_of(subnets, ipv4) if ipv4 else 0,
        mac,
        gateways[0] if ipv4 else "",
        ipv6,
        prefix_of(subnets, ipv6) if ipv6 else 0,
        gateways[1] if ipv6 else "",
    )


def _configure(
    space: ContainerNamespace, endpoint: AttachedEndpoint, subnets: Sequence[str]
) -> None:
    """Bring an interface up with its addresses; other subnets of its network are on its link."""
    if endpoint.ipv6_address:
        netns.inside(space.fd, lambda: netns.allow_ipv6(endpoint.interface))
    index = space.route.index(endpoint.interface)
    messages = [nl.set_link(index, up=True)]
    messages += [nl.add_address(index, place) for place in endpoint.places()]
    messages += [
        nl.link_route(index, subnet, own)
        for family in (IPV4, IPV6)
        for own in family.of(endpoint.addresses())
        for subnet in family.of(subnets)
        if ip_address(own) not in ip_network(subnet)
    ]
    space.route.batch(messages)
