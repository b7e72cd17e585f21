"""Many nodes of one process: real certificates, channels and sessions, containers of thought alone.

`python -m tests.soak.agents HOST:PORT TOKEN FIRST COUNT` joins, holds a session for each node, and
obeys lines on standard input: `stats`, `lose N` (the last N fall silent), `find` (they come back).
Each is answered by a line of JSON. What a node does is what an agent does: it beats as it is told,
acknowledges tables in sequence, reports the steps of its tasks, begins again where a session ends.
"""

import asyncio
import json
import random
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import msgspec

from manager.ca.certificates import new_request
from swarmapi.conversation import MESSAGE_OPTIONS
from swarmapi.identity import JOIN_SERVER_NAME, MANAGER, TLSMaterial, expect
from swarmapi.model.objects import NodeDescription, TaskState, TaskStatus
from swarmapi.model.spec import Platform
from swarmapi.model.tables import TableDelta
from swarmapi.v1 import ca_pb2, ca_pb2_grpc, dispatcher_pb2_grpc, logs_pb2, logs_pb2_grpc
from swarmapi.v1 import dispatcher_pb2 as pb
from worker.cluster.ca_client import fetch_root

START_S: Final = 0.5
"""From PREPARING to RUNNING, and from the wish to stop to the end."""
SILENT_PERIODS: Final = 4
JOINS_AT_ONCE: Final = 16
_ca_rpc: Any = ca_pb2_grpc  # the generated modules are untyped
_dispatcher_rpc: Any = dispatcher_pb2_grpc
_logs_rpc: Any = logs_pb2_grpc


class Wanted(msgspec.Struct):
    """What of a task matters here."""

    id: str
    desired: TaskState = TaskState.RUNNING
    status: TaskStatus = TaskStatus(state=TaskState.ASSIGNED)


_task = msgspec.msgpack.Decoder(Wanted)
_delta = msgspec.msgpack.Decoder(TableDelta)


@dataclass
class Seen:
    """What the nodes of this process have seen since they were last asked."""

    beats: list[float] = field(default_factory=list)
    """Seconds until each beat was answered."""
    sessions: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    """Reasons of sessions that ended by themselves."""
    table_bytes: int = 0
    tasks: int = 0


class Deltas:
    """Decoded deltas by their bytes: all nodes of a network get the same ones."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, int, int, bool]] = {}

    def read(self, raw: bytes) -> tuple[str, int, int, bool]:
        """Return network, revision, base and whether it is a full table."""
        found = self._known.get(raw)
        if found is None:
            if len(self._known) > 512:
                self._known.clear()
            delta = _delta.decode(raw)
            found = delta.network_id, delta.revision, delta.base, delta.full is not None
            self._known[raw] = found
        return found


class SimulatedNode:
    """One node: its tasks and tables outlive its sessions."""

    def __init__(self, name: str, target: str, tls: TLSMaterial, seen: Seen, deltas: Deltas):
        self.name = name
        self._target, self._tls, self._seen, self._deltas = target, tls, seen, deltas
        self.tasks: dict[str, TaskState] = {}
        self._revisions: dict[str, int] = {}
        self._reports: dict[str, TaskState] = {}
        self._beats: list[float] = []
        self._writing = asyncio.Lock()
        self._call: Any = None
        self._channel: grpc.aio.Channel
        self._job: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Hold sessions until `lose`."""
        self._job = asyncio.create_task(self._run())
        self._job.add_done_callback(_tell_of_bugs)

    def lose(self) -> None:
        """Fall silent, as a machine without power; its containers are gone."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
        self.tasks.clear()
        self._revisions.clear()

    async def _run(self) -> None:
        while True:
            try:
                await self._session()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                told = error.details() if isinstance(error, grpc.aio.AioRpcError) else repr(error)
                self._seen.ended[str(told)] = self._seen.ended.get(str(told), 0) + 1
            await asyncio.sleep(random.uniform(0.1, 2.0))

    async def _session(self) -> None:
        options = [expect(MANAGER), *MESSAGE_OPTIONS]
        async with grpc.aio.secure_channel(
            self._target, self._tls.client(), options=options
        ) as self._channel:
            await asyncio.wait_for(self._channel.channel_ready(), 20)
            self._call = _dispatcher_rpc.DispatcherStub(self._channel).Session()
            description = NodeDescription(
                hostname=self.name,
                platform=Platform(os="linux", architecture="x86_64"),
                cpu_nanos=8 * 10**9,
                memory_bytes=32 << 30,
            )
            hello = pb.Hello(
                format=1,
                description=msgspec.msgpack.encode(description),
                address="127.0.0.1",
                data_path="127.0.0.1",
                tables=self._revisions,
            )
            await self._write(pb.AgentMessage(hello=hello))
            first = await asyncio.wait_for(self._call.read(), 20)
            if not isinstance(first, pb.DispatcherMessage):
                raise TimeoutError("the manager closed the stream")
            self._seen.sessions += 1
            period_s = first.welcome.beat_every_ms / 1000
            self._reports.update(self.tasks)
            self._beats.clear()
            jobs = [asyncio.create_task(self._beat(period_s)), asyncio.create_task(self._listen())]
            if self._reports:
                jobs.append(asyncio.create_task(self._report()))
            try:
                done, _ = await asyncio.wait(jobs[:2], return_when=asyncio.FIRST_COMPLETED)
                for job in done:
                    job.result()
            finally:
                for job in jobs:
                    job.cancel()

    async def _write(self, message: pb.AgentMessage) -> None:
        async with self._writing:
            await self._call.write(message)

    async def _beat(self, period_s: float) -> None:
        await asyncio.sleep(random.uniform(0, period_s))
        while True:
            now = time.monotonic()
            if self._beats and now - self._beats[0] > SILENT_PERIODS * period_s:
                raise TimeoutError("the leader is silent")
            self._beats.append(now)
            await self._write(pb.AgentMessage(beat=pb.Beat()))
            await asyncio.sleep(period_s)

    async def _listen(self) -> None:
        while True:
            message = await self._call.read()
            if not isinstance(message, pb.DispatcherMessage):
                raise TimeoutError("the manager closed the stream")
            kind = message.WhichOneof("message")
            if kind == "beat" and self._beats:
                now = time.monotonic()
                self._seen.beats += [now - sent for sent in self._beats]
                self._beats.clear()
            elif kind == "assignments":
                await self._assign(message.assignments)
            elif kind == "log":
                asyncio.create_task(self._answer(message.log.request_id))

    async def _assign(self, message: pb.Assignments) -> None:
        complete = message.kind == pb.Assignments.COMPLETE
        if await self._take_tables(message, complete=complete):
            await self._write(pb.AgentMessage(ack=pb.TableAck(revisions=self._revisions)))
        wanted = [_task.decode(one.task) for one in message.tasks]
        gone = list(message.removed_tasks)
        if complete:
            gone += [i for i in self.tasks if i not in {task.id for task in wanted}]
        for task_id in gone:
            self.tasks.pop(task_id, None)
        was_idle = not self._reports
        for task in wanted:
            self._want(task)
        if was_idle and self._reports:
            asyncio.create_task(self._report())

    async def _take_tables(self, message: pb.Assignments, *, complete: bool) -> bool:
        held = {} if complete else self._revisions
        for raw in message.tables:
            self._seen.table_bytes += len(raw)
            network_id, revision, base, full = self._deltas.read(raw)
            if not full and self._revisions.get(network_id) != base:
                raise TimeoutError(f"a gap in the table of network {network_id}")
            held[network_id] = revision
        for network_id in message.removed_tables:
            held.pop(network_id, None)
        self._revisions = held
        return bool(message.tables or message.removed_tables or complete)

    def _want(self, task: Wanted) -> None:
        now = self.tasks.get(task.id, max(task.status.state, TaskState.ASSIGNED))
        if now > TaskState.RUNNING:
            return
        if task.desired > TaskState.COMPLETE:
            goal = TaskState.SHUTDOWN
        elif task.desired < TaskState.RUNNING:
            goal = TaskState.READY
        else:
            goal = TaskState.RUNNING
        if goal > now:
            self._reports[task.id] = goal

    async def _report(self) -> None:
        """Tell the first step of what is to be told, and a little later the last one."""
        first = [i for i in self._reports if self.tasks.get(i, TaskState.NEW) < TaskState.PREPARING]
        await self._tell(dict.fromkeys(first, TaskState.PREPARING))
        await asyncio.sleep(START_S)
        reports, self._reports = self._reports, {}
        await self._tell(reports)

    async def _tell(self, states: dict[str, TaskState]) -> None:
        reports = []
        for task_id, state in states.items():
            self.tasks[task_id] = state
            status = TaskStatus(
                state=state,
                timestamp_ns=time.time_ns(),
                message=state.name.lower(),
                container_id=(task_id * 3)[:64],
                pid=4242 if state is TaskState.RUNNING else 0,
            )
            reports.append(pb.TaskReport(task_id=task_id, status=msgspec.msgpack.encode(status)))
        if reports:
            await self._write(pb.AgentMessage(reports=pb.TaskReports(reports=reports)))

    async def _answer(self, request_id: str) -> None:
        call = _logs_rpc.LogsStub(self._channel).Publish()
        head = logs_pb2.LogHead(request_id=request_id)
        await call.write(logs_pb2.LogPublication(head=head))
        await call.write(logs_pb2.LogPublication(end=logs_pb2.LogEnd(error="")))
        await call.done_writing()


async def join(manager: str, token: str, names: list[str]) -> list[TLSMaterial]:
    """Have a certificate issued for each name; the nodes share a key."""
    root_pem = await fetch_root(manager)
    key_pem, csr_pem = new_request()
    options = [expect(JOIN_SERVER_NAME)]
    credentials = grpc.ssl_channel_credentials(root_pem)
    turns = asyncio.Semaphore(JOINS_AT_ONCE)
    async with grpc.aio.secure_channel(manager, credentials, options=options) as channel:
        stub = _ca_rpc.CertificateAuthorityStub(channel)

        async def one(name: str) -> TLSMaterial:
            request = ca_pb2.IssueRequest(csr_pem=csr_pem, join_token=token, hostname=name)
            async with turns:
                reply = await stub.IssueCertificate(request, timeout=60)
            return TLSMaterial(root_pem, reply.certificate_pem, key_pem)

        return list(await asyncio.gather(*(one(name) for name in names)))


async def main(manager: str, token: str, first: int, count: int) -> None:
    """Join, then obey until standard input ends."""
    seen, deltas = Seen(), Deltas()
    names = [f"sim-{number:04}" for number in range(first, first + count)]
    nodes = [
        SimulatedNode(name, manager, tls, seen, deltas)
        for name, tls in zip(names, await join(manager, token, names), strict=True)
    ]
    print(json.dumps({"joined": count}), flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    lost: list[SimulatedNode] = []
    while line := (await reader.readline()).decode().split():
        match line:
            case ["begin"]:
                for node in nodes:
                    node.begin()
                    await asyncio.sleep(0.002)
            case ["lose", number]:
                lost = nodes[-int(number) :]
                for node in lost:
                    node.lose()
            case ["find"]:
                for node in lost:
                    node.begin()
        print(json.dumps(_stats(seen, nodes)), flush=True)
    for node in nodes:
        node.lose()


def _tell_of_bugs(job: "asyncio.Task[None]") -> None:
    if not job.cancelled() and job.exception() is not None:
        traceback.print_exception(job.exception())


def _stats(seen: Seen, nodes: list[SimulatedNode]) -> dict[str, Any]:
    running = sum(s is TaskState.RUNNING for node in nodes for s in node.tasks.values())
    told = {"beats": seen.beats, "sessions": seen.sessions, "ended": seen.ended}
    told |= {"running": running, "table_bytes": seen.table_bytes}
    seen.beats, seen.sessions, seen.ended, seen.table_bytes = [], 0, {}, 0
    return told


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
