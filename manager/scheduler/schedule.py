"""The scheduler: pending tasks to nodes, in groups of equal tasks."""

import heapq
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from manager.allocator.allocate import waiting_for
from manager.scheduler import filters, tree
from manager.scheduler.candidates import Candidate, Needs, needs_of
from manager.scheduler.constraints import BINPACK, Rule
from manager.store.changes import AssignTask, SetExplanation
from manager.store.turn import MAX_CHANGES, Turn
from manager.store.view import PENDING, Load, SpecKey, View
from swarmapi.model.defaults import placement_strategy
from swarmapi.model.objects import (
    FAILURES_KEPT,
    Explanation,
    FilterRefusal,
    GenericShare,
    Node,
    Task,
)

FAULTY_AFTER: Final = FAILURES_KEPT
FAULTY_WITHIN_NS: Final = 5 * 60_000_000_000
MEMO_KEPT: Final = 256
"""Sets of constraints whose nodes are remembered."""


def schedule(turn: Turn) -> None:
    """Assign pending tasks; store every filter's refusals for those that fit nowhere."""
    view = turn.view
    if not view.by_stage.of(PENDING):
        return
    placer = Placer(view, turn.now_ns)
    groups = sorted(view.pending)
    if sum(view.pending[key] for key in groups) < len(view.by_stage.of(PENDING)):
        for task in view.tasks_in(PENDING):
            if turn.is_full():
                turn.wake_at(turn.now_ns)
                return
            if task.node_id:  # a global task: its node is only confirmed
                _confirm(turn, placer, task)
    for key in groups:
        if turn.is_full():
            turn.wake_at(turn.now_ns)
            return
        _place_group(turn, placer, key)


def _in_slot_order(view: View, key: SpecKey) -> list[str]:
    """Return the next pending tasks of a group; by slot, so that a plan foretells what comes."""
    waiting = heapq.nsmallest(MAX_CHANGES + 1, view.pending_of_spec.of(key))
    return [_task_id(entry) for entry in waiting]


def _task_id(entry: str) -> str:
    return entry.partition(" ")[2]


def explain(view: View, task: Task) -> Explanation:
    """Return, for every filter, how many nodes it refuses for `task` as things are now.

    A task that still waits for the allocator is refused everywhere, by filter `allocator`.
    """
    waiting = waiting_for(view, task)
    if waiting:
        count = len(view.nodes)
        refusal = FilterRefusal(filter="allocator", count=count, reason=waiting)
        return Explanation(nodes=count, refusals=(refusal,))
    placer = Placer(view, view.now_ns)
    needs = placer.needs(task)
    return placer.explain(needs, task.node_id) if needs is not None else Explanation(nodes=0)


class _Replicas(dict[str, int]):
    """Node id to how many wanted tasks of a service are there, this turn's included."""

    def __init__(self, view: View, service_id: str) -> None:
        self._view = view
        self._service_id = service_id

    def __missing__(self, node_id: str) -> int:
        count = self[node_id] = self._view.replicas_on.get((self._service_id, node_id), 0)
        return count


def hindrances(view: View, task: Task, node_id: str) -> set[str]:
    """Return the names of the filters by which a node refuses a task as things are now."""
    placer = Placer(view, view.now_ns)
    needs = placer.needs(task)
    return set() if needs is None else {r.filter for r in placer.explain(needs, node_id).refusals}


class Placer:
    """All nodes with what is free on them, shared by the groups of one turn."""

    def __init__(self, view: View, now_ns: int) -> None:
        self.view = view
        self.now_ns = now_ns
        self.strategy = placement_strategy(view.cluster.spec) if view.cluster is not None else ""
        self._candidates: dict[str, Candidate] = {}
        self._replicas: dict[str, _Replicas] = {}

    def candidate(self, node_id: str) -> Candidate:
        """Return a node as this turn sees it."""
        found = self._candidates.get(node_id)
        if found is None:
            load = self.view.loads.get(node_id, Load())
            found = self._candidates[node_id] = Candidate(self.view.nodes[node_id], load)
        return found

    def needs(self, task: Task) -> Needs | None:
        """Return what a task asks of a node, None when its spec is gone."""
        key = (task.service_id, task.spec_version)
        record = self.view.specs.get(key)
        return needs_of(record, self.view.demands[key]) if record is not None else None

    def suitable(self, needs: Needs) -> list[Candidate]:
        """Return nodes that pass the filters which placing does not change."""
        key = (needs.constraints, needs.platforms)
        memo = self.view.node_memo
        found = memo.get(key)
        if found is None:
            if len(memo) >= MEMO_KEPT:
                memo.clear()
            nodes = self.view.nodes
            found = memo[key] = [i for i in sorted(nodes) if is_suitable(needs, nodes[i])]
        return [self.candidate(node_id) for node_id in found]

    def fits(self, needs: Needs, candidate: Candidate) -> bool:
        """Tell whether a node passes the filters which placing does change."""
        if not filters.has_resources(self.view, needs.demand, candidate):
            return False
        if needs.rules.neighbours and filters.unmet(self.view, needs, candidate):
            return False
        if needs.demand.host_ports and filters.taken_port(self.view, needs.demand, candidate):
            return False
        if not needs.max_replicas:
            return True
        return self.replicas(needs.service_id)[candidate.node.id] < needs.max_replicas

    def replicas(self, service_id: str) -> dict[str, int]:
        """Return how many wanted tasks of a service each node has, this turn's included."""
        counts = self._replicas.get(service_id)
        if counts is None:
            counts = self._replicas[service_id] = _Replicas(self.view, service_id)
        return counts

    def failures(self, service_id: str, spec_version: int) -> Counter[str]:
        """Return recent failures of a spec version by node, where they reach the threshold."""
        record = self.view.specs.get((service_id, spec_version))
        since_ns = self.now_ns - FAULTY_WITHIN_NS
        recent = {
            node_id: sum(time_ns > since_ns for time_ns in times)
            for node_id, times in (record.failures if record is not None else {}).items()
        }
        return Counter({n: count for n, count in recent.items() if count >= FAULTY_AFTER})

    def take(self, needs: Needs, candidate: Candidate) -> tuple[GenericShare, ...]:
        """Count one more task of the service on a node; return its generic resources."""
        self.replicas(needs.service_id)[candidate.node.id] += 1
        return candidate.take(self.view, needs)

    def rank(self, needs: Needs, spec_version: int) -> Callable[[Candidate], tree.Rank]:
        """Return how to compare nodes for a task: the least comes first."""
        replicas = self.replicas(needs.service_id)
        failures = self.failures(needs.service_id, spec_version)
        preferred = needs.rules.preferred
        packs = (needs.rules.strategy or self.strategy) == BINPACK

        def rank(candidate: Candidate) -> tree.Rank:
            node_id = candidate.node.id
            gain = self._gain(preferred, candidate) if preferred else 0
            if packs:
                full = -candidate.filled_permille()
                return (failures[node_id], -gain, full, -candidate.tasks, node_id)
            return (failures[node_id], -gain, replicas[node_id], candidate.tasks, node_id)

        return rank

    def _gain(self, preferred: tuple[Rule, ...], candidate: Candidate) -> int:
        services = candidate.services(self.view)
        return sum(r.weight or 0 for r in preferred if r.matches(candidate.node, services))

    def explain(self, needs: Needs, node_id: str = "") -> Explanation:
        """Return every filter's refusals, over all nodes or one."""
        asked = [self.candidate(i) for i in ([node_id] if node_id else sorted(self.view.nodes))]
        replicas = self.replicas(needs.service_id)
        return filters.explain_refusals(self.view, needs, asked, replicas)


def is_suitable(needs: Needs, node: Node) -> bool:
    """Tell whether a node passes the filters which placing does not change."""
    rules = needs.rules
    return (
        filters.is_available(node)
        and filters.has_platform(needs.platforms, node)
        and rules.broken is None
        and all(rule.matches(node) for rule in rules.lasting)
    )


def _confirm(turn: Turn, placer: Placer, task: Task) -> None:
    needs = placer.needs(task)
    if needs is None or task.node_id not in turn.view.nodes:
        return
    candidate = placer.candidate(task.node_id)
    if is_suitable(needs, candidate.node) and placer.fits(needs, candidate):
        shares = placer.take(needs, candidate)
        reason = "node confirmed"
        turn.emit(AssignTask(task_id=task.id, node_id=task.node_id, generic=shares, reason=reason))
    else:
        _refuse(turn, [task], placer.explain(needs, task.node_id))


def _place_group(turn: Turn, placer: Placer, key: SpecKey) -> None:
    task_ids = _in_slot_order(turn.view, key)
    first = turn.view.tasks[task_ids[0]]
    needs = placer.needs(first)
    if needs is None:
        return
    replicas = placer.replicas(needs.service_id)
    shares: tuple[GenericShare, ...] = ()

    def try_place(candidate: Candidate) -> bool:
        nonlocal shares
        if not placer.fits(needs, candidate):
            return False
        shares = placer.take(needs, candidate)
        return True

    how = tree.How(
        rank=placer.rank(needs, first.spec_version),
        replicas=lambda candidate: replicas[candidate.node.id],
        try_place=try_place,
    )
    branches = tree.build(placer.suitable(needs), needs.spread, how)
    for task_id in task_ids:
        if turn.is_full():
            turn.wake_at(turn.now_ns)
            return
        chosen = branches.place()
        if chosen is None:
            left = [turn.view.tasks[_task_id(e)] for e in sorted(turn.view.pending_of_spec.of(key))]
            _refuse(turn, left, placer.explain(needs))
            return
        _assign(turn, task_id, chosen.node, shares)


def _assign(turn: Turn, task_id: str, node: Node, shares: tuple[GenericShare, ...]) -> None:
    reason = f"assigned to {node.description.hostname or node.id}"
    turn.emit(AssignTask(task_id=task_id, node_id=node.id, generic=shares, reason=reason))


def _refuse(turn: Turn, tasks: list[Task], explanation: Explanation) -> None:
    """Store the explanation where its kind is new; figures alone do not write again."""
    packed = msgspec.msgpack.encode(explanation)
    known: dict[bytes, bool] = {}
    for task in tasks:
        if task.explanation not in known:
            known[task.explanation] = _kind_of(task.explanation) == _kind(explanation)
        if known[task.explanation]:
            continue
        if turn.is_full():
            turn.wake_at(turn.now_ns)
            return
        turn.emit(SetExplanation(task_id=task.id, explanation=packed, reason=explanation.text()))


def _kind_of(packed: bytes) -> object:
    return _kind(msgspec.msgpack.decode(packed, type=Explanation)) if packed else None


def _kind(explanation: Explanation) -> object:
    return (explanation.nodes, [(r.filter, r.count) for r in explanation.refusals])
