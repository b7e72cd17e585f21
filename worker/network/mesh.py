"""The routing mesh's ports on this node: where each is, and which tasks it leads to. Pure."""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final

from swarmapi.model.tables import NetworkTable, PublishedPort, ServiceEntry
from worker.network import nftexpr as nx
from worker.network.family import IPV4, IPV6, Family
from worker.network.local import serving_by_service

PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
ANYWHERE: Final = {IPV4: "0.0.0.0", IPV6: "::"}
HEADERS: Final = ("proxy-protocol", "proxy-protocol-v1")
"""Sources that no rule serves: a header tells the task who the client is."""
Links = Mapping[str, Iterable[str]]
"""The node's addresses, with prefix length or without, by link."""
Elements = dict[bytes, nx.Value]


@dataclass
class MeshElements:
    """What the sets and maps of one family hold."""

    mesh: Elements = field(default_factory=dict)
    targets: Elements = field(default_factory=dict)
    address_mesh: Elements = field(default_factory=dict)
    address_targets: Elements = field(default_factory=dict)
    snat: Elements = field(default_factory=dict)
    """Ports whose tasks see the node's address."""
    address_snat: Elements = field(default_factory=dict)
    balancers: set[tuple[str, int]] = field(default_factory=set)
    """(kind, how many tasks): a chain each."""

    def by_name(self) -> dict[str, Elements]:
        """Return the elements as the table's sets are called."""
        return {
            "mesh": self.mesh,
            "targets": self.targets,
            "address-mesh": self.address_mesh,
            "address-targets": self.address_targets,
            "snat": self.snat,
            "address-snat": self.address_snat,
        }


def is_at_places(tables: Mapping[str, NetworkTable]) -> bool:
    """Tell whether any port depends on the addresses that this node has."""
    services = (s for t in tables.values() if t.ingress for s in t.services.values())
    return any(_is_open(port.place) for service in services for port in service.ports)


def _is_open(place: str) -> bool:
    """Tell whether a place may be several addresses, or none."""
    return place.startswith("%") or ("/" in place and ip_network(place).num_addresses > 1)


def addresses_at(place: str, links: Links, family: Family) -> tuple[str, ...] | None:
    """Return this node's addresses of a family at a place; None for every one.

    A single address is taken as it is: where the node lacks it, nothing will match.
    """
    if not place:
        return None
    if place.startswith("%"):
        found = family.of(links.get(place[1:], ()))
        return tuple(sorted({one.partition("/")[0] for one in found}))
    if not family.of((place,)):
        return ()
    network = ip_network(place)
    if network.prefixlen == 0:
        return None
    if network.num_addresses == 1:
        return (str(network.network_address),)
    bare = {one.partition("/")[0] for own in links.values() for one in family.of(own)}
    return tuple(sorted(one for one in bare if ip_address(one) in network))


def port_key(protocol: str, port: int) -> bytes:
    """Return protocol and port as registers hold them."""
    return bytes([PROTOCOLS[protocol], 0, 0, 0]) + struct.pack(">H", port) + b"\0\0"


def target(address: str, port: int) -> bytes:
    """Return address and port as registers hold them."""
    return ip_address(address).packed + struct.pack(">H", port) + b"\0\0"


def mesh_elements(tables: Mapping[str, NetworkTable], family: Family, links: Links) -> MeshElements:
    """Return what leads from the node's ports to the tasks of one family."""
    made = MeshElements()
    for table in tables.values():
        if not table.ingress:
            continue
        groups = serving_by_service(table, families=(family,))
        for service in table.services.values():
            addresses = groups.get(service.service_id, ())
            for port in service.ports if addresses else ():
                if port.source in HEADERS:
                    continue
                _add_port(made, service, port, addresses, family, links)
    return made


def _add_port(
    made: MeshElements,
    service: ServiceEntry,
    port: PublishedPort,
    addresses: tuple[str, ...],
    family: Family,
    links: Links,
) -> None:
    own = addresses_at(port.place, links, family)
    key = port_key(port.protocol, port.published)
    keys = [key] if own is None else [family.pack(address) + key for address in own]
    mesh, targets, snat = (
        (made.mesh, made.targets, made.snat)
        if own is None
        else (made.address_mesh, made.address_targets, made.address_snat)
    )
    kind = ("sticky" if service.sticky else "mesh") + ("" if own is None else "-at")
    for one in keys:
        made.balancers.add((kind, len(addresses)))
        mesh[one] = f"{kind}-{len(addresses)}"
        if port.source == "snat":
            snat[one] = None
        for slot, address in enumerate(addresses):
            targets[one + struct.pack("=I", slot)] = target(address, port.target)


def mesh_shapes(family: Family) -> dict[str, nx.SetShape]:
    """Return how the sets and maps of a family are laid out."""
    service = nx.TYPE_PROTO << 6 | nx.TYPE_SERVICE
    at_address = family.address_type << 12 | service
    kind = family.address_type << 6 | nx.TYPE_SERVICE
    size = family.size
    return {
        "mesh": nx.SetShape((1, 2), verdicts=True, key_type=service),
        "targets": nx.SetShape(
            (1, 2, 4), size + 4, key_type=service << 6 | nx.TYPE_MARK, data_type=kind
        ),
        "address-mesh": nx.SetShape((size, 1, 2), verdicts=True, key_type=at_address),
        "address-targets": nx.SetShape(
            (size, 1, 2, 4), size + 4, key_type=at_address << 6 | nx.TYPE_MARK, data_type=kind
        ),
        "snat": nx.SetShape((1, 2), key_type=service),
        "address-snat": nx.SetShape((size, 1, 2), key_type=at_address),
    }


def balancer_chains(balancers: Iterable[tuple[str, int]], family: Family) -> dict[str, nx.Chain]:
    """Return the chain of each kind and number of tasks: it draws a slot and rewrites."""
    return {
        f"{kind}-{count}": nx.Chain((_balance(kind, count, family),))
        for kind, count in sorted(balancers)
    }


def _balance(kind: str, count: int, family: Family) -> nx.Rule:
    at_address = kind.endswith("-at")
    register = family.behind(nx.REG32_00) if at_address else nx.REG32_00
    slot = register + 2
    return nx.rule(
        family.load_destination(nx.REG32_00) if at_address else b"",
        nx.load_meta(register, nx.META_L4PROTO),
        nx.load_port(register + 1),
        family.source_slot(slot, count)
        if kind.startswith("sticky")
        else nx.random_slot(slot, count),
        nx.lookup("address-targets" if at_address else "targets", nx.REG32_00, nx.REG32_00),
        family.dnat(nx.REG32_00, family.behind(nx.REG32_00)),
    )


def snat_rules(family: Family, leaving: bytes) -> tuple[nx.Rule, ...]:
    """Return what gives flows that came to a port of `snat` an address of the node.

    `leaving` is what a packet on its way to a task matches.
    """
    behind = family.behind(nx.REG32_00)
    anywhere = (
        nx.load_meta(nx.REG32_00, nx.META_L4PROTO),
        nx.load_original(nx.REG32_01, nx.CT_PORT_DESTINATION),
        nx.lookup("snat", nx.REG32_00),
    )
    at_address = (
        nx.load_original(nx.REG32_00, family.asked_address),
        nx.load_meta(behind, nx.META_L4PROTO),
        nx.load_original(behind + 1, nx.CT_PORT_DESTINATION),
        nx.lookup("address-snat", nx.REG32_00),
    )
    return tuple(nx.rule(leaving, *found, nx.masquerade()) for found in (anywhere, at_address))
