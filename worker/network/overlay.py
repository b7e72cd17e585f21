"""One overlay network on this node: a namespace of its own with a bridge and a VXLAN.

The VXLAN is made in the node's namespace, where its underlay socket stays, and moved: node
firewall rules and br_netfilter never see bridged overlay traffic.
"""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

from swarmapi.model.tables import NetworkTable
from worker.network import netlink as nl
from worker.network import netns
from worker.network.attachments import NetworkError, mac_of
from worker.network.drift import mend_link, mend_port, mend_stations
from worker.network.family import IPV6
from worker.network.local import INGRESS_LINK
from worker.network.plan import OverlayState

BRIDGE = "br0"


def short_name(prefix: str, *parts: str) -> str:
    """Return an interface name of at most 15 bytes derived from `parts`."""
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return (prefix + digest)[:15]


def prefix_of(subnets: Iterable[str], address: str) -> int:
    """Return the prefix length of the subnet an address is in; NetworkError if in none."""
    for subnet in subnets:
        if ip_address(address) in ip_network(subnet):
            return int(subnet.partition("/")[2])
    raise NetworkError(f"address {address} is in no subnet of its network")


class Overlay:
    """The kernel objects of one overlay. All methods run on the network thread."""

    def __init__(self, table: NetworkTable, pin: Path) -> None:
        self.table = table
        self._pin = pin
        self.netns_fd = -1
        self.ingress_gateway = ""
        self.ingress_ipv6_gateway = ""
        self.vxlan = f"vxlan{table.vni}"
        self._applied: OverlayState | None = None
        self.members: dict[str, int] = {}
        """MACs of this node's containers and the bridge's ports they are behind."""
        self.route: nl.RouteSocket | None = None

    def open(self, node: nl.RouteSocket, node_fd: int, data_path: str, port: int) -> None:
        """Adopt the pinned namespace or make a new one.

        Raises NetworkError when the VXLAN cannot be made.
        """
        fd = netns.open_pinned(self._pin)
        pinned = fd is not None
        self._use(netns.create() if fd is None else fd)
        try:
            self.ensure_links(node, node_fd, data_path, port)
            if not pinned:
                netns.pin(self.netns_fd, self._pin)
        except OSError as error:
            self.close(remove=not pinned)  # what was adopted has tasks on it
            raise NetworkError(f"network {self.table.name}: {error}") from error

    def _use(self, fd: int) -> None:
        self.netns_fd = fd
        self.route = netns.inside(fd, nl.RouteSocket)

    @property
    def socket(self) -> nl.RouteSocket:
        """The rtnetlink socket inside the overlay's namespace."""
        if self.route is None:
            raise NetworkError(f"network {self.table.name} is not open on this node")
        return self.route

    def ensure_links(self, node: nl.RouteSocket, node_fd: int, data_path: str, port: int) -> int:
        """Make the links that are missing and return how many."""
        links = self.socket.links()
        made = 0
        if BRIDGE not in links:
            self._make_bridge(links)
            made += 1
        vxlan = links.get(self.vxlan)
        bridge = self.socket.index(BRIDGE)
        if vxlan is not None and vxlan.mtu != self.table.mtu:
            self.socket.batch([nl.remove_link(vxlan.index)])
            vxlan = None
        if vxlan is None:
            self._make_vxlan(node, bridge, data_path, port)
            made += 1
        made += sum(
            mend_port(self.socket, link, bridge)
            for link in links.values()
            if link.index not in (1, bridge) and BRIDGE in links
        )
        if self.table.ingress:
            made += self._ensure_ingress_leg(node, node_fd, bridge)
        return made

    def _ensure_ingress_leg(self, node: nl.RouteSocket, node_fd: int, bridge: int) -> int:
        if node.link(INGRESS_LINK) is None:
            self._make_ingress_leg(node, node_fd, bridge)
            return 1
        return mend_link(node, INGRESS_LINK, self._leg_places())

    def _leg_places(self) -> list[str]:
        own = filter(None, (self.ingress_gateway, self.ingress_ipv6_gateway))
        return [f"{address}/{prefix_of(self.table.subnets(), address)}" for address in own]

    def _make_bridge(self, links: Mapping[str, nl.Link]) -> None:
        def prepare() -> None:
            for family in ("iptables", "ip6tables", "arptables"):
                # Absent where br_netfilter is not loaded.
                with contextlib.suppress(FileNotFoundError):
                    netns.write_sysctl(f"bridge/bridge-nf-call-{family}", 0)

        netns.inside(self.netns_fd, prepare)
        self.socket.batch([nl.set_link(1, up=True), nl.add_bridge(BRIDGE, self.table.mtu)])
        bridge = self.socket.index(BRIDGE)
        # Members of a bridge that somebody deleted.
        orphans = [link.index for link in links.values() if link.index != 1]
        self.socket.batch([nl.set_link(index, up=True, master=bridge) for index in orphans])

    def _make_vxlan(self, node: nl.RouteSocket, bridge: int, data_path: str, port: int) -> None:
        table = self.table
        temporary = short_name("swx", table.network_id, str(table.vni))
        stale = node.link(temporary)
        if stale is not None:
            node.batch([nl.remove_link(stale.index)])
        node.batch([nl.add_vxlan(temporary, table.vni, data_path, port, table.mtu)])
        made = node.index(temporary)
        try:
            node.batch([nl.move_link(made, self.netns_fd)])
        except OSError:
            node.batch([nl.remove_link(made)])
            raise
        moved = self.socket.index(temporary)
        self.socket.batch(
            [nl.rename_link(moved, self.vxlan), nl.set_link(moved, up=True, master=bridge)]
        )
        if IPV6.of(table.subnets()):
            # A link without IPv6 can have no neighbours of it.
            netns.inside(self.netns_fd, lambda: netns.allow_ipv6(self.vxlan, local=False))

    def _make_ingress_leg(self, node: nl.RouteSocket, node_fd: int, bridge: int) -> None:
        gateway = self.ingress_gateway
        self.socket.batch(
            [
                nl.add_veth(
                    short_name("gw", secrets.token_hex(8)),
                    INGRESS_LINK,
                    node_fd,
                    mtu=self.table.mtu,
                    master=bridge,
                    peer_mac=mac_of(gateway),
                )
            ]
        )

        def permit() -> None:
            if self.ingress_ipv6_gateway and not netns.ipv6_is_off("all"):
                netns.allow_ipv6(INGRESS_LINK)
                netns.forward_ipv6()
            # 127.0.0.1:PORT of the node itself leads into the overlay.
            netns.write_sysctl(f"ipv4/conf/{INGRESS_LINK}/route_localnet", 1)
            # Clients' addresses come back this way: loose reverse path check.
            netns.write_sysctl(f"ipv4/conf/{INGRESS_LINK}/rp_filter", 2)
            netns.write_sysctl(f"ipv4/conf/{INGRESS_LINK}/send_redirects", 0)

        netns.inside(node_fd, permit)
        leg = node.index(INGRESS_LINK)
        node.batch(
            [nl.set_link(leg, up=True)]
            + [nl.add_address(leg, place) for place in self._leg_places()],
            ignore=(errno.EACCES,),  # of a node that is to have no IPv6
        )

    def settle(self, desired: OverlayState) -> int:
        """Like `verify`, unless `desired` is what was applied last."""
        return 0 if self._applied is desired else self.verify(desired)

    def verify(self, desired: OverlayState) -> int:
        """Make fdb and neighbours equal to `desired` and return how many entries changed."""
        self._applied = None
        vxlan = self.socket.index(self.vxlan)
        fdb, neighbours = self.socket.fdb(vxlan), self.socket.neighbours(vxlan)
        messages = [nl.fdb_entry(vxlan, mac, node, remove=True) for mac, node in fdb - desired.fdb]
        messages += [
            nl.neighbour(vxlan, address, mac, remove=True)
            for address, mac in neighbours - desired.neighbours
        ]
        messages += [nl.fdb_entry(vxlan, mac, node) for mac, node in desired.fdb - fdb]
        messages += [nl.neighbour(vxlan, a, mac) for a, mac in desired.neighbours - neighbours]
        self.socket.batch(messages)
        stations = {**self.members, **{mac: vxlan for mac, _ in desired.fdb}}
        changed = len(messages) + mend_stations(self.socket, stations)
        self._applied = desired
        return changed

    def welcome(self, mac: str, port: int) -> None:
        """Find a local container's MAC behind a port of the bridge from now on."""
        self.members[mac] = port
        self.socket.batch([nl.bridge_station(port, mac)])

    def part(self, mac: str) -> None:
        """Look for a MAC no more behind the port it had here."""
        port = self.members.pop(mac, None)
        if port is not None:
            gone = nl.bridge_station(port, mac, remove=True)
            self.socket.batch([gone], ignore=(errno.ENOENT, errno.ENODEV, errno.EINVAL))

    def close(self, *, remove: bool) -> None:
        """Let go; with `remove` the namespace and all in it disappear."""
        if self.route is not None:
            if remove:
                self._remove_vxlan(self.route)
            self.route.close()
            self.route = None
        if self.netns_fd >= 0:
            os.close(self.netns_fd)
            self.netns_fd = -1
        if remove:
            netns.unpin(self._pin)

    def _remove_vxlan(self, route: nl.RouteSocket) -> None:
        """Delete the VXLAN now: with its namespace it would go later, and its id be taken still."""
        with contextlib.suppress(OSError):
            link = route.link(self.vxlan)
            if link is not None:
                route.batch([nl.remove_link(link.index)])
