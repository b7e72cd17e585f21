"""How fast a service may be changed: no turn begins more than its settings allow."""

from itertools import combinations

from manager.reconcile import TurnResult
from manager.store import changes as c
from manager.store.view import View, is_live, is_placed, is_wanted
from swarmapi.model import defaults
from swarmapi.model.objects import Service, Task, TaskState, UpdateState
from swarmapi.model.spec import UpdateConfig


def check_pace(view: View, now_ns: int, result: TurnResult) -> None:
    """Compare what a turn begins, by updates and by drains, with what is under way."""
    begun: dict[tuple[str, bool], list[tuple[int, str]]] = {}
    for change in result.changes:
        if isinstance(change, c.PutTask) and (change.task.by_update or change.task.by_move):
            task = change.task
            begun.setdefault((task.service_id, task.by_update), []).append(_slot_of(task))
    given_up = {
        change.task_id
        for change in result.changes
        if isinstance(change, c.SetDesired | c.SetTaskStatus | c.SetEndpoint)
    }
    for (service_id, by_update), new in begun.items():
        service = view.services[service_id]
        config = _config(service, by_update)
        if not config.parallelism or config != _config(_after(service, result), by_update):
            continue
        slots = {
            _slot_of(t)
            for t in view.tasks_of_service(service_id)
            if t.id not in given_up
            and (_is_updating(service, t) if by_update else _is_moving(view, t))
            and _is_under_way(view, now_ns, config, t)
        }
        what = "updated" if by_update else "moved"
        total = len(new) + len(slots.difference(new))  # one may be moved again
        assert total <= config.parallelism, f"{service_id}: {total} slots are {what} at once"


def check_host_ports(view: View) -> None:
    """No two tasks of a node publish one port of the host; no node has more than its maximum."""
    for node_id in view.nodes:
        placed = [task for task in view.tasks_of_node(node_id) if is_placed(task)]
        taken = [port for task in placed for port in view.demand(task).host_ports]
        clashes = [(a, b) for a, b in combinations(taken, 2) if a.clashes(b)]
        assert not clashes, f"{node_id}: {clashes}"


def _after(service: Service, result: TurnResult) -> Service:
    """Return the service as the turn leaves it: a rollback has settings of its own."""
    for change in result.changes:
        if isinstance(change, c.PutService) and change.service.id == service.id:
            service = change.service
    return service


def _config(service: Service, by_update: bool) -> UpdateConfig:
    status = service.update_status
    back = status is not None and status.state == UpdateState.ROLLBACK_STARTED
    spec = service.spec
    return defaults.update_config(
        spec.rollback_config if by_update and back else spec.update_config
    )


def _is_updating(service: Service, task: Task) -> bool:
    """Tell whether an update under way made the task.

    One that has ended left behind what waits for a paused node.
    """
    status = service.update_status
    return (
        task.by_update
        and task.spec_version == service.spec_version
        and status is not None
        and status.state not in (UpdateState.COMPLETED, UpdateState.ROLLBACK_COMPLETED)
        and task.meta.created_ns >= status.started_ns
    )


def _slot_of(task: Task) -> tuple[int, str]:
    return (task.slot, "" if task.slot else task.node_id)


def _is_moving(view: View, task: Task) -> bool:
    """Tell whether a slot waits for a move.

    Not where an update's task runs there by now, nor where the node left was given back, or one
    that is only paused has another task, which runs on.
    """
    return task.by_move and not any(
        t.id != task.id
        and t.slot == task.slot
        and is_wanted(t)
        and t.status.state == TaskState.RUNNING
        and (node := view.nodes.get(t.node_id)) is not None
        and node.is_fit
        for t in view.tasks_of_service(task.service_id)
    )


def _is_under_way(view: View, now_ns: int, config: UpdateConfig, task: Task) -> bool:
    node = view.nodes.get(task.node_id)
    limit_ns = defaults.progress_deadline_ns(config)
    return (
        is_wanted(task)
        and is_live(task)
        and task.status.state < TaskState.RUNNING
        and (not task.node_id or (node is not None and node.is_fit))
        and (not limit_ns or now_ns < task.meta.created_ns + limit_ns)
    )
