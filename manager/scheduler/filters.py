"""Filters: what makes a node unfit for a task, each with its reason in words."""

from collections.abc import Iterable
from typing import Final

from manager.scheduler.candidates import Candidate, Needs, platform_text, size_of
from manager.scheduler.constraints import normal_architecture
from manager.store.ports import HostPort
from manager.store.view import Demand, View
from swarmapi.model.objects import Explanation, FilterRefusal, Node, NodeState
from swarmapi.model.spec import Availability, Platform

EXAMPLES: Final = 3
MAX_REFUSALS: Final = 50
MAX_TEXT: Final = 200
"""What is kept of a text that a user wrote: it is stored once for every task that waits."""
_MIB: Final = 1 << 20


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


def has_resources(view: View, demand: Demand, candidate: Candidate) -> bool:
    """Tell whether the reservations fit what is free."""
    if demand.cpu_nanos and demand.cpu_nanos > candidate.cpu_nanos:
        return False
    if demand.memory_bytes and demand.memory_bytes > candidate.memory_bytes:
        return False
    return not demand.generic or not scarce_generic(view, demand, candidate)


def scarce_generic(view: View, demand: Demand, candidate: Candidate) -> list[tuple[str, int, int]]:
    """Return (kind, wanted, free) of the generic resources a node has too few of."""
    free = candidate.generic(view)
    found = ((kind, wanted, size_of(free.get(kind))) for kind, wanted in demand.generic)
    return [entry for entry in found if entry[2] < entry[1]]


def taken_port(view: View, demand: Demand, candidate: Candidate) -> HostPort | None:
    """Return a host port of the demand that is in use on the node."""
    for port in demand.host_ports:
        taken = any(port.clashes(other) for other in candidate.ports)
        if taken or view.holders(candidate.node.id, port):
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
            reason=_resources_text(view, needs, nodes) if name == "resources" else reason,
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
    if not has_resources(view, needs.demand, candidate):
        yield ("resources", "")
    for constraint in unmet(view, needs, candidate):
        yield ("constraints", f"constraint {_clipped(constraint)} not satisfied")
    if not has_platform(needs.platforms, node):
        wanted = platform_text(needs.platforms)
        yield ("platform", f"does not offer platform {_clipped(wanted)}")
    port = taken_port(view, needs.demand, candidate)
    if port is not None:
        yield ("host-port", f"host port {port} already in use")
    if needs.max_replicas and replicas[node.id] >= needs.max_replicas:
        yield ("max-replicas", f"max replicas per node is {needs.max_replicas}")


def unmet(view: View, needs: Needs, candidate: Candidate) -> list[str]:
    """Return the constraints that a node does not satisfy, as they were written."""
    rules = needs.rules
    if rules.broken is not None:
        return [rules.broken]
    failed = [r.text for r in rules.lasting if not r.matches(candidate.node)]
    return failed + [
        r.text for r in rules.neighbours if not r.matches(candidate.node, candidate.services(view))
    ]


def _resources_text(view: View, needs: Needs, nodes: list[Candidate]) -> str:
    demand = needs.demand
    parts = []
    if demand.memory_bytes and any(c.memory_bytes < demand.memory_bytes for c in nodes):
        free = max(max(c.memory_bytes for c in nodes), 0)
        parts.append(f"needs {mib(demand.memory_bytes)}, at most {mib(free)} free")
    if demand.cpu_nanos and any(c.cpu_nanos < demand.cpu_nanos for c in nodes):
        free = max(max(c.cpu_nanos for c in nodes), 0)
        parts.append(f"needs {demand.cpu_nanos / 1e9:g} CPUs, at most {free / 1e9:g} free")
    most: dict[tuple[str, int], int] = {}
    for candidate in nodes:
        for kind, wanted, free in scarce_generic(view, demand, candidate):
            most[(kind, wanted)] = max(most.get((kind, wanted), 0), free)
    parts += [f"needs {n} {kind}, at most {free} free" for (kind, n), free in sorted(most.items())]
    return " and ".join(parts)


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def mib(size_bytes: int) -> str:
    """Return a size as people read it."""
    if size_bytes < 10 << 30:
        return f"{size_bytes / _MIB:.4g} MiB"
    return f"{size_bytes / (_MIB << 10):.5g} GiB"
