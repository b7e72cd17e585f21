"""The node's own `ip swarm` table: routing mesh, published host ports, bridges. Pure."""

import struct
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

from swarmapi.model.tables import NetworkTable
from worker.network import nftexpr as nx
from worker.network.local import (
    INGRESS_LINK,
    TABLE,
    VXLAN_PORT,
    LocalBridge,
    LocalContainer,
    serving_by_service,
)

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_SLOTS = {"mesh": nx.random_slot, "sticky": nx.source_slot}
_LOCAL = struct.pack("=I", nx.RTN_LOCAL)


def node_table(
    node_id: str,
    tables: Mapping[str, NetworkTable],
    containers: Iterable[LocalContainer],
    bridges: Mapping[str, LocalBridge],
) -> nx.TableState:
    """Return the node's own `ip swarm` table: mesh, published host ports, bridges."""
    mesh, targets, balancers = _mesh_elements(tables)
    anywhere, at_address = _host_ports(containers)
    ingress = next((t for t in tables.values() if t.ingress), None)
    service_type = nx.TYPE_PROTO << 6 | nx.TYPE_SERVICE
    shapes = {
        "mesh": nx.SetShape((1, 2), verdicts=True, key_type=service_type),
        "targets": nx.SetShape(
            (1, 2, 4),
            data_size=8,
            key_type=service_type << 6 | nx.TYPE_MARK,
            data_type=nx.TYPE_IPV4 << 6 | nx.TYPE_SERVICE,
        ),
        "ports": nx.SetShape(
            (1, 2),
            data_size=8,
            key_type=service_type,
            data_type=nx.TYPE_IPV4 << 6 | nx.TYPE_SERVICE,
        ),
        "peers": nx.SetShape((4,)),
        "numbers": nx.SetShape((3,)),
        "address-ports": nx.SetShape(
            (4, 1, 2),
            data_size=8,
            key_type=nx.TYPE_IPV4 << 12 | service_type,
            data_type=nx.TYPE_IPV4 << 6 | nx.TYPE_SERVICE,
        ),
    }
    entry = _entry_rules()
    chains = {
        f"{kind}-{count}": nx.Chain(
            (
                nx.rule(
                    nx.load_meta(nx.REG32_00, nx.META_L4PROTO),
                    nx.load_port(nx.REG32_01),
                    _SLOTS[kind](nx.REG32_02, count),
                    nx.lookup("targets", nx.REG32_00, nx.REG32_00),
                    nx.dnat(nx.REG32_00, nx.REG32_01),
                ),
            )
        )
        for kind, count in sorted(balancers)
    }
    chains |= {
        # 5 before dstnat and srcnat: ahead of other programs' tables on the same hooks.
        "prerouting": nx.Chain(entry, "nat", nx.HOOK_PREROUTING, -105),
        "output": nx.Chain(entry, "nat", nx.HOOK_OUTPUT, -105),
        "postrouting": nx.Chain(
            _leaving_rules(node_id, ingress, bridges), "nat", nx.HOOK_POSTROUTING, 95
        ),
        "forward": nx.Chain(_forward_rules(bridges), "filter", nx.HOOK_FORWARD, -10),
    }
    peers, numbers = _underlay(tables)
    chains["input"] = nx.Chain((_foreign_rule(),), "filter", nx.HOOK_INPUT, -10)
    elements = {"peers": peers, "numbers": numbers}
    elements |= {"mesh": mesh, "targets": targets, "ports": anywhere, "address-ports": at_address}
    return nx.table(nx.FAMILY_IPV4, TABLE, chains, shapes, elements)


def _port_key(protocol: str, port: int) -> bytes:
    return bytes([PROTOCOLS[protocol], 0, 0, 0]) + struct.pack(">H", port) + b"\0\0"


def _target(address: str, port: int) -> bytes:
    return IPv4Address(address).packed + struct.pack(">H", port) + b"\0\0"


def _mesh_elements(
    tables: Mapping[str, NetworkTable],
) -> tuple[dict[bytes, nx.Value], dict[bytes, nx.Value], set[tuple[str, int]]]:
    mesh: dict[bytes, nx.Value] = {}
    targets: dict[bytes, nx.Value] = {}
    balancers: set[tuple[str, int]] = set()
    for table in tables.values():
        if not table.ingress:
            continue
        groups = serving_by_service(table)
        for service in table.services.values():
            addresses = groups.get(service.service_id, ())
            if not addresses:
                continue
            balancer = ("sticky" if service.sticky else "mesh", len(addresses))
            for port in service.ports:
                key = _port_key(port.protocol, port.published)
                mesh[key] = f"{balancer[0]}-{balancer[1]}"
                balancers.add(balancer)
                for slot, address in enumerate(addresses):
                    targets[key + struct.pack("=I", slot)] = _target(address, port.target)
    return mesh, targets, balancers


def _underlay(
    tables: Mapping[str, NetworkTable],
) -> tuple[dict[bytes, nx.Value], dict[bytes, nx.Value]]:
    """Return the addresses of the cluster's nodes and the numbers of its VXLANs."""
    nodes = {n.data_path for table in tables.values() for n in table.nodes.values()}
    peers: dict[bytes, nx.Value] = {IPv4Address(address).packed: None for address in nodes}
    numbers: dict[bytes, nx.Value] = {t.vni.to_bytes(3, "big"): None for t in tables.values()}
    return peers, numbers


def _foreign_rule() -> nx.Rule:
    """Drop what claims to be of our overlays and comes from no node; others' VXLANs may pass."""
    return nx.rule(
        nx.load_meta(nx.REG_1, nx.META_L4PROTO),
        nx.equal(nx.REG_1, bytes([PROTOCOLS["udp"]])),
        nx.load_port(nx.REG_1),
        nx.equal(nx.REG_1, struct.pack(">H", VXLAN_PORT)),
        nx.load_payload(nx.REG_1, 2, 12, 3),
        nx.lookup("numbers", nx.REG_1),
        nx.load_source(),
        nx.lookup("peers", nx.REG_1, inverted=True),
        nx.decide(nx.VERDICT_DROP),
    )


def _host_ports(
    containers: Iterable[LocalContainer],
) -> tuple[dict[bytes, nx.Value], dict[bytes, nx.Value]]:
    anywhere: dict[bytes, nx.Value] = {}
    at_address: dict[bytes, nx.Value] = {}
    for container in containers:
        for port in container.ports:
            key = _port_key(port.protocol, port.host_port)
            value = _target(container.port_address, port.container_port)
            if port.host_ip in ("", "0.0.0.0"):
                anywhere[key] = value
            else:
                at_address[IPv4Address(port.host_ip).packed + key] = value
    return anywhere, at_address


def _entry_rules() -> tuple[nx.Rule, ...]:
    local = nx.load_address_type(nx.REG_1, nx.FIB_DADDR) + nx.equal(nx.REG_1, _LOCAL)
    ports = nx.load_meta(nx.REG32_00, nx.META_L4PROTO) + nx.load_port(nx.REG32_01)
    rewrite = nx.dnat(nx.REG32_00, nx.REG32_01)
    return (
        nx.rule(
            local,
            nx.load_destination(nx.REG32_00),
            nx.load_meta(nx.REG32_01, nx.META_L4PROTO),
            nx.load_port(nx.REG32_02),
            nx.lookup("address-ports", nx.REG32_00, nx.REG32_00),
            rewrite,
        ),
        nx.rule(local, ports, nx.lookup("ports", nx.REG32_00, nx.REG32_00), rewrite),
        nx.rule(local, ports, nx.lookup("mesh", nx.REG32_00, nx.REG_VERDICT)),
    )


def _translated() -> bytes:
    return (
        nx.load_ct(nx.REG_1, nx.CT_STATUS)
        + nx.masked(nx.REG_1, struct.pack("=I", nx.CT_STATUS_DNAT))
        + nx.differs(nx.REG_1, b"\0\0\0\0")
    )


def _from_subnet(subnet: str) -> bytes:
    network = IPv4Network(subnet)
    return (
        nx.load_source()
        + nx.masked(nx.REG_1, network.netmask.packed)
        + nx.equal(nx.REG_1, network.network_address.packed)
    )


def _into(name: str) -> bytes:
    return nx.load_meta(nx.REG_1, nx.META_OIFNAME) + nx.equal(nx.REG_1, nx.interface_name(name))


def _not_into(name: str) -> bytes:
    return nx.load_meta(nx.REG_1, nx.META_OIFNAME) + nx.differs(nx.REG_1, nx.interface_name(name))


def _out_of(name: str) -> bytes:
    return nx.load_meta(nx.REG_1, nx.META_IIFNAME) + nx.equal(nx.REG_1, nx.interface_name(name))


def _not_out_of(name: str) -> bytes:
    return nx.load_meta(nx.REG_1, nx.META_IIFNAME) + nx.differs(nx.REG_1, nx.interface_name(name))


def _from_this_node() -> bytes:
    return nx.load_address_type(nx.REG_1, nx.FIB_SADDR) + nx.equal(nx.REG_1, _LOCAL)


def _leaving_rules(
    node_id: str, ingress: NetworkTable | None, bridges: Mapping[str, LocalBridge]
) -> tuple[nx.Rule, ...]:
    rules: list[nx.Rule] = []
    for bridge in sorted(bridges.values(), key=lambda b: b.bridge):
        # A neighbour's answer would bypass the node, and 127.0.0.1 cannot be answered at all.
        rules.append(
            nx.rule(_translated(), _into(bridge.bridge), _from_this_node(), nx.masquerade())
        )
        rules.append(
            nx.rule(
                _translated(), _into(bridge.bridge), _from_subnet(bridge.subnet), nx.masquerade()
            )
        )
        if bridge.masquerade and not bridge.internal:
            rules.append(
                nx.rule(_from_subnet(bridge.subnet), _not_into(bridge.bridge), nx.masquerade())
            )
    if ingress is not None:
        rules.append(
            nx.rule(_translated(), _into(INGRESS_LINK), _from_this_node(), nx.masquerade())
        )
        node = ingress.nodes.get(node_id)
        if node is not None and node.mesh_ports != (0, 0):
            low, high = (struct.pack(">H", port) for port in node.mesh_ports)
            rules.append(
                # The address stays; disjoint port ranges keep two ingress nodes' flows apart.
                nx.rule(
                    _translated(),
                    _into(INGRESS_LINK),
                    nx.load_source(),
                    nx.immediate(2, low),
                    nx.immediate(3, high),
                    nx.snat(nx.REG_1, 2, 3),
                )
            )
        rules.append(
            nx.rule(_from_subnet(ingress.subnet), _not_into(INGRESS_LINK), nx.masquerade())
        )
    return tuple(rules)


def _forward_rules(bridges: Mapping[str, LocalBridge]) -> tuple[nx.Rule, ...]:
    ordered = sorted(bridges.values(), key=lambda b: b.bridge)
    drop, accept = nx.decide(nx.VERDICT_DROP), nx.decide(nx.VERDICT_ACCEPT)
    rules: list[nx.Rule] = []
    for bridge in ordered:
        if bridge.internal:
            rules.append(nx.rule(_out_of(bridge.bridge), _not_into(bridge.bridge), drop))
            rules.append(nx.rule(_into(bridge.bridge), _not_out_of(bridge.bridge), drop))
    known = (
        nx.load_ct(nx.REG_1, nx.CT_STATE)
        + nx.masked(nx.REG_1, struct.pack("=I", nx.CT_STATE_ESTABLISHED_RELATED))
        + nx.differs(nx.REG_1, b"\0\0\0\0")
    )
    rules += [nx.rule(known, accept), nx.rule(_translated(), accept)]
    # Only its own members and published ports reach a bridge.
    rules += [nx.rule(_into(b.bridge), _not_out_of(b.bridge), drop) for b in ordered]
    return tuple(rules)
