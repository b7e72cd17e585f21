"""A one-manager cluster in memory: real store and real turns on a log of a single copy."""

import datetime
import itertools
from collections.abc import Callable, Coroutine

from aiohttp import web

from manager.ca.certificates import create_root
from manager.control.cluster import first_changes
from manager.events import EventLog
from manager.loop import ControlLoop
from manager.replica import Replica, Store
from manager.store.changes import SetNodeStatus, SetTaskStatus
from manager.store.view import is_live
from swarmapi.errors import Unavailable
from swarmapi.model.objects import (
    Cluster,
    Node,
    NodeDescription,
    NodeState,
    Task,
    TaskState,
    TaskStatus,
)
from swarmapi.model.spec import NodeRole, NodeSpec
from swarmapi.v1.logs_pb2 import LogRequest
from tests.fakes.manager_log import SingleCopyLog

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Clock:
    """Cluster time that moves when told to."""

    def __init__(self) -> None:
        self.now = 1_767_225_600_000_000_000

    def __call__(self) -> int:
        self.now += 1_000
        return self.now


class MemoryCluster:
    """The parts of a manager without sockets."""

    def __init__(self) -> None:
        numbers = itertools.count(1)
        self.clock = Clock()
        self.replica = Replica()
        self.log = SingleCopyLog(self.replica)
        self.store = Store(
            self.replica, self.log, lambda: f"{next(numbers):025d}", now_ns=self.clock
        )
        self.events = EventLog(self.replica)
        self.loop = ControlLoop(self.store, acks=dict)

    async def found(self) -> None:
        root = create_root(NOW, lambda n: bytes(range(n)))
        node = Node(
            id="m1",
            spec=NodeSpec(role=NodeRole.MANAGER),
            description=NodeDescription(hostname="host1"),
            state=NodeState.READY,
            address="127.0.0.1",
            data_path="127.0.0.1",
            manager_address="127.0.0.1:2377",
        )
        cluster = Cluster(id="cluster1", root_ca=root)
        await self.store.propose(first_changes(cluster, node, "ingress1"))
        ready = SetNodeStatus(node_id="m1", state=NodeState.READY)
        await self.store.propose((ready,))

    async def settle(self) -> None:
        """Run turns until there is nothing to do now."""
        for _ in range(50):
            if not await self.loop.step():
                return
        raise AssertionError("the control loop does not come to rest")

    async def run_tasks(self) -> list[Task]:
        """Report as an agent would: what is assigned runs, what is to stop has stopped."""
        view = self.store.view
        for task in list(view.tasks.values()):
            if task.status.state == TaskState.ASSIGNED:
                status = TaskStatus(
                    state=TaskState.RUNNING,
                    timestamp_ns=self.clock(),
                    message="started",
                    container_id="c" * 64,
                    pid=42,
                )
                await self.store.propose((SetTaskStatus(task_id=task.id, status=status),))
            elif is_live(task) and task.desired > TaskState.COMPLETE:
                status = TaskStatus(state=TaskState.SHUTDOWN, timestamp_ns=self.clock())
                await self.store.propose((SetTaskStatus(task_id=task.id, status=status),))
        await self.settle()
        return list(view.tasks.values())


def no_session(node_id: str, request: LogRequest) -> bool:
    """Stand for a dispatcher that no agent speaks to."""
    return False


class NoForwarder:
    """Answers for the leader, and notes who was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.request_ids: list[str] = []
        self.bodies: list[bytes] = []
        self.failures = 0

    async def forward(
        self,
        request: web.Request,
        leader_address: str,
        request_id: str,
        lost: Callable[[], Coroutine[None, None, None]],
    ) -> web.StreamResponse:
        self.asked.append(leader_address)
        self.request_ids.append(request_id)
        self.bodies.append(await request.read())
        if self.failures:
            self.failures -= 1
            raise Unavailable("the leader is gone")
        return web.Response(text=f"{request.method} {request.path_qs}")
