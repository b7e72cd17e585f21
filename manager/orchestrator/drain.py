"""The acknowledged drain: a task is told to stop only after nobody sends to it any more.

A running task's endpoint is SERVING. To stop it, the endpoint is withdrawn first; the desired
state follows once every node that is not down has acknowledged a table without it, or the
deadline passed. Tasks without an address, or that no node sends to, are stopped at once.

A task that is not ready is withdrawn and goes on. One that its node is about to stop, its health
check having failed, is withdrawn too, and the node let know of the last acknowledgement.
"""

from typing import Final

from msgspec.structs import replace

from manager.store.changes import SetDesired, SetEndpoint, SetTaskStatus
from manager.store.turn import Turn
from manager.store.view import STOPPING, is_live, is_placed, is_stopping
from swarmapi.model.objects import Task, TaskEndpointLease, TaskState, TaskStatus
from swarmapi.model.tables import EndpointState

DRAIN_NS: Final = 5_000_000_000


def stop(turn: Turn, task: Task, desired: TaskState, reason: str) -> None:
    """Begin to stop a task: SHUTDOWN keeps its record, REMOVE does not."""
    task = turn.view.tasks[task.id]
    if task.desired >= desired:
        return
    if is_live(task) and not turn.is_lost(task) and task.desired <= TaskState.COMPLETE:
        if is_stopping(task):
            if task.endpoint.then < desired:
                lease = replace(task.endpoint, then=desired)
                turn.emit(SetEndpoint(task_id=task.id, lease=lease, reason=reason))
            return
        if task.endpoint.state is EndpointState.SERVING or not turn.is_acknowledged(task):
            lease = TaskEndpointLease(
                state=EndpointState.WITHDRAWN,
                deadline_ns=turn.now_ns + DRAIN_NS,
                then=desired,
            )
            turn.emit(SetEndpoint(task_id=task.id, lease=lease, reason=reason))
            return
    _raise(turn, task, desired, reason)


def evict(turn: Turn, task: Task, reason: str) -> None:
    """Stop a task that has to make room; its slot gets a new one."""
    stop(turn, task, TaskState.SHUTDOWN, reason)


def advance(turn: Turn) -> None:
    """Raise the desired state of every task whose withdrawal is known everywhere, or is late."""
    for task in turn.view.tasks_in(STOPPING):
        if turn.is_full():
            turn.wake_at(turn.now_ns)
            return
        if not is_stopping(task):
            _let_go(turn, task)
        elif turn.is_lost(task):
            _raise(turn, task, task.endpoint.then, "its node is lost")
        elif turn.is_acknowledged(task):
            _raise(turn, task, task.endpoint.then, "drained: every node acknowledged")
        elif turn.now_ns >= task.endpoint.deadline_ns:
            _raise(turn, task, task.endpoint.then, "drain deadline passed")
        else:
            turn.wake_at(task.endpoint.deadline_ns)


def is_known(turn: Turn, task: Task) -> bool:
    """Tell whether a new endpoint takes connections everywhere, or had time enough."""
    if not task.status.ready:
        return False
    if not task.addresses:
        return True
    limit_ns = task.running_ns + DRAIN_NS
    if turn.now_ns >= limit_ns:
        return True
    if task.endpoint.state is EndpointState.SERVING and turn.is_acknowledged(task):
        return True
    turn.wake_at(limit_ns)
    return False


def serve(turn: Turn, tasks: list[Task]) -> None:
    """Let running tasks take connections; withdraw those on nodes that are down."""
    for known in tasks:
        task = turn.view.tasks.get(known.id)
        if task is None or not task.addresses or not is_placed(task):
            continue
        serving = task.endpoint.state is EndpointState.SERVING
        if turn.is_lost(task):
            if serving:
                lease = TaskEndpointLease(state=EndpointState.WITHDRAWN)
                turn.emit(SetEndpoint(task_id=task.id, lease=lease, reason="its node is down"))
            continue
        running = task.status.state == TaskState.RUNNING and task.desired == task.goal
        if not running or is_stopping(task) or serving is task.status.ready:
            continue
        state = EndpointState.WITHDRAWN if serving else EndpointState.SERVING
        reason = task.status.message if serving else "running"
        lease = TaskEndpointLease(state=state)
        turn.emit(SetEndpoint(task_id=task.id, lease=lease, reason=reason))


def _let_go(turn: Turn, task: Task) -> None:
    """Tell a task's node, which is about to stop it, that nobody sends to it any more."""
    if turn.is_acknowledged(task):
        lease = replace(task.endpoint, drained=True)
        turn.emit(SetEndpoint(task_id=task.id, lease=lease, reason="every node acknowledged"))


def _raise(turn: Turn, task: Task, desired: TaskState, reason: str) -> None:
    turn.emit(SetDesired(task_id=task.id, desired=desired, reason=reason))
    if task.status.state < TaskState.ASSIGNED:
        # No agent knows of it, so none will report its end.
        status = TaskStatus(
            state=TaskState.SHUTDOWN, timestamp_ns=turn.now_ns, message="never placed"
        )
        turn.emit(SetTaskStatus(task_id=task.id, status=status, reason=reason))
