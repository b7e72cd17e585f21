"""Replicated services: exactly as many filled slots as replicas."""

from collections import defaultdict

from manager.orchestrator.drain import serve, stop
from manager.orchestrator.leaving import drain_nodes, leave_node
from manager.orchestrator.reaper import reap_history, reap_removed
from manager.orchestrator.restart import restart_ended
from manager.orchestrator.slots import Slot, SlotKey, create_task, is_filled, slots_of
from manager.orchestrator.update import update
from manager.store.turn import Turn
from manager.store.view import is_live
from swarmapi.model import defaults
from swarmapi.model.objects import Service, TaskState


def reconcile_replicated(turn: Turn, service: Service) -> None:
    """Restart, move, scale, update, serve and reap one replicated service."""
    key = ("service", service.id)
    slots = slots_of(turn.view, service.id)
    before = len(turn.changes)
    restless: list[SlotKey] = []
    for slot in slots.values():
        if turn.is_full():
            turn.again.add(key)
            return
        if _is_quiet(turn, slot):
            continue
        restless.append(slot.key)
        restarted = restart_ended(turn, service, slot)
        leave_node(turn, service, slot, has_successor=restarted, drained=False)
    if len(turn.changes) > before:
        slots = slots_of(turn.view, service.id)
    before = len(turn.changes)
    drain_nodes(turn, service, [slots[k] for k in restless])
    if len(turn.changes) > before:
        slots = slots_of(turn.view, service.id)
    before = len(turn.changes)
    _scale(turn, service, slots)
    if turn.is_full():
        turn.again.add(key)
        return
    if len(turn.changes) > before:
        slots = slots_of(turn.view, service.id)
    kept = {k: s for k, s in slots.items() if is_filled(turn.view, service, s)}
    update(turn, service, kept)
    serve(turn, turn.view.tasks_of_service(service.id))
    reap_history(turn, service)
    reap_removed(turn, service.id)


def _is_quiet(turn: Turn, slot: Slot) -> bool:
    """Tell at little cost that a slot's only attempt is alive where it may stay."""
    task = slot.tasks[0]
    if len(slot.tasks) > 1 or not is_live(task) or task.by_move:
        return False
    node = turn.node_of(task)
    return not task.node_id or (node is not None and node.is_fit)


def survivors(slots: list[Slot], count: int) -> list[Slot]:
    """Return the slots that stay when only `count` may.

    Running ones before others, evened out over nodes, low slot numbers first; slots without a
    node go first of all.
    """
    ordered = sorted(slots, key=lambda s: (not s.is_running, s.key))
    per_node: dict[str, int] = defaultdict(int)
    ranks: dict[SlotKey, float] = {}
    for slot in ordered:
        wanted = slot.wanted
        if len(wanted) == 1 and wanted[0].node_id:
            ranks[slot.key] = per_node[wanted[0].node_id]
            per_node[wanted[0].node_id] += 1
        else:
            ranks[slot.key] = float("inf")
    return sorted(ordered, key=lambda s: ranks[s.key])[:count]


def _scale(turn: Turn, service: Service, slots: dict[SlotKey, Slot]) -> None:
    filled = {k: s for k, s in slots.items() if is_filled(turn.view, service, s)}
    count = defaults.replicas(service.spec)
    kept = set(filled)
    if len(filled) > count:
        kept = {s.key for s in survivors(list(filled.values()), count)}
    number = 0
    for _ in range(count - len(filled)):
        number += 1
        while (number, "") in kept:
            number += 1
        if turn.is_full():
            break
        kept.add((number, ""))
        create_task(turn, service, (number, ""), f"slot {number} is empty")
    if turn.is_full():
        turn.again.add(("service", service.id))
        return
    for key, slot in slots.items():
        if key in kept:
            continue
        for task in slot.tasks:
            reason = f"slot {key[0]} is more than {count} replicas" if key in filled else "unused"
            stop(turn, task, TaskState.REMOVE, reason)
        if turn.is_full():
            turn.again.add(("service", service.id))
            return


def remove_all(turn: Turn, service_id: str) -> None:
    """Stop and then forget every task of a service that was deleted."""
    tasks = turn.view.tasks_of_service(service_id)
    for task in tasks:
        if turn.is_full():
            turn.again.add(("service", service_id))
            return
        stop(turn, task, TaskState.REMOVE, "its service was deleted")
    serve(turn, tasks)
    reap_removed(turn, service_id)
