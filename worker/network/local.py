"""What the plan knows of this node itself, and of the backends of a table. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarmapi.model.tables import EndpointState, NetworkTable, TaskEndpoint
from worker.network.attachments import PortBinding

TABLE = "swarm"
DNS_ADDRESS, DNS_PORT = "127.0.0.11", 40053
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


@dataclass(frozen=True)
class LocalContainer:
    """A container of this node: interface and address per network, published host ports."""

    container_id: str
    networks: Mapping[str, tuple[str, str]]
    """Network id to (interface, address)."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Network id to the names it answers to on a bridge network."""
    links: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Network id to the (name, alias) by which it calls others there."""
    ports: tuple[PortBinding, ...] = ()
    port_address: str = ""
    """Address published host ports lead to."""
    resolver: bool = True
    """Whether the name service listens in its namespace."""


def serving_by_service(table: NetworkTable) -> dict[str, tuple[str, ...]]:
    """Return the addresses that take new connections, in task id order, by service id."""
    groups: dict[str, list[TaskEndpoint]] = {}
    for endpoint in table.endpoints.values():
        if endpoint.state == EndpointState.SERVING:
            groups.setdefault(endpoint.service_id, []).append(endpoint)
    return {
        key: tuple(e.address for e in sorted(group, key=lambda e: e.task_id))
        for key, group in groups.items()
    }


def vanished(
    before: Mapping[str, NetworkTable], after: Mapping[str, NetworkTable]
) -> list[tuple[str, tuple[int, ...]]]:
    """Return (address, protocols) whose connections must go; no protocols means all."""
    gone: list[tuple[str, tuple[int, ...]]] = []
    for key, old in before.items():
        new = after.get(key)
        present = {} if new is None else {e.address: e.state for e in new.endpoints.values()}
        for endpoint in old.endpoints.values():
            state = present.get(endpoint.address)
            if state is None:
                gone.append((endpoint.address, ()))
            elif state == EndpointState.WITHDRAWN and endpoint.state == EndpointState.SERVING:
                gone.append((endpoint.address, (UDP,)))
    return gone


def in_use(table: NetworkTable) -> frozenset[str]:
    """Return the addresses of a network that somebody has."""
    gateways = [node.gateway for node in table.nodes.values()]
    return frozenset([table.gateway, *gateways, *(e.address for e in table.endpoints.values())])
