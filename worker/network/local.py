"""What the plan knows of this node itself, and of the backends of a table. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarmapi.model.tables import EndpointState, NetworkTable, TaskEndpoint
from worker.network.attachments import PortBinding

TABLE = "swarm"
DNS_ADDRESS, DNS_PORT = "127.0.0.11", 40053
INGRESS_LINK = "swarm-ingress"


@dataclass(frozen=True)
class LocalBridge:
    """A bridge network of this node as its ruleset needs it."""

    bridge: str
    subnet: str
    internal: bool
    masquerade: bool


@dataclass(frozen=True)
class LocalContainer:
    """A container of this node: interface and address per network, published host ports."""

    container_id: str
    networks: Mapping[str, tuple[str, str]]
    """Network id to (interface, address)."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Network id to the names it answers to on a bridge network."""
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
