"""Filters: what makes a node unfit for a task, each with its reason in words."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from manager.scheduler.constraints import first_failing, normal_architecture
from manager.store.view import Demand, Load, View
from swarmapi.model.objects import Explanation, FilterRefusal, Node, NodeState, SpecVersion
from swarmapi.model.spec import Availability, Placement, Platform

EXAMPLES: Final = 3
MAX_REFUSALS: Final = 50
MAX_TEXT: Final = 200
"""What is kept of a text that a user wrote: it is stored once for every task that waits."""
_MIB: Final = 1 << 20


class Needs(NamedTuple):
    """What one group of equal tasks asks of a node."""

    service_id: str
    demand: Demand = Demand()
    constraints: tuple[str, ...] = ()
    platforms: tuple[Platform, ...] = ()
    max_replicas: int = 0
    spread: tuple[str, ...] = ()
    """Labels to spread over, outermost first."""


def needs_of(record: SpecVersion, demand: Demand) -> Needs:
    """Return what tasks of a spec version ask of a node."""
    placement = record.spec.task_template.placement or Placement()
    return Needs(
        service_id=record.service_id,
        demand=demand,
        constraints=placement.constraints or (),
        platforms=placement.platforms or (),
        max_replicas=placement.max_replicas,
        spread=tuple(
            p.spread.spread_descriptor for p in placement.preferences or () if p.spread is not None
        ),
    )


class Candidate:
    """A node with what is free on it, as the turn goes on."""

    __slots__ = ("cpu_nanos", "memory_bytes", "node", "ports", "tasks")

    def __init__(self, node: Node, load: Load) -> None:
        self.node = node
        self.cpu_nanos = node.description.cpu_nanos - load.cpu_nanos
        self.memory_bytes = node.description.memory_bytes - load.memory_bytes
        self.tasks = load.tasks
        self.ports: set[tuple[str, int]] = set()
        """Host ports taken in this turn; earlier ones are in the View."""

    def take(self, demand: Demand) -> None:
        """Count one more task."""
        self.cpu_nanos -= demand.cpu_nanos
        self.memory_bytes -= demand.memory_bytes
        self.tasks += 1
        self.ports.update(demand.host_ports)


def is_available(node: Node) -> bool:
    """Tell whether a node takes new tasks."""
    return node.state == NodeState.READY and node.spec.availability == Availability.ACTIVE


def has_platform(platforms: Iterable[Platform], node: Node) -> bool:
    """Tell whether a node offers one of the platforms; an empty part fits any."""
    has = node.description.platform
    wanted = list(platforms)
    return not wanted or any(
        (not p.os or p.os.lower() == has.os.lower())
        and (
            not p.architecture
            or normal_architecture(p.architecture) == normal_architecture(has.architecture)
        )
        for p in wanted
    )


def has_resources(demand: Demand, candidate: Candidate) -> bool:
    """Tell whether the reservations fit what is free."""
    return not (
        (demand.cpu_nanos and demand.cpu_nanos > candidate.cpu_nanos)
        or (demand.memory_bytes and demand.memory_bytes > candidate.memory_bytes)
    )


def taken_port(view: View, demand: Demand, candidate: Candidate) -> tuple[str, int] | None:
    """Return a host port of the demand that is in use on the node."""
    for port in demand.host_ports:
        if port in candidate.ports or (candidate.node.id, *port) in view.host_ports_of:
            return port
    return None


def explain_refusals(
    view: View, needs: Needs, candidates: Iterable[Candidate], replicas: dict[str, int]
) -> Explanation:
    """Return every filter's refusals; a node is counted by each filter that refuses it.

    `replicas` holds how many tasks of the service a node has, by node id.
    """
    refused: dict[tuple[str, str], list[Candidate]] = {}
    total = 0
    for candidate in candidates:
        total += 1
        for found in _refusals(view, needs, candidate, replicas):
            refused.setdefault(found, []).append(candidate)
    refusals = [
        FilterRefusal(
            filter=name,
            count=len(nodes),
            reason=_resources_text(needs.demand, nodes) if name == "resources" else reason,
            examples=tuple(c.node.description.hostname or c.node.id for c in nodes[:EXAMPLES]),
        )
        for (name, reason), nodes in refused.items()
    ]
    refusals.sort(key=lambda r: (-r.count, r.filter, r.reason))
    return Explanation(nodes=total, refusals=tuple(refusals[:MAX_REFUSALS]))


def _refusals(
    view: View, needs: Needs, candidate: Candidate, replicas: dict[str, int]
) -> Iterable[tuple[str, str]]:
    node = candidate.node
    if node.state != NodeState.READY:
        yield ("ready", f"node is {node.state.value}")
    elif node.spec.availability != Availability.ACTIVE:
        yield ("ready", f"availability is {node.spec.availability.value}")
    if not has_resources(needs.demand, candidate):
        yield ("resources", "")
    for expression in needs.constraints:
        if first_failing((expression,), node) is not None:
            yield ("constraints", f"constraint {_clipped(expression)} not satisfied")
    if not has_platform(needs.platforms, node):
        wanted = ", ".join(f"{p.os or 'any'}/{p.architecture or 'any'}" for p in needs.platforms)
        yield ("platform", f"does not offer platform {_clipped(wanted)}")
    port = taken_port(view, needs.demand, candidate)
    if port is not None:
        yield ("host-port", f"host port {port[1]}/{port[0]} already in use")
    if needs.max_replicas and replicas.get(node.id, 0) >= needs.max_replicas:
        yield ("max-replicas", f"max replicas per node is {needs.max_replicas}")


def _resources_text(demand: Demand, nodes: list[Candidate]) -> str:
    parts = []
    if demand.memory_bytes and any(c.memory_bytes < demand.memory_bytes for c in nodes):
        free = max(max(c.memory_bytes for c in nodes), 0)
        parts.append(f"needs {_mib(demand.memory_bytes)}, at most {_mib(free)} free")
    if demand.cpu_nanos and any(c.cpu_nanos < demand.cpu_nanos for c in nodes):
        free = max(max(c.cpu_nanos for c in nodes), 0)
        parts.append(f"needs {demand.cpu_nanos / 1e9:g} CPUs, at most {free / 1e9:g} free")
    return " and ".join(parts)


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.4g} MiB"
