"""The agent of a simulated node."""

import random

from swarmapi.model.objects import TaskState
from swarmapi.model.tables import NetworkTable

NEXT = {
    TaskState.ASSIGNED: TaskState.ACCEPTED,
    TaskState.ACCEPTED: TaskState.PREPARING,
    TaskState.PREPARING: TaskState.READY,
    TaskState.READY: TaskState.STARTING,
    TaskState.STARTING: TaskState.RUNNING,
}


COMPLETION_RATE = 0.3


class FakeNode:
    """An agent: what it was told, what it runs, which tables it holds."""

    def __init__(self, node_id: str) -> None:
        self.id = node_id
        self.reachable = True
        self.alive = True
        self.last_beat_ns = 0
        self.desired: dict[str, TaskState] = {}
        self.local: dict[str, TaskState] = {}
        self.unsent: dict[str, TaskState] = {}
        self.tables: dict[str, NetworkTable] = {}
        self.unready: set[str] = set()

    def observe(self, task_id: str, state: TaskState) -> None:
        """Record a local state to be reported."""
        self.local[task_id] = state
        self.unsent[task_id] = state

    def work(self, rng: random.Random, failure_rate: float) -> None:
        """Bring every local task one step towards its desired state."""
        for task_id, state in list(self.local.items()):
            desired = self.desired.get(task_id, TaskState.REMOVE)
            if state > TaskState.RUNNING:
                continue
            if desired > TaskState.COMPLETE:
                self.observe(task_id, TaskState.SHUTDOWN)
            elif state == TaskState.RUNNING and desired == TaskState.COMPLETE:
                if rng.random() < COMPLETION_RATE:
                    self.observe(task_id, TaskState.COMPLETE)
            elif state == TaskState.RUNNING and rng.random() < failure_rate:
                self.unready ^= {task_id}
                self.unsent[task_id] = state
            elif rng.random() < failure_rate:
                early = state < TaskState.STARTING
                self.observe(task_id, TaskState.REJECTED if early else TaskState.FAILED)
            elif state < desired:
                self.observe(task_id, NEXT[state])

    def crash(self) -> None:
        """Lose power: containers and tables are gone, the task list survives."""
        self.alive = False
        self.tables.clear()
        for task_id, state in self.local.items():
            if state <= TaskState.RUNNING:
                self.observe(task_id, TaskState.FAILED)
