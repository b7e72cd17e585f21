"""The node × filter table of one task: every cell with its numbers, and what would make it fit.

It is made with the task itself away, so that it says of one that runs why it may be where it is.
"""

from collections.abc import Iterable
from typing import NamedTuple

from manager.scheduler import filters
from manager.scheduler.candidates import Candidate, Needs, platform_text, size_of
from manager.scheduler.constraints import parse
from manager.scheduler.placer import Placer
from manager.store.view import Overlay, View
from swarmapi.errors import InvalidArgument
from swarmapi.model.objects import NodeState, Task
from swarmapi.model.spec import Availability


class Cell(NamedTuple):
    """What one filter says of one node."""

    filter: str
    passes: bool
    detail: str
    remedy: str = ""
    """What would make it pass."""


class Row(NamedTuple):
    """One node; `rank` orders nodes that fit, the least is taken first."""

    node_id: str
    name: str
    cells: tuple[Cell, ...]
    rank: tuple[int, ...]
    service_tasks: int
    tasks: int
    failures: int
    preference: int

    @property
    def fits(self) -> bool:
        """Tell whether every filter lets the node pass."""
        return all(cell.passes for cell in self.cells)


def table_of(view: View, task: Task) -> list[Row]:
    """Return a row for each node, those that fit first, the best one on top."""
    without = Overlay(view)
    without.drop_task(task.id)
    placer = Placer(without, view.now_ns)
    needs = placer.needs(task)
    if needs is None:
        return []
    failures = placer.failures(task.service_id, task.spec_version)
    replicas = placer.replicas(task.service_id)
    rank = placer.rank(needs, task.spec_version)
    rows = []
    for node_id in sorted(view.nodes):
        candidate = placer.candidate(node_id)
        order = rank(candidate)
        rows.append(
            Row(
                node_id=node_id,
                name=candidate.node.description.hostname or node_id,
                cells=tuple(_cells(without, needs, candidate, replicas[node_id])),
                rank=order[:-1],
                service_tasks=replicas[node_id],
                tasks=candidate.tasks,
                failures=failures[node_id],
                preference=-order[1],
            )
        )
    return sorted(rows, key=lambda row: (not row.fits, row.rank, row.node_id))


def _cells(view: View, needs: Needs, candidate: Candidate, replicas: int) -> Iterable[Cell]:
    node, name = candidate.node, candidate.node.description.hostname or candidate.node.id
    if node.state != NodeState.READY:
        yield Cell("ready", False, f"node is {node.state.value}", "bring the node back")
    elif node.spec.availability != Availability.ACTIVE:
        availability = node.spec.availability.value
        remedy = f"swarmctl node update --availability active {name}"
        yield Cell("ready", False, f"availability is {availability}", remedy)
    else:
        yield Cell("ready", True, "ready and active")
    yield _resources(view, needs, candidate)
    if needs.constraints:
        yield _constraints(view, needs, candidate, name)
    if needs.platforms:
        has = node.description.platform
        fits = filters.has_platform(needs.platforms, node)
        wanted = platform_text(needs.platforms)
        detail = f"needs {wanted}, is {has.os}/{has.architecture}"
        yield Cell("platform", fits, detail, "" if fits else "an image for its platform")
    if needs.demand.host_ports:
        yield _ports(view, needs, candidate)
    if needs.max_replicas:
        fits = replicas < needs.max_replicas
        remedy = "" if fits else f"a limit above {needs.max_replicas}, or more nodes"
        detail = f"{replicas} of at most {needs.max_replicas} tasks a node"
        yield Cell("max-replicas", fits, detail, remedy)


def _resources(view: View, needs: Needs, candidate: Candidate) -> Cell:
    demand, mib = needs.demand, filters.mib
    details, remedies = [], []
    if demand.memory_bytes:
        free = candidate.memory_bytes
        details.append(f"needs {mib(demand.memory_bytes)}, {mib(max(free, 0))} free")
        if free < demand.memory_bytes:
            remedies.append(f"{mib(demand.memory_bytes - free)} more free memory")
    if demand.cpu_nanos:
        free = candidate.cpu_nanos
        details.append(f"needs {demand.cpu_nanos / 1e9:g} CPUs, {max(free, 0) / 1e9:g} free")
        if free < demand.cpu_nanos:
            remedies.append(f"{(demand.cpu_nanos - free) / 1e9:g} more free CPUs")
    has = candidate.generic(view) if demand.generic else {}
    for kind, count in demand.generic:
        free = size_of(has.get(kind))
        details.append(f"needs {count} {kind}, {free} free")
        if free < count:
            remedies.append(f"{count - free} more free {kind}")
    detail = "; ".join(details) or "no reservation"
    return Cell("resources", not remedies, detail, " and ".join(remedies))


def _constraints(view: View, needs: Needs, candidate: Candidate, name: str) -> Cell:
    unmet = filters.unmet(view, needs, candidate)
    if not unmet:
        return Cell("constraints", True, "all satisfied")
    remedies = [remedy for text in unmet if (remedy := _label_remedy(text, name))]
    detail = "not satisfied: " + "; ".join(unmet)
    return Cell("constraints", False, detail, " and ".join(remedies))


def _label_remedy(constraint: str, name: str) -> str:
    """Return the command that gives a node the label a plain constraint asks for."""
    try:
        terms = parse(constraint).terms
    except InvalidArgument:
        return "a constraint that is understood"
    for term in terms:
        label = term.key.removeprefix("node.labels.")
        if label != term.key and term.operator in ("==", "in"):
            return f"swarmctl node update --label-add {label}={term.values[0]} {name}"
    return ""


def _ports(view: View, needs: Needs, candidate: Candidate) -> Cell:
    taken = filters.taken_port(view, needs.demand, candidate)
    wanted = ", ".join(map(str, needs.demand.host_ports))
    if taken is None:
        return Cell("host-port", True, f"{wanted} free")
    holders = sorted({task.service_name for task in view.holders(candidate.node.id, taken)})
    detail = f"{taken} already in use by {', '.join(holders) or 'another task'}"
    return Cell("host-port", False, detail, "another port, or that task elsewhere")
