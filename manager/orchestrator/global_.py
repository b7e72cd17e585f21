"""Global services: one task on every node that is fit and matches."""

from manager.orchestrator.disappearance import is_held
from manager.orchestrator.drain import serve, stop
from manager.orchestrator.reaper import reap_history, reap_removed
from manager.orchestrator.restart import restart_ended
from manager.orchestrator.slots import Slot, create_task, is_filled, slots_of
from manager.orchestrator.update import update
from manager.scheduler.constraints import matches_all
from manager.store.changes import Delete
from manager.store.turn import Turn
from swarmapi.model.objects import Node, NodeState, Service, TaskState
from swarmapi.model.spec import Availability, Placement


def reconcile_global(turn: Turn, service: Service) -> None:
    """Follow the nodes, restart, update, serve and reap one global service.

    A paused node keeps what it runs: nothing is added, restarted or updated there.
    """
    key = ("service", service.id)
    slots = slots_of(turn.view, service.id)
    for slot in slots.values():
        if turn.is_full():
            turn.again.add(key)
            return
        follow(turn, service, slot)
    _cover(turn, service)
    if turn.is_full():
        turn.again.add(key)
        return
    active = {
        k: s
        for k, s in slots_of(turn.view, service.id).items()
        if _is_active(turn.view.nodes.get(k[1])) and is_filled(turn.view, service, s)
    }
    update(turn, service, active)
    serve(turn, turn.view.tasks_of_service(service.id))
    reap_history(turn, service)
    reap_removed(turn, service.id)


def follow(turn: Turn, service: Service, slot: Slot) -> None:
    """Restart what ended on a node, or stop all of it where the node no longer fits."""
    node = turn.view.nodes.get(slot.key[1])
    if node is None:
        for task in slot.tasks:
            turn.emit(Delete(object="task", id=task.id, reason="its node was removed"))
        return
    if is_held(turn, node):
        return
    if not node.is_fit or not matches(service, node):
        reason = "its node no longer matches" if node.is_fit else "its node is down or drained"
        for task in slot.wanted:
            stop(turn, task, TaskState.SHUTDOWN, reason)
        return
    if node.spec.availability == Availability.ACTIVE:
        restart_ended(turn, service, slot)


def _cover(turn: Turn, service: Service) -> None:
    slots = slots_of(turn.view, service.id)
    for node_id in sorted(turn.view.nodes):
        node = turn.view.nodes[node_id]
        if not takes_new(service, node):
            continue
        slot = slots.get((0, node_id))
        if slot is not None and is_filled(turn.view, service, slot):
            continue
        if turn.is_full():
            turn.again.add(("service", service.id))
            return
        create_task(turn, service, (0, node_id), "the node has no task of this global service")


def _is_active(node: Node | None) -> bool:
    return node is not None and node.is_fit and node.spec.availability == Availability.ACTIVE


def takes_new(service: Service, node: Node) -> bool:
    """Tell whether a node should have a task of a global service."""
    return node.state == NodeState.READY and _is_active(node) and matches(service, node)


def matches(service: Service, node: Node) -> bool:
    """Tell whether a node satisfies the service's constraints."""
    placement = service.spec.task_template.placement or Placement()
    return matches_all(placement.constraints or (), node)
