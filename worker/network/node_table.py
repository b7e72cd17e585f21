"""The node's own `ip` and `ip6` tables: routing mesh, published host ports, bridges. Pure."""

import struct
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from types import MappingProxyType

from swarmapi.model.tables import NetworkTable
from worker.network import nftexpr as nx
from worker.network.family import IPV4, IPV6, Family
from worker.network.local import (
    INGRESS_LINK,
    LOOPBACK,
    TABLE,
    VXLAN_PORT,
    LocalBridge,
    LocalContainer,
)
from worker.network.mesh import (
    ANYWHERE,
    PROTOCOLS,
    Links,
    balancer_chains,
    mesh_elements,
    mesh_shapes,
    port_key,
    snat_rules,
    target,
)

_LOCAL = struct.pack("=I", nx.RTN_LOCAL)


def node_table(
    node_id: str,
    tables: Mapping[str, NetworkTable],
    containers: Iterable[LocalContainer],
    bridges: Mapping[str, LocalBridge],
    family: Family = IPV4,
    links: Links = MappingProxyType({}),
) -> nx.TableState:
    """Return the node's own table of a family: mesh, published host ports, bridges."""
    mesh = mesh_elements(tables, family, links)
    anywhere, at_address = _host_ports(containers, family)
    ingress = next((t for t in tables.values() if t.ingress), None)
    service_type = nx.TYPE_PROTO << 6 | nx.TYPE_SERVICE

    def leading(key_sizes: tuple[int, ...], key_type: int) -> nx.SetShape:
        kind = family.address_type << 6 | nx.TYPE_SERVICE
        return nx.SetShape(key_sizes, family.size + 4, key_type=key_type, data_type=kind)

    shapes = {
        **mesh_shapes(family),
        "ports": leading((1, 2), service_type),
        "address-ports": leading((family.size, 1, 2), family.address_type << 12 | service_type),
    }
    elements = {**mesh.by_name(), "ports": anywhere, "address-ports": at_address}
    entry = _entry_rules(family)
    chains = balancer_chains(mesh.balancers, family)
    chains |= {
        # 5 before dstnat and srcnat: ahead of other programs' tables on the same hooks.
        "prerouting": nx.Chain(entry, "nat", nx.HOOK_PREROUTING, -105),
        "output": nx.Chain(entry, "nat", nx.HOOK_OUTPUT, -105),
        "postrouting": nx.Chain(
            _leaving_rules(node_id, ingress, bridges, family), "nat", nx.HOOK_POSTROUTING, 95
        ),
        "forward": nx.Chain(_forward_rules(bridges), "filter", nx.HOOK_FORWARD, -10),
    }
    if family is IPV4:  # which the underlay is
        elements["peers"], elements["numbers"] = underlay(tables)
        shapes |= {"peers": nx.SetShape((4,)), "numbers": nx.SetShape((3,))}
        chains["input"] = nx.Chain((_foreign_rule(),), "filter", nx.HOOK_INPUT, -10)
        # What is inside is tracked where it begins and ends; here each flow would be again.
        for name, hook in (("arriving", nx.HOOK_PREROUTING), ("leaving", nx.HOOK_OUTPUT)):
            chains[name] = nx.Chain((nx.rule(_is_ours(), nx.untracked()),), "filter", hook, -300)
    return nx.table(family.number, TABLE, chains, shapes, elements)


def ipv6_node_table(
    node_id: str,
    tables: Mapping[str, NetworkTable],
    containers: Iterable[LocalContainer],
    bridges: Mapping[str, LocalBridge],
    links: Links = MappingProxyType({}),
) -> nx.TableState | None:
    """Return the node's `ip6` table; None where nothing of this node has IPv6."""
    prefixes = [p for bridge in bridges.values() for p in bridge.subnets()]
    prefixes += [p for table in tables.values() if table.ingress for p in table.subnets()]
    if not IPV6.of(prefixes):
        return None
    return node_table(node_id, tables, containers, bridges, IPV6, links)


def underlay(
    tables: Mapping[str, NetworkTable],
) -> tuple[dict[bytes, nx.Value], dict[bytes, nx.Value]]:
    """Return the addresses of the cluster's nodes and the numbers of its VXLANs."""
    nodes = {n.data_path for table in tables.values() for n in table.nodes.values()}
    peers: dict[bytes, nx.Value] = {IPv4Address(address).packed: None for address in nodes}
    numbers: dict[bytes, nx.Value] = {t.vni.to_bytes(3, "big"): None for t in tables.values()}
    return peers, numbers


def _is_vxlan() -> bytes:
    return (
        nx.load_meta(nx.REG_1, nx.META_L4PROTO)
        + nx.equal(nx.REG_1, bytes([PROTOCOLS["udp"]]))
        + nx.load_port(nx.REG_1)
        + nx.equal(nx.REG_1, struct.pack(">H", VXLAN_PORT))
    )


def _is_ours() -> bytes:
    """Match VXLAN with a number of our overlays: behind 8 bytes of UDP and 4 of flags."""
    return _is_vxlan() + nx.load_payload(nx.REG_1, 2, 12, 3) + nx.lookup("numbers", nx.REG_1)


def _foreign_rule() -> nx.Rule:
    """Drop what claims to be of our overlays and comes from no node; others' VXLANs may pass."""
    return nx.rule(
        _is_ours(),
        IPV4.load_source(),
        nx.lookup("peers", nx.REG_1, inverted=True),
        nx.decide(nx.VERDICT_DROP),
    )


def _host_ports(
    containers: Iterable[LocalContainer], family: Family
) -> tuple[dict[bytes, nx.Value], dict[bytes, nx.Value]]:
    anywhere: dict[bytes, nx.Value] = {}
    at_address: dict[bytes, nx.Value] = {}
    for container in containers:
        inside = family.of((container.port_address, container.ipv6_port_address))
        for port in container.ports if inside else ():
            key = port_key(port.protocol, port.host_port)
            value = target(inside[0], port.container_port)
            if port.host_ip == LOOPBACK:
                continue
            if port.host_ip in ("", ANYWHERE[family]):
                anywhere[key] = value
            elif family.of((port.host_ip,)):
                at_address[family.pack(port.host_ip) + key] = value
    return anywhere, at_address


def _entry_rules(family: Family) -> tuple[nx.Rule, ...]:
    local = nx.load_address_type(nx.REG_1, nx.FIB_DADDR) + nx.equal(nx.REG_1, _LOCAL)
    if family is IPV6:  # carried, by `loopback`
        local += family.load_destination() + nx.differs(nx.REG_1, family.pack(LOOPBACK))
    ports = nx.load_meta(nx.REG32_00, nx.META_L4PROTO) + nx.load_port(nx.REG32_01)
    behind = family.behind(nx.REG32_00)
    rewrite = family.dnat(nx.REG32_00, behind)
    at_address = (
        family.load_destination(nx.REG32_00)
        + nx.load_meta(behind, nx.META_L4PROTO)
        + nx.load_port(behind + 1)
    )
    to_targets = nx.lookup("address-ports", nx.REG32_00, nx.REG32_00)
    return (
        nx.rule(local, at_address, to_targets, rewrite),
        nx.rule(local, ports, nx.lookup("ports", nx.REG32_00, nx.REG32_00), rewrite),
        nx.rule(local, at_address, nx.lookup("address-mesh", nx.REG32_00, nx.REG_VERDICT)),
        nx.rule(local, ports, nx.lookup("mesh", nx.REG32_00, nx.REG_VERDICT)),
    )


def _translated() -> bytes:
    return (
        nx.load_ct(nx.REG_1, nx.CT_STATUS)
        + nx.masked(nx.REG_1, struct.pack("=I", nx.CT_STATUS_DNAT))
        + nx.differs(nx.REG_1, b"\0\0\0\0")
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
    node_id: str,
    ingress: NetworkTable | None,
    bridges: Mapping[str, LocalBridge],
    family: Family,
) -> tuple[nx.Rule, ...]:
    rules: list[nx.Rule] = []
    for bridge in sorted(bridges.values(), key=lambda b: b.bridge):
        subnets = family.of(bridge.subnets())
        # A neighbour's answer would bypass the node, and 127.0.0.1 cannot be answered at all.
        rules.append(
            nx.rule(_translated(), _into(bridge.bridge), _from_this_node(), nx.masquerade())
        )
        rules += [
            nx.rule(
                _translated(), _into(bridge.bridge), family.from_subnet(subnet), nx.masquerade()
            )
            for subnet in subnets
        ]
        if bridge.masquerade and not bridge.internal:
            rules += [
                nx.rule(family.from_subnet(subnet), _not_into(bridge.bridge), nx.masquerade())
                for subnet in subnets
            ]
    if ingress is not None:
        rules.append(
            nx.rule(_translated(), _into(INGRESS_LINK), _from_this_node(), nx.masquerade())
        )
        rules += snat_rules(family, _translated() + _into(INGRESS_LINK))
        node = ingress.nodes.get(node_id)
        if node is not None and node.mesh_ports != (0, 0):
            low, high = (struct.pack(">H", port) for port in node.mesh_ports)
            rules.append(
                # The address stays; disjoint port ranges keep two ingress nodes' flows apart.
                nx.rule(
                    _translated(),
                    _into(INGRESS_LINK),
                    family.load_source(),
                    nx.immediate(2, low),
                    nx.immediate(3, high),
                    family.snat(nx.REG_1, 2, 3),
                )
            )
        rules += [
            nx.rule(family.from_subnet(subnet), _not_into(INGRESS_LINK), nx.masquerade())
            for subnet in family.of(ingress.subnets())
        ]
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
