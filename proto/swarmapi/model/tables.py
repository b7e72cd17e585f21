"""Endpoint tables: what a node must know of one network, as the dispatcher sends it.

A table is derived from the store alone. Its revision is the Raft index of the last change
to that network; a node acknowledges a revision only after nft, DNS and fdb hold it.
"""

from enum import StrEnum
from typing import TypeVar

import msgspec

T = TypeVar("T")


class EndpointState(StrEnum):
    """Whether a task's endpoint takes new connections."""

    SERVING = "serving"
    WITHDRAWN = "withdrawn"


class PublishedPort(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One port of the routing mesh: `published` on every node leads to `target` of the tasks."""

    protocol: str
    """`tcp`, `udp` or `sctp`."""
    published: int
    target: int
    place: str = ""
    """Blank for every address of every node, else an address, a prefix of them or `%LINK`."""
    source: str = ""
    """Whose address tasks see: blank for the client's; others as in `PortConfig`."""


class ServiceEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A service as seen on one network."""

    service_id: str
    name: str
    vip: str = ""
    """Dotted IPv4 address; empty in dnsrr mode."""
    aliases: tuple[str, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    """Ingress-mode ports; filled on the ingress network only."""
    sticky: bool = False
    """Whether a client's address decides which task it gets."""
    ipv6_vip: str = ""

    def vips(self) -> tuple[str, ...]:
        """Return its virtual addresses, one per family at most."""
        return tuple(filter(None, (self.vip, self.ipv6_vip)))


class TaskEndpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The address of a task, or of a container that is no task's, on one network."""

    task_id: str
    """Of a container that is no task's: its id."""
    service_id: str
    """Empty for a container that is no task's."""
    node_id: str
    name: str
    """`service.slot.taskid`, as DNS and PTR give it."""
    address: str
    state: EndpointState = EndpointState.SERVING
    aliases: tuple[str, ...] = ()
    ipv6_address: str = ""

    def addresses(self) -> tuple[str, ...]:
        """Return its addresses, one per family at most."""
        return tuple(filter(None, (self.address, self.ipv6_address)))


class NodeEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node that takes part in the network."""

    node_id: str
    data_path: str
    """Underlay IPv4 address that VXLAN packets go to."""
    gateway: str = ""
    """The node's own address on the ingress network; empty on others."""
    mesh_ports: tuple[int, int] = (0, 0)
    """Inclusive range of source ports this ingress node rewrites to; disjoint between nodes."""
    ipv6_gateway: str = ""


class NetworkTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a node needs to serve one network."""

    network_id: str
    name: str
    revision: int
    subnet: str
    """IPv4 prefix, e.g. `10.0.1.0/24`."""
    gateway: str
    vni: int
    mtu: int = 1450
    ingress: bool = False
    internal: bool = False
    services: dict[str, ServiceEntry] = {}
    endpoints: dict[str, TaskEndpoint] = {}
    nodes: dict[str, NodeEntry] = {}
    further_subnets: tuple[str, ...] = ()
    """Prefixes of either family besides `subnet`; all of them are on the same link."""

    def subnets(self) -> tuple[str, ...]:
        """Return every prefix of the network."""
        return (self.subnet, *self.further_subnets)


class TableDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The difference between two revisions of one table, or a whole table.

    With `full` set the receiver replaces what it has. Otherwise `base` must equal the revision
    it holds; if not, it asks for a full table. `None` as a value removes the key.
    """

    network_id: str
    revision: int
    base: int = 0
    full: NetworkTable | None = None
    services: dict[str, ServiceEntry | None] = {}
    endpoints: dict[str, TaskEndpoint | None] = {}
    nodes: dict[str, NodeEntry | None] = {}


def apply_delta(table: NetworkTable | None, delta: TableDelta) -> NetworkTable | None:
    """Return the table after `delta`, or None when a full table is needed."""
    if delta.full is not None:
        return delta.full
    if table is None or table.revision != delta.base:
        return None
    return msgspec.structs.replace(
        table,
        revision=delta.revision,
        services=_merged(table.services, delta.services),
        endpoints=_merged(table.endpoints, delta.endpoints),
        nodes=_merged(table.nodes, delta.nodes),
    )


def delta_between(old: NetworkTable | None, new: NetworkTable) -> TableDelta:
    """Return what turns `old` into `new`; a full table when the network itself differs."""
    if old is None or _header(old) != _header(new):
        return TableDelta(network_id=new.network_id, revision=new.revision, full=new)
    return TableDelta(
        network_id=new.network_id,
        revision=new.revision,
        base=old.revision,
        services=_changed(old.services, new.services),
        endpoints=_changed(old.endpoints, new.endpoints),
        nodes=_changed(old.nodes, new.nodes),
    )


def _header(table: NetworkTable) -> NetworkTable:
    return msgspec.structs.replace(table, revision=0, services={}, endpoints={}, nodes={})


def _changed(old: dict[str, T], new: dict[str, T]) -> dict[str, T | None]:
    changed: dict[str, T | None] = {k: v for k, v in new.items() if old.get(k) != v}
    changed.update({k: None for k in old if k not in new})
    return changed


def _merged(old: dict[str, T], changed: dict[str, T | None]) -> dict[str, T]:
    merged = {**old, **changed}
    return {k: v for k, v in merged.items() if v is not None}
