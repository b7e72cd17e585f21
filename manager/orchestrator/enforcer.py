"""The enforcer: rejects tasks that their node no longer suits."""

from msgspec.structs import replace

from manager.orchestrator.drain import stop
from manager.scheduler.constraints import matches_all
from manager.store.changes import SetTaskStatus
from manager.store.turn import Turn
from manager.store.view import Demand, is_placed, is_wanted
from swarmapi.model.objects import GenericShare, Node, Task, TaskState
from swarmapi.model.spec import Availability


def enforce(turn: Turn, node: Node) -> None:
    """Reject wanted tasks of an active node whose constraints or reservations fail by now.

    When resources shrank, the newest tasks go first. A task of an older spec version is
    judged by its own: what its service asks for by now is the rolling update's business.
    """
    if node.spec.availability != Availability.ACTIVE:
        return
    cpu_nanos = node.description.cpu_nanos
    memory_bytes = node.description.memory_bytes
    generic = {share.kind: share for share in node.description.generic}
    for task in turn.view.tasks_of_node(node.id):
        if not is_placed(task):
            continue
        key = (task.service_id, task.spec_version)
        demand = turn.view.demands.get(key, Demand())
        record = turn.view.specs.get(key)
        placement = record.spec.task_template.placement if record is not None else None
        constraints = (placement.constraints or ()) if placement is not None else ()
        if is_wanted(task) and not matches_all(constraints, node):
            _reject(turn, task, "node no longer meets its constraints")
            continue
        short = (demand.cpu_nanos and demand.cpu_nanos > cpu_nanos) or (
            demand.memory_bytes and demand.memory_bytes > memory_bytes
        )
        if is_wanted(task) and short:
            _reject(turn, task, "node no longer has the resources it reserves")
            continue
        if is_wanted(task) and not _claim(generic, task):
            _reject(turn, task, "node no longer has the generic resources it was given")
            continue
        cpu_nanos -= demand.cpu_nanos
        memory_bytes -= demand.memory_bytes


def _claim(left: dict[str, GenericShare], task: Task) -> bool:
    """Take what a task was given from what is left of a node's; tell whether all was there."""
    for share in task.generic:
        has = left.get(share.kind)
        if has is None or has.count < share.count or not set(share.names) <= set(has.names):
            return False
    for share in task.generic:
        has = left[share.kind]
        left[share.kind] = replace(has, count=has.count - share.count)
    return True


def _reject(turn: Turn, task: Task, reason: str) -> None:
    if task.addresses:
        # An observed end would free addresses that a container still holds: drain it instead.
        stop(turn, task, TaskState.SHUTDOWN, reason)
        return
    status = replace(
        task.status,
        state=TaskState.REJECTED,
        timestamp_ns=turn.now_ns,
        message="rejected",
        error=reason,
    )
    turn.emit(SetTaskStatus(task_id=task.id, status=status, reason=reason))
