"""What the plan knows of this node itself, and of the backends of a table. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from swarmapi.model.tables import EndpointState, NetworkTable, TaskEndpoint
from worker.network.attachments import PortBinding
from worker.network.family import IPV4, Family

TABLE = "swarm"
DNS_ADDRESS, DNS_PORT = "127.0.0.11", 40053
LOOPBACK = "::1"
INGRESS_LINK = "swarm-ingress"
UDP = 17
VXLAN_PORT = 4789


@dataclass(frozen=True)
class LocalBridge:
    """A bridge network of this node as its ruleset needs it."""

    bridge: str
    subnet: str
    internal: bool
    masquerade: bool
    name: str = ""
    """Domain of its members' names; empty gives them none."""
    ipv6_subnet: str = ""

    def subnets(self) -> tuple[str, ...]:
        """Return its subnets."""
        return (self.subnet, self.ipv6_subnet)


@dataclass(frozen=True)
class LocalContainer:
    """A container of this node: interface and addresses per network, published host ports."""

    container_id: str
    networks: Mapping[str, tuple[str, ...]]
    """Network id to (interface, address, and an address of the other family)."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Network id to the names it answers to on a bridge network."""
    links: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Network id to the (name, alias) by which it calls others there."""
    ports: tuple[PortBinding, ...] = ()
    port_address: str = ""
    """Address published host ports lead to."""
    ipv6_port_address: str = ""
    resolver: bool = True
    """Whether the name service listens in its namespace."""

    def has_ipv6(self) -> bool:
        """Tell whether it has an IPv6 address on any network."""
        return any(":" in address for _, *found in self.networks.values() for address in found)


def is_carried(binding: PortBinding) -> bool:
    """Tell whether a port answers at ::1, where nothing can be rewritten."""
    return binding.host_ip in ("::", LOOPBACK)


def serving_by_service(
    table: NetworkTable, *, families: Sequence[Family] = (IPV4,)
) -> dict[str, tuple[str, ...]]:
    """Return the addresses that take new connections, in task id order, by service id."""
    groups: dict[str, list[TaskEndpoint]] = {}
    for endpoint in table.endpoints.values():
        if endpoint.state == EndpointState.SERVING:
            groups.setdefault(endpoint.service_id, []).append(endpoint)
    return {
        key: tuple(
            address
            for endpoint in sorted(group, key=lambda e: e.task_id)
            for family in families
            for address in family.of(endpoint.addresses())
        )
        for key, group in groups.items()
    }


def vanished(
    before: Mapping[str, NetworkTable], after: Mapping[str, NetworkTable]
) -> list[tuple[str, tuple[int, ...]]]:
    """Return (address, protocols) whose connections must go; no protocols means all."""
    gone: list[tuple[str, tuple[int, ...]]] = []
    for key, old in before.items():
        new = after.get(key)
        present = {
            address: e.state
            for e in (new.endpoints.values() if new is not None else ())
            for address in e.addresses()
        }
        for endpoint in old.endpoints.values():
            for address in endpoint.addresses():
                state = present.get(address)
                if state is None:
                    gone.append((address, ()))
                elif state == EndpointState.WITHDRAWN and endpoint.state == EndpointState.SERVING:
                    gone.append((address, (UDP,)))
    return gone


def ipv4_only(table: NetworkTable) -> NetworkTable:
    """Return a table as a node without IPv6 in its kernel can have it."""
    return msgspec.structs.replace(
        table,
        further_subnets=IPV4.of(table.further_subnets),
        services={
            key: msgspec.structs.replace(s, ipv6_vip="") for key, s in table.services.items()
        },
        endpoints={
            key: msgspec.structs.replace(e, ipv6_address="") for key, e in table.endpoints.items()
        },
        nodes={key: msgspec.structs.replace(n, ipv6_gateway="") for key, n in table.nodes.items()},
    )


class Ipv4Tables:
    """Keeps tables as a node without IPv6 has them: the same object as long as theirs is."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[NetworkTable, NetworkTable]] = {}

    def of(self, tables: Mapping[str, NetworkTable]) -> dict[str, NetworkTable]:
        """Return the tables without anything of IPv6."""
        before, self._known = self._known, {}
        for key, table in tables.items():
            known = before.get(key)
            same = known is not None and known[0] is table
            self._known[key] = known if known and same else (table, ipv4_only(table))
        return {key: own for key, (_, own) in self._known.items()}


def in_use(table: NetworkTable) -> frozenset[str]:
    """Return the addresses of a network that somebody has."""
    gateways = [g for n in table.nodes.values() for g in (n.gateway, n.ipv6_gateway)]
    theirs = [address for e in table.endpoints.values() for address in e.addresses()]
    return frozenset([table.gateway, *gateways, *theirs])
