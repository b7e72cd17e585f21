"""Leaving nodes: at once where they are lost, a few slots at a time where they are drained.

A drain is a rolling move: it honours parallelism and order of the service's update settings, so
that a service never loses more of its tasks to it than to an update of its own.
"""

from collections.abc import Iterable

from manager.orchestrator.drain import is_known, stop
from manager.orchestrator.slots import Slot, create_task, must_leave
from manager.orchestrator.update import is_stuck
from manager.store.turn import Turn
from manager.store.view import is_live
from swarmapi.model import defaults
from swarmapi.model.objects import Service, Task, TaskState


def leave_node(
    turn: Turn, service: Service, slot: Slot, *, has_successor: bool, drained: bool = True
) -> None:
    """Move wanted attempts off nodes that are down or gone, and drained if told so, at once."""
    leaving = [t for t in slot.wanted if must_leave(turn, t) and (drained or turn.is_lost(t))]
    if not leaving:
        return
    for task in leaving:
        reason = "its node is down" if turn.is_lost(task) else "its node is drained"
        stop(turn, task, TaskState.SHUTDOWN, reason)
    if has_successor or any(is_live(t) and not must_leave(turn, t) for t in slot.wanted):
        return
    last = leaving[-1]
    lost = turn.is_lost(last)
    create_task(
        turn,
        service,
        slot.key,
        f"replaces {last.id}: its node is {'down' if lost else 'drained'}",
        desired=TaskState.RUNNING if lost else TaskState.READY,
        waits_for="" if lost else last.id,
    )


def draining_services(turn: Turn) -> set[str]:
    """Return ids of services that still have tasks on drained nodes: time or news moves them."""
    view = turn.view
    tasks = (view.tasks[i] for n in view.drained.of("node") for i in view.by_node.of(n))
    return {task.service_id for task in tasks if is_live(task)}


def drain_nodes(turn: Turn, service: Service, slots: Iterable[Slot]) -> None:
    """Move slots off drained nodes: at most `parallelism` at once, in the service's order.

    A move whose new task does not run within the progress deadline holds nothing up any more: a
    drain that finds no room elsewhere ends as well, only later.
    """
    config = defaults.update_config(service.spec.update_config)
    start_first = config.order == "start-first"
    remedy: list[tuple[Slot, list[Task]]] = []
    moving = total = 0
    for slot in slots:
        total += 1
        leaving = [t for t in slot.wanted if must_leave(turn, t) and not turn.is_lost(t)]
        others = [t for t in slot.wanted if is_live(t) and t not in leaving]
        if not others:
            remedy += [(slot, leaving)] if leaving else []
            continue
        by_move = any(t.by_move for t in others)  # an update's task may be on its way beside it
        if not leaving and not by_move:
            continue
        new = max(others, key=lambda t: t.status.state)
        stuck = is_stuck(turn, new, config)
        runs = new.status.state == TaskState.RUNNING
        if stuck or not start_first or (runs and is_known(turn, new)):
            for task in leaving:
                stop(turn, task, TaskState.SHUTDOWN, f"its node is drained: {new.id} replaces it")
            leaving = []
        moving += bool(leaving) or (by_move and not runs and not stuck)
    for slot, leaving in remedy[: max((config.parallelism or total) - moving, 0)]:
        if turn.is_full():
            turn.again.add(("service", service.id))
            return
        _move(turn, service, slot, leaving, start_first=start_first)


def _move(
    turn: Turn, service: Service, slot: Slot, leaving: list[Task], *, start_first: bool
) -> None:
    if not start_first:
        for task in leaving:
            stop(turn, task, TaskState.SHUTDOWN, "its node is drained")
    last = leaving[-1]
    create_task(
        turn,
        service,
        slot.key,
        f"replaces {last.id}: its node is drained",
        desired=TaskState.RUNNING if start_first else TaskState.READY,
        waits_for="" if start_first else last.id,
        by_move=True,
    )
