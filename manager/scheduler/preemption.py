"""Preemption: what fits nowhere may take the place of tasks of services with a lower priority.

It never flaps: only strictly lower priorities give way; room that tasks on their way out will leave
is counted first, so nobody is evicted twice for one task; and that room is kept from the groups
that are placed after it, whose priority is not greater.
"""

import heapq
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from manager.scheduler.candidates import Candidate, Needs, size_of
from manager.scheduler.constraints import rules_of
from manager.scheduler.filters import unmet
from manager.scheduler.placer import Placer
from manager.store.turn import Turn
from manager.store.view import Demand, View, is_placed, is_wanted
from swarmapi.model.objects import SpecVersion, Task

MAX_EVICTED: Final = 50
"""Tasks evicted for one service in one turn; the next turn goes on."""
Evict = Callable[[Turn, Task, str], None]


class _Offer(NamedTuple):
    """A node that has room once `victims` are gone; the least is the best."""

    worst: int
    """The highest priority that gives way; below all others where nobody has to."""
    evicted: int
    node_id: str
    victims: tuple[Task, ...] = ()


def make_room(
    turn: Turn, placer: Placer, needs: Needs, nodes: Iterable[Candidate], count: int, evict: Evict
) -> None:
    """Keep room for up to `count` tasks, evicting where that is allowed and needed."""
    priority = needs.rules.priority
    if not _anybody_below(turn.view, priority):
        return
    by_id = {c.node.id: c for c in nodes}
    offers = [o for c in by_id.values() if (o := _offer(turn.view, placer, needs, c))]
    heapq.heapify(offers)
    evicted = 0
    while offers and count > 0 and evicted < MAX_EVICTED and not turn.is_full():
        offer = heapq.heappop(offers)
        candidate = by_id[offer.node_id]
        for task in offer.victims:
            name = turn.view.services[needs.service_id].spec.name
            evict(turn, task, f"preempted by {name}, which has priority {priority}")
        placer.take(needs, candidate)
        count -= 1
        evicted += len(offer.victims)
        again = _offer(turn.view, placer, needs, candidate)
        if again is not None:
            heapq.heappush(offers, again)
    if turn.is_full() or evicted >= MAX_EVICTED:
        turn.wake_at(turn.now_ns)


def priority_of(record: SpecVersion | None) -> int:
    """Return the priority of the tasks of a spec version."""
    placement = record.spec.task_template.placement if record is not None else None
    constraints = placement.constraints if placement is not None else None
    return rules_of(constraints).priority if constraints else 0


def _anybody_below(view: View, priority: int) -> bool:
    return any(priority_of(record) < priority for record in view.specs.values())


def _offer(view: View, placer: Placer, needs: Needs, candidate: Candidate) -> _Offer | None:
    """Return who would have to go; None where a node has no room even then."""
    node_id = candidate.node.id
    if needs.max_replicas and placer.replicas(needs.service_id)[node_id] >= needs.max_replicas:
        return None
    if needs.rules.neighbours and unmet(view, needs, candidate):
        return None
    placed = [t for t in view.tasks_of_node(node_id) if is_placed(t)]
    leaving = [t for t in placed if not is_wanted(t)]
    if _has_room(view, needs, candidate, leaving):
        return _Offer(-(1 << 62), 0, node_id)
    ranked = [(priority_of(view.spec_of(t)), t) for t in placed if is_wanted(t)]
    # Of one priority the newest go first: they have done the least.
    below = [(p, t) for p, t in reversed(ranked) if p < needs.rules.priority]
    below.sort(key=lambda entry: entry[0])
    victims: list[tuple[int, Task]] = []
    for entry in below:
        victims.append(entry)
        if _has_room(view, needs, candidate, [*leaving, *(t for _, t in victims)]):
            break
    else:
        return None
    for entry in reversed(victims[:-1]):  # who was taken first may not have been needed
        rest = [e for e in victims if e is not entry]
        if _has_room(view, needs, candidate, [*leaving, *(t for _, t in rest)]):
            victims = rest
    worst = max(p for p, _ in victims)
    return _Offer(worst, len(victims), node_id, tuple(t for _, t in victims))


def _has_room(view: View, needs: Needs, candidate: Candidate, gone: list[Task]) -> bool:
    """Tell whether the reservations and ports fit once some tasks are gone."""
    wanted, node_id = needs.demand, candidate.node.id
    demands = [view.demands.get((t.service_id, t.spec_version), Demand()) for t in gone]
    cpu_nanos = candidate.cpu_nanos + sum(d.cpu_nanos for d in demands)
    memory_bytes = candidate.memory_bytes + sum(d.memory_bytes for d in demands)
    if (wanted.cpu_nanos and wanted.cpu_nanos > cpu_nanos) or (
        wanted.memory_bytes and wanted.memory_bytes > memory_bytes
    ):
        return False
    for port in wanted.host_ports:
        left = {task.id for task in view.holders(node_id, port)}.difference(t.id for t in gone)
        if left or any(port.clashes(other) for other in candidate.ports):
            return False
    free = candidate.generic(view) if wanted.generic else {}
    for kind, count in wanted.generic:
        freed = sum(size_of(share) for t in gone for share in t.generic if share.kind == kind)
        if size_of(free.get(kind)) + freed < count:
            return False
    return True
