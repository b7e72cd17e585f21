"""All nodes with what is free on them, as one turn goes on placing tasks."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from manager.scheduler import filters, tree
from manager.scheduler.candidates import Candidate, Needs, needs_of
from manager.scheduler.constraints import BINPACK, Rule
from manager.store.view import Load, SpecKey, View
from swarmapi.model.defaults import placement_strategy
from swarmapi.model.objects import FAILURES_KEPT, Explanation, GenericShare, Node, Task

FAULTY_AFTER: Final = FAILURES_KEPT
FAULTY_WITHIN_NS: Final = 5 * 60_000_000_000
MEMO_KEPT: Final = 256
"""Sets of constraints whose nodes are remembered."""


class _Replicas(dict[str, int]):
    """Node id to how many wanted tasks of a service are there, this turn's included."""

    def __init__(self, view: View, service_id: str) -> None:
        self._view = view
        self._service_id = service_id

    def __missing__(self, node_id: str) -> int:
        count = self[node_id] = self._view.replicas_on.get((self._service_id, node_id), 0)
        return count


class Placer:
    """All nodes with what is free on them, shared by the groups of one turn."""

    def __init__(self, view: View, now_ns: int) -> None:
        self.view = view
        self.now_ns = now_ns
        self.strategy = placement_strategy(view.cluster.spec) if view.cluster is not None else ""
        self._candidates: dict[str, Candidate] = {}
        self._replicas: dict[str, _Replicas] = {}
        self._emptiest: list[str] | None = None

    def candidate(self, node_id: str) -> Candidate:
        """Return a node as this turn sees it."""
        found = self._candidates.get(node_id)
        if found is None:
            load = self.view.loads.get(node_id, Load())
            found = self._candidates[node_id] = Candidate(self.view.nodes[node_id], load)
        return found

    def needs(self, task: Task) -> Needs | None:
        """Return what a task asks of a node, None when its spec is gone."""
        return self.needs_of_spec((task.service_id, task.spec_version))

    def needs_of_spec(self, key: SpecKey) -> Needs | None:
        """Return what tasks of a spec version ask of a node, None when it is gone."""
        record = self.view.specs.get(key)
        return needs_of(record, self.view.demands[key]) if record is not None else None

    def suitable(self, needs: Needs) -> list[Candidate]:
        """Return nodes that pass the filters which placing does not change."""
        return [self.candidate(node_id) for node_id in self.suitable_ids(needs)]

    def suitable_ids(self, needs: Needs) -> dict[str, None]:
        """Return the ids of `suitable`, in order."""
        key = (needs.constraints, needs.platforms)
        memo = self.view.node_memo
        found = memo.get(key)
        if found is None:
            if len(memo) >= MEMO_KEPT:
                memo.clear()
            nodes = self.view.nodes
            found = memo[key] = {i: None for i in sorted(nodes) if is_suitable(needs, nodes[i])}
        return found

    def emptiest_first(self) -> list[str]:
        """Return all nodes' ids by their tasks, as the turn began."""
        if self._emptiest is None:
            loads, none = self.view.loads, Load()
            self._emptiest = sorted(self.view.nodes, key=lambda i: (loads.get(i, none).tasks, i))
        return self._emptiest

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
