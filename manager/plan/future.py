"""A future of the cluster: the control plane's own turns over a View that stays as it is.

Machines are played as if all went well: whatever was assigned does what it is asked for at once,
and every table is acknowledged. Time passes only where an update waits for it.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from manager.reconcile import Env, Key, turn
from manager.store.apply import Applied, apply
from manager.store.changes import Change, SetTaskStatus, Transaction
from manager.store.turn import NOT_COMMITTED
from manager.store.view import Overlay, View, is_live, is_placed
from swarmapi.errors import FailedPrecondition
from swarmapi.model.objects import NodeState, Task, TaskState, TaskStatus, UpdateState

MAX_TURNS: Final = 2_000
MAX_CHANGES: Final = 60_000
MAX_LOOKS: Final = 400_000
"""Tasks looked at by a rebalancing, over all turns: a plan must not hold the manager up."""
_BUSY: Final = (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED)


class Future:
    """A View of its own over another one, moved on by the reconcilers and by obedient machines."""

    def __init__(self, view: View, now_ns: int) -> None:
        self.view: View = Overlay(view)
        self.now_ns = max(now_ns, view.now_ns)
        self.created: list[str] = []
        """Ids given to new objects, in order."""
        self._dirty: set[Key] = set()
        self._unsettled: set[str] = set()
        self._changes = 0

    def new_id(self) -> str:
        """Return the next id; ids of a future are in order and never of the cluster."""
        self.created.append(f"~{len(self.created):08}")
        return self.created[-1]

    def commit(self, changes: Iterable[Change]) -> Applied:
        """Apply changes as one committed transaction."""
        transaction = Transaction(request_id="", changes=tuple(changes))
        self._changes += len(transaction.changes)
        applied = apply(self.view, self.view.index + 1, self.now_ns, transaction)
        self._dirty |= applied.dirty
        self._unsettled |= {i for kind, i in applied.changed if kind == "task"}
        return applied

    def settle(self, service_ids: Iterable[str] = ()) -> None:
        """Run turns until nothing moves any more; wait for the updates of these services.

        Raises:
            FailedPrecondition: it takes too much to foretell.
        """
        for _ in self.settling(service_ids):
            pass

    def settling(self, service_ids: Iterable[str] = ()) -> Iterator[None]:
        """Do what `settle` does, a turn at a time."""
        waiting = list(service_ids)
        for service_id in waiting:
            self._unsettled |= self.view.by_service.of(service_id)
        objects = len(self.view.services) + len(self.view.tasks)
        limit = (
            min(MAX_TURNS, MAX_LOOKS // max(objects, 1)) if self._is_rebalancing() else MAX_TURNS
        )
        for _ in range(max(limit, 1)):
            if self._changes > MAX_CHANGES:
                break
            yield
            result = turn(
                self.view, self._dirty, Env(self.now_ns, self.new_id), self._acknowledged()
            )
            self._dirty = set(result.still_dirty)
            if result.changes:
                self.commit(result.changes)
            moved = self._obey()
            if result.changes or moved or self._dirty:
                continue
            deadline_ns = result.next_deadline_ns
            busy = self._is_rebalancing() or any(self._is_updating(i) for i in waiting)
            if deadline_ns is None or not busy:
                return
            self.now_ns = max(self.now_ns + 1, deadline_ns)
        raise FailedPrecondition("this moves too much to foretell: do it in smaller steps")

    def _is_updating(self, service_id: str) -> bool:
        service = self.view.services.get(service_id)
        status = service.update_status if service is not None else None
        return status is not None and status.state in _BUSY

    def _is_rebalancing(self) -> bool:
        state = self.view.cluster.rebalance if self.view.cluster is not None else None
        return state is not None and not state.ended_ns

    def _acknowledged(self) -> dict[str, dict[str, int]]:
        everything = dict.fromkeys(self.view.networks, NOT_COMMITTED)
        return dict.fromkeys(self.view.nodes, everything)

    def _obey(self) -> bool:
        """Let machines bring the tasks that moved to their desired state; tell if any did."""
        reports = []
        for task_id in sorted(self._unsettled):
            task = self.view.tasks.get(task_id)
            status = self._next_status(task) if task is not None else None
            if task is not None and status is not None:
                reports.append(SetTaskStatus(task_id=task.id, status=status))
        self._unsettled.clear()
        if reports:
            self.commit(reports)
        return bool(reports)

    def _next_status(self, task: Task) -> TaskStatus | None:
        node = self.view.nodes.get(task.node_id)
        if node is None or node.state != NodeState.READY or not is_placed(task):
            return None
        # Jobs are not foretold beyond what runs first: when they complete is nobody's to know.
        goal = TaskState.RUNNING if task.desired == TaskState.COMPLETE else task.desired
        if not is_live(task) or task.status.state >= goal:
            return None
        return TaskStatus(state=min(goal, TaskState.SHUTDOWN), timestamp_ns=self.now_ns)
