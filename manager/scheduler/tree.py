"""The preference tree: evens out tasks over label values, then over nodes, by heaps.

One task is placed in O(levels * log n). A branch or node that cannot take a task leaves the
tree: within one group of equal tasks it will not be able to later either.
"""

import heapq
from collections.abc import Callable
from typing import Protocol

from manager.scheduler.constraints import label_of
from manager.scheduler.filters import Candidate

Rank = tuple[int, int, int, str]
"""Recent failures (0 below the threshold), tasks of the service, tasks in all, node id."""


class Branch(Protocol):
    """A part of the tree that tasks are placed in."""

    tasks: int

    def place(self) -> Candidate | None:
        """Place one task and return its node, or None when nothing here can take it."""
        ...


class Leaf:
    """Nodes of one combination of label values, the best one on top of a heap."""

    def __init__(
        self,
        candidates: list[Candidate],
        rank: Callable[[Candidate], Rank],
        try_place: Callable[[Candidate], bool],
    ) -> None:
        self._rank = rank
        self._try_place = try_place
        self._by_id = {c.node.id: c for c in candidates}
        self._heap = [rank(c) for c in candidates]
        self.tasks = sum(r[1] for r in self._heap)
        heapq.heapify(self._heap)

    def place(self) -> Candidate | None:
        """Place one task on the best node that takes it."""
        while self._heap:
            candidate = self._by_id[self._heap[0][3]]
            if self._try_place(candidate):
                self.tasks += 1
                heapq.heapreplace(self._heap, self._rank(candidate))
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


def build(
    candidates: list[Candidate],
    labels: tuple[str, ...],
    rank: Callable[[Candidate], Rank],
    try_place: Callable[[Candidate], bool],
) -> Branch:
    """Return the tree over `labels`, outermost first; a missing label is a value of its own."""
    if not labels:
        return Leaf(candidates, rank, try_place)
    by_value: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_value.setdefault(label_of(labels[0], candidate.node), []).append(candidate)
    return Fork({v: build(part, labels[1:], rank, try_place) for v, part in by_value.items()})
