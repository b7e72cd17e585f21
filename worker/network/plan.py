"""What this node's kernel and name service must hold, from endpoint tables alone. Pure.

A container's namespace has the table `swarm`: VIPs are rewritten in its own output hook by
one chain per replica count and a shared map (vip . slot), so a service costs elements only.
"""

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import NamedTuple

from swarmapi.model.tables import NetworkTable, ServiceEntry
from worker.network import nftexpr as nx
from worker.network.attachments import mac_of
from worker.network.carried import Front, Way, carried_ports
from worker.network.family import IPV4, IPV6, Family
from worker.network.local import (
    DNS_ADDRESS,
    DNS_PORT,
    TABLE,
    LocalBridge,
    LocalContainer,
    serving_by_service,
)
from worker.network.mesh import Links
from worker.network.node_table import ipv6_node_table, node_table, underlay

_TCP = bytes([6])


@dataclass(frozen=True)
class OverlayState:
    """One overlay's forwarding on this node."""

    fdb: frozenset[tuple[str, str]]
    """(MAC, underlay address of its node)."""
    neighbours: frozenset[tuple[str, str]]
    """(address, MAC); addresses of both families."""


@dataclass(frozen=True)
class Names:
    """What one container may ask: names and addresses are lower case, without a final dot."""

    forward: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reverse: Mapping[str, str] = field(default_factory=dict)


class ContainerTables(NamedTuple):
    """The tables of one container's namespace."""

    ipv4: nx.TableState
    returns: nx.TableState | None
    """Of `netdev`, on the ingress network."""
    ipv6: nx.TableState | None
    """None without an IPv6 address."""


@dataclass(frozen=True)
class DesiredState:
    """All this node must hold."""

    overlays: Mapping[str, OverlayState]
    containers: Mapping[str, ContainerTables]
    node: nx.TableState
    ipv6_node: nx.TableState | None
    names: Mapping[str, Names]
    carried: Mapping[Front, Way]


class _NodeState(NamedTuple):
    used: object
    ipv4: nx.TableState
    ipv6: nx.TableState | None
    carried: Mapping[Front, Way]


_Shape = tuple[bool, tuple[tuple[str, str], ...]]
"""What a container's tables depend on: has it IPv6, and its networks with the interface to each."""


class Planner:
    """Plans, and remembers what did not change: an update costs what it touches.

    Tables are immutable; a table is unchanged when it is the same object as before. Containers
    on the same networks, as a service's replicas are, share what is planned for one of them.
    """

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._overlays: dict[str, tuple[NetworkTable, OverlayState]] = {}
        self._containers: dict[_Shape, tuple[object, ContainerTables]] = {}
        self._names: dict[str, tuple[object, Names]] = {}
        self._node: _NodeState | None = None

    def plan(
        self,
        tables: Mapping[str, NetworkTable],
        containers: Iterable[LocalContainer],
        bridges: Mapping[str, LocalBridge],
        links: Links = MappingProxyType({}),
    ) -> DesiredState:
        """Return the desired state; tables of networks without a local container count too.

        `links` are needed only where `is_at_places` says so.
        """
        local = {c.container_id: c for c in containers}
        self._overlays = {key: self._overlay(table) for key, table in tables.items()}
        shapes = {_shape(c): c for c in local.values()}
        self._containers = {key: self._container(tables, key, c) for key, c in shapes.items()}
        members: dict[str, list[LocalContainer]] = {}
        for container in local.values():
            for network_id in container.networks:
                members.setdefault(network_id, []).append(container)
        domains = {key: bridge.name for key, bridge in bridges.items()}
        self._names = {
            key: self._network(tables.get(key), key, domains.get(key, ""), found)
            for key, found in members.items()
        }
        merged = {
            networks: _merged([self._names[network_id][1] for network_id in networks])
            for networks in {tuple(c.networks) for c in local.values()}
        }
        here = self._node = self._node_state(tables, local.values(), bridges, links)
        return DesiredState(
            overlays={key: state for key, (_, state) in self._overlays.items()},
            containers={key: self._containers[_shape(c)][1] for key, c in local.items()},
            node=here.ipv4,
            ipv6_node=here.ipv6,
            carried=here.carried,
            names={key: self._linked(c, merged[tuple(c.networks)]) for key, c in local.items()},
        )

    def _node_state(
        self,
        tables: Mapping[str, NetworkTable],
        containers: Collection[LocalContainer],
        bridges: Mapping[str, LocalBridge],
        links: Links,
    ) -> "_NodeState":
        """Return what is the node's own, of which most containers change nothing."""
        publishing = [(c.ports, c.port_address, c.ipv6_port_address) for c in containers if c.ports]
        used: list[tuple[str, NetworkTable | None, object]] = [
            (k, t, 0) for k, t in tables.items() if t.ingress
        ]
        used.append(("", None, (publishing, dict(bridges), dict(links), underlay(tables))))
        if self._node is not None and _same(self._node.used, used):
            return self._node
        return _NodeState(
            used,
            node_table(self._node_id, tables, containers, bridges, links=links),
            ipv6_node_table(self._node_id, tables, containers, bridges, links),
            carried_ports(tables, links),
        )

    def _linked(self, container: LocalContainer, names: Names) -> Names:
        """Return the names of a container's networks with the aliases of its links."""
        aliases: dict[str, tuple[str, ...]] = {}
        for network_id, links in container.links.items():
            there = self._names[network_id][1].forward
            for name, alias in links:
                known = aliases.get(alias.lower(), ())
                aliases[alias.lower()] = known + there.get(name.lower(), ())
        found = {alias: addresses for alias, addresses in aliases.items() if addresses}
        return Names({**names.forward, **found}, names.reverse) if found else names

    def _overlay(self, table: NetworkTable) -> tuple[NetworkTable, OverlayState]:
        known = self._overlays.get(table.network_id)
        if known is not None and known[0] is table:
            return known
        return table, overlay_state(self._node_id, table)

    def _container(
        self, tables: Mapping[str, NetworkTable], shape: _Shape, container: LocalContainer
    ) -> tuple[object, ContainerTables]:
        used = [(key, tables.get(key), 0) for key in container.networks]
        known = self._containers.get(shape)
        if known is not None and _same(known[0], used):
            return known
        return used, ContainerTables(
            container_table(tables, container),
            return_table(tables, container),
            container_table(tables, container, IPV6) if container.has_ipv6() else None,
        )

    def _network(
        self,
        table: NetworkTable | None,
        network_id: str,
        domain: str,
        members: list[LocalContainer],
    ) -> tuple[object, Names]:
        used = [
            (network_id, table, (m.networks[network_id], m.names.get(network_id, ())))
            for m in members
        ]
        known = self._names.get(network_id)
        if known is not None and _same(known[0], used):
            return known
        return used, network_names(table, network_id, members, domain)


def _shape(container: LocalContainer) -> _Shape:
    interfaces = tuple((key, place[0]) for key, place in container.networks.items())
    return container.has_ipv6(), interfaces


def _same(old: object, new: Sequence[tuple[str, NetworkTable | None, object]]) -> bool:
    return (
        isinstance(old, list)
        and len(old) == len(new)
        and all(
            a[0] == b[0] and a[1] is b[1] and a[2] == b[2] for a, b in zip(old, new, strict=True)
        )
    )


def _merged(parts: list[Names]) -> Names:
    if len(parts) == 1:
        return parts[0]
    forward: dict[str, tuple[str, ...]] = {}
    reverse: dict[str, str] = {}
    for part in parts:
        for name, addresses in part.forward.items():
            _add(forward, name, addresses)
        reverse.update(part.reverse)
    return Names(forward, reverse)


def overlay_state(node_id: str, table: NetworkTable) -> OverlayState:
    """Return where the overlay's remote addresses are; withdrawn ones still have flows."""
    fdb, neighbours = set(), set()
    remote = [(e.addresses(), e.node_id) for e in table.endpoints.values()]
    remote += [((n.gateway, n.ipv6_gateway), n.node_id) for n in table.nodes.values()]
    for addresses, owner in remote:
        node = table.nodes.get(owner)
        if owner == node_id or node is None or not (addresses and addresses[0]):
            continue
        mac = mac_of(addresses[0])
        fdb.add((mac, node.data_path))
        neighbours |= {(address, mac) for address in addresses if address}
    return OverlayState(frozenset(fdb), frozenset(neighbours))


def container_table(
    tables: Mapping[str, NetworkTable], container: LocalContainer, family: Family = IPV4
) -> nx.TableState:
    """Return a family's table of a container's namespace."""
    vips: dict[bytes, nx.Value] = {}
    backends: dict[bytes, nx.Value] = {}
    silent: dict[bytes, nx.Value] = {}
    balancers: set[tuple[str, int]] = set()
    for network_id in container.networks:
        table = tables.get(network_id)
        if table is None or table.ingress:
            continue
        groups = serving_by_service(table, families=(family,))
        for service in table.services.values():
            virtual = family.of(service.vips())
            if not virtual:
                continue
            addresses = groups.get(service.service_id, ())
            vip = family.pack(virtual[0])
            if not addresses:
                silent[vip] = None
                continue
            balancer = ("sticky" if service.sticky else "lb", len(addresses))
            balancers.add(balancer)
            vips[vip] = f"{balancer[0]}-{balancer[1]}"
            for slot, address in enumerate(addresses):
                backends[vip + struct.pack("=I", slot)] = family.pack(address)
    chains, gateways = _vip_chains(balancers, family), _gateways(tables, container)
    chains |= _return_chains(tables, container)
    marks: dict[bytes, nx.Value] = {
        bytes.fromhex(mac_of(g).replace(":", "")): _mark(g) for g in gateways
    }
    shapes = {
        "vips": nx.SetShape((family.size,), verdicts=True, key_type=family.address_type),
        "backends": nx.SetShape(
            (family.size, 4),
            data_size=family.size,
            key_type=family.address_type << 6 | nx.TYPE_MARK,
            data_type=family.address_type,
        ),
        "silent": nx.SetShape((family.size,), key_type=family.address_type),
        "gateways": nx.SetShape((6,), data_size=4, key_type=nx.TYPE_ETHER, data_type=nx.TYPE_MARK),
    }
    elements = {"vips": vips, "backends": backends, "silent": silent, "gateways": marks}
    return nx.table(family.number, TABLE, chains, shapes, elements)


def _vip_chains(balancers: Iterable[tuple[str, int]], family: Family) -> dict[str, nx.Chain]:
    slot = family.behind(nx.REG32_00)
    balance = {
        f"{kind}-{count}": nx.Chain(
            (
                nx.rule(
                    family.load_destination(nx.REG32_00),
                    family.source_slot(slot, count)
                    if kind == "sticky"
                    else nx.random_slot(slot, count),
                    nx.lookup("backends", nx.REG32_00, nx.REG_1),
                    family.dnat(nx.REG_1),
                ),
            )
        )
        for kind, count in sorted(balancers)
    }
    pick = nx.rule(family.load_destination(), nx.lookup("vips", nx.REG_1, nx.REG_VERDICT))
    is_silent = family.load_destination() + nx.lookup("silent", nx.REG_1)
    refuse = (
        nx.rule(
            is_silent,
            nx.load_meta(nx.REG_1, nx.META_L4PROTO),
            nx.equal(nx.REG_1, _TCP),
            nx.reject_with_reset(),
        ),
        nx.rule(is_silent, family.reject()),
    )
    return balance | {
        "output": nx.Chain((*_to_resolver(family), pick), "nat", nx.HOOK_OUTPUT, -100),
        "refuse": nx.Chain(refuse, "filter", nx.HOOK_OUTPUT, 0),
    }


def _to_resolver(family: Family) -> tuple[nx.Rule, ...]:
    if family is not IPV4:  # whose loopback the resolver is on
        return ()
    resolver = family.pack(DNS_ADDRESS)
    return tuple(
        nx.rule(
            family.load_destination(),
            nx.equal(nx.REG_1, resolver),
            nx.load_meta(nx.REG_1, nx.META_L4PROTO),
            nx.equal(nx.REG_1, bytes([protocol])),
            nx.load_port(nx.REG_1),
            nx.equal(nx.REG_1, struct.pack(">H", 53)),
            nx.immediate(nx.REG_1, resolver),
            nx.immediate(2, struct.pack(">H", DNS_PORT)),
            family.dnat(nx.REG_1, 2),
        )
        for protocol in (6, 17)
    )


def _ingress(
    tables: Mapping[str, NetworkTable], container: LocalContainer
) -> tuple[NetworkTable, str] | None:
    for network_id, (interface, *_) in container.networks.items():
        table = tables.get(network_id)
        if table is not None and table.ingress:
            return table, interface
    return None


def _gateways(tables: Mapping[str, NetworkTable], container: LocalContainer) -> list[str]:
    found = _ingress(tables, container)
    return [] if found is None else sorted(n.gateway for n in found[0].nodes.values() if n.gateway)


def _mark(gateway: str) -> bytes:
    # The gateway's own number: unique without an allocation.
    return struct.pack("=I", int(IPv4Address(gateway)))


def _return_chains(
    tables: Mapping[str, NetworkTable], container: LocalContainer
) -> dict[str, nx.Chain]:
    """Return the chains that remember which ingress node delivered a flow."""
    found = _ingress(tables, container)
    if found is None:
        return {}
    arrive = nx.rule(
        nx.load_meta(nx.REG_1, nx.META_IIFNAME),
        nx.equal(nx.REG_1, nx.interface_name(found[1])),
        nx.load_ct(nx.REG_1, nx.CT_DIRECTION),
        nx.equal(nx.REG_1, b"\0"),
        nx.load_ct(nx.REG_1, nx.CT_STATE),
        nx.masked(nx.REG_1, struct.pack("=I", nx.CT_STATE_NEW)),
        nx.differs(nx.REG_1, b"\0\0\0\0"),
        nx.load_payload(nx.REG_1, 0, 6, 6),
        nx.lookup("gateways", nx.REG_1, nx.REG_1),
        nx.store_ct(nx.REG_1, nx.CT_MARK),
    )
    leave = nx.rule(
        nx.load_ct(nx.REG_1, nx.CT_DIRECTION),
        nx.equal(nx.REG_1, b"\1"),
        nx.load_ct(nx.REG_1, nx.CT_MARK),
        nx.store_meta(nx.REG_1, nx.META_MARK),
    )
    return {
        "arrive": nx.Chain((arrive,), "filter", nx.HOOK_PREROUTING, -150),
        "leave": nx.Chain((leave,), "filter", nx.HOOK_OUTPUT, -150),
    }


def return_table(
    tables: Mapping[str, NetworkTable], container: LocalContainer
) -> nx.TableState | None:
    """Return the `netdev swarm` table that sends replies to the MAC their flow came from."""
    found = _ingress(tables, container)
    if found is None:
        return None
    elements: dict[bytes, nx.Value] = {
        _mark(g): bytes.fromhex(mac_of(g).replace(":", "")) for g in _gateways(tables, container)
    }
    answer = nx.rule(
        nx.load_meta(nx.REG_1, nx.META_MARK),
        nx.lookup("macs", nx.REG_1, nx.REG_1),
        nx.store_payload(nx.REG_1, 0, 0, 6),
    )
    return nx.table(
        nx.FAMILY_NETDEV,
        TABLE,
        {"answer": nx.Chain((answer,), "filter", nx.HOOK_NETDEV_EGRESS, 0, found[1])},
        {"macs": nx.SetShape((4,), data_size=6, key_type=nx.TYPE_MARK, data_type=nx.TYPE_ETHER)},
        {"macs": elements},
    )


def network_names(
    table: NetworkTable | None,
    network_id: str,
    members: Iterable[LocalContainer],
    domain: str = "",
) -> Names:
    """Return the names of one network; VIPs and addresses are those of the nft maps.

    Members answer to `name` and, where there is a `domain`, to `name.domain`.
    """
    forward: dict[str, tuple[str, ...]] = {}
    reverse: dict[str, str] = {}
    if table is not None and not table.ingress:
        _overlay_names(table, forward, reverse)
    told = frozenset(forward)  # what the managers say of a name is all of it
    for member in members:
        _member_names(network_id, member, domain, forward, reverse, told)
    return Names(forward, reverse)


def _member_names(
    network_id: str,
    member: LocalContainer,
    domain: str,
    forward: dict[str, tuple[str, ...]],
    reverse: dict[str, str],
    told: Collection[str],
) -> None:
    addresses = member.networks[network_id][1:]
    names = [name for name in member.names.get(network_id, ()) if name.lower() not in told]
    suffix = f".{domain}" if domain else ""
    for name in [*names, *(name + suffix for name in names if suffix)]:
        _add(forward, name.lower(), addresses)
    for address in addresses if names else ():
        reverse.setdefault(address, names[0] + suffix)


def _add(forward: dict[str, tuple[str, ...]], name: str, addresses: Iterable[str]) -> None:
    have = forward.get(name, ())
    forward[name] = have + tuple(a for a in addresses if a not in have)


def _overlay_names(
    table: NetworkTable, forward: dict[str, tuple[str, ...]], reverse: dict[str, str]
) -> None:
    groups = serving_by_service(table, families=(IPV4, IPV6))

    def add(name: str, addresses: tuple[str, ...]) -> None:
        for full in (name, f"{name}.{table.name}"):
            _add(forward, full.lower(), addresses)

    for service in sorted(table.services.values(), key=lambda s: s.service_id):
        addresses = groups.get(service.service_id, ())
        for name in _service_names(service):
            add(name, _offered(service, addresses))
            add(f"tasks.{name}", addresses)
        for vip in service.vips():
            reverse[vip] = f"{service.name}.{table.name}"
    for endpoint in table.endpoints.values():
        for name in endpoint.aliases:
            add(name, endpoint.addresses())
        if endpoint.name:
            add(endpoint.name, endpoint.addresses())
            for address in endpoint.addresses():
                reverse[address] = f"{endpoint.name}.{table.name}"


def _offered(service: ServiceEntry, addresses: Sequence[str]) -> tuple[str, ...]:
    """Return what a service's name stands for: no VIP of a family that only others' tasks lack.

    A client that is told of one would be refused, and not every client asks for the other then.
    """
    vips, families = service.vips(), {":" in address for address in addresses}
    return tuple(v for v in vips if (":" in v) in families) or vips or tuple(addresses)


def _service_names(service: ServiceEntry) -> tuple[str, ...]:
    return tuple(dict.fromkeys((service.name, *service.aliases)))
