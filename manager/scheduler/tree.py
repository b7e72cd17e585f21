"""The preference tree: evens out tasks over label values, then over nodes, by heaps.

One task is placed in O(levels * log n). A branch or node that cannot take a task leaves the
tree: within one group of equal tasks it will not be able to later either.
"""

import heapq
from collections.abc import Callable
from typing import NamedTuple, Protocol

from manager.scheduler.candidates import Candidate
from manager.scheduler.constraints import label_of

Rank = tuple[int, int, int, int, str]
"""Recent failures (0 below the threshold), what is preferred (negative), then the strategy's:
tasks of the service and in all, or how full the node is; node id last."""


class How(NamedTuple):
    """How the tasks of one group are placed."""

    rank: Callable[[Candidate], Rank]
    replicas: Callable[[Candidate], int]
    """Tasks of the service on a node."""
    try_place: Callable[[Candidate], bool]


class Branch(Protocol):
    """A part of the tree that tasks are placed in."""

    tasks: int

    def place(self) -> Candidate | None:
        """Place one task and return its node, or None when nothing here can take it."""
        ...


class Leaf:
    """Nodes of one combination of label values, the best one on top of a heap."""

    def __init__(self, candidates: list[Candidate], how: How) -> None:
        self._how = how
        self._by_id = {c.node.id: c for c in candidates}
        self._heap = [how.rank(c) for c in candidates]
        self.tasks = sum(how.replicas(c) for c in candidates)
        heapq.heapify(self._heap)

    def place(self) -> Candidate | None:
        """Place one task on the best node that takes it."""
        while self._heap:
            candidate = self._by_id[self._heap[0][-1]]
            if self._how.try_place(candidate):
                self.tasks += 1
                heapq.heapreplace(self._heap, self._how.rank(candidate))
                return candidate
            heapq.heappop(self._heap)
        return None


class Fork:
    """One branch per value of a label, the one with the fewest tasks of the service on top."""

    def __init__(self, branches: dict[str, Branch]) -> None:
        self._branches = branches
        self._heap = [(branch.tasks, value) for value, branch in branches.items()]
        self.tasks = sum(branch.tasks for branch in branches.values())
        heapq.heapify(self._heap)

    def place(self) -> Candidate | None:
        """Place one task in the emptiest branch that takes it."""
        while self._heap:
            value = self._heap[0][1]
            branch = self._branches[value]
            placed = branch.place()
            if placed is not None:
                self.tasks += 1
                heapq.heapreplace(self._heap, (branch.tasks, value))
                return placed
            heapq.heappop(self._heap)
        return None


def build(candidates: list[Candidate], labels: tuple[str, ...], how: How) -> Branch:
    """Return the tree over `labels`, outermost first; a missing label is a value of its own."""
    if not labels:
        return Leaf(candidates, how)
    by_value: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_value.setdefault(label_of(labels[0], candidate.node), []).append(candidate)
    return Fork({value: build(part, labels[1:], how) for value, part in by_value.items()})
