"""The scheduler: pending tasks to nodes, in groups of equal tasks."""

import heapq

import msgspec

from manager.allocator.allocate import waiting_for
from manager.scheduler import tree
from manager.scheduler.candidates import Candidate
from manager.scheduler.placer import Placer, is_suitable
from manager.scheduler.preemption import Evict, make_room, priority_of
from manager.store.changes import AssignTask, SetExplanation
from manager.store.turn import MAX_CHANGES, Turn
from manager.store.view import PENDING, SpecKey, View
from swarmapi.model.objects import (
    Explanation,
    FilterRefusal,
    GenericShare,
    Node,
    Task,
)


def schedule(turn: Turn, evict: Evict) -> None:
    """Assign pending tasks; store every filter's refusals for those that fit nowhere.

    What has a greater priority comes first, and may have others evicted. Of equal ones, global
    tasks are confirmed before groups are placed.
    """
    view = turn.view
    if not view.by_stage.of(PENDING):
        return
    placer = Placer(view, turn.now_ns)
    work: list[tuple[int, Task | SpecKey]] = []
    if sum(view.pending.values()) < len(view.by_stage.of(PENDING)):
        # Where the node is given, as a global task's is, it is only confirmed.
        given = (task for task in view.tasks_in(PENDING) if task.node_id)
        work += [(-priority_of(view.spec_of(task)), task) for task in given]
    work += [(-priority_of(view.specs.get(key)), key) for key in sorted(view.pending)]
    for _, what in sorted(work, key=lambda item: item[0]):
        if turn.is_full():
            turn.wake_at(turn.now_ns)
            return
        if isinstance(what, Task):
            _confirm(turn, placer, what, evict)
        else:
            _place_group(turn, placer, what, evict)


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


def hindrances(view: View, task: Task, node_id: str) -> set[str]:
    """Return the names of the filters by which a node refuses a task as things are now.

    A node that is gone, or that was never chosen, has nothing to refuse.
    """
    if node_id not in view.nodes:
        return set()
    placer = Placer(view, view.now_ns)
    needs = placer.needs(task)
    return set() if needs is None else {r.filter for r in placer.explain(needs, node_id).refusals}


def _confirm(turn: Turn, placer: Placer, task: Task, evict: Evict) -> None:
    needs = placer.needs(task)
    if needs is None or task.node_id not in turn.view.nodes:
        return
    candidate = placer.candidate(task.node_id)
    suitable = is_suitable(needs, candidate.node)
    if suitable and placer.fits(needs, candidate):
        shares = placer.take(needs, candidate)
        reason = "node confirmed"
        turn.emit(AssignTask(task_id=task.id, node_id=task.node_id, generic=shares, reason=reason))
    else:
        explanation = placer.explain(needs, task.node_id)
        if suitable and not task.replaces:
            make_room(turn, placer, needs, [candidate], 1, evict)
        _refuse(turn, [task], explanation)


def _place_group(turn: Turn, placer: Placer, key: SpecKey, evict: Evict) -> None:
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
            explanation = placer.explain(needs)
            make_room(turn, placer, needs, placer.suitable(needs), len(left), evict)
            _refuse(turn, left, explanation)
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
