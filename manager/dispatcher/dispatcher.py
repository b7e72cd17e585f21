"""Sessions of the nodes' agents: registration, assignments, beats, reports, acknowledgements."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from manager.ca.authority import check_node
from manager.ca.certificates import tls_of
from manager.dispatcher.assignments import Assigner
from manager.dispatcher.liveness import Liveness, beat_period_s
from manager.dispatcher.reports import ReportBatcher
from manager.dispatcher.tables import TableCache
from manager.replica import LogStatus, Store
from manager.store.apply import Applied
from manager.store.changes import SetNodeDescription, SetNodeStatus, SetNodeTLS
from swarmapi.errors import (
    Conflict,
    Forbidden,
    InvalidArgument,
    NotLeader,
    SwarmError,
    Unavailable,
)
from swarmapi.identity import Identity, identity_from_auth_context, identity_of
from swarmapi.model import defaults
from swarmapi.model.objects import (
    NetworkLease,
    Node,
    NodeDescription,
    NodeState,
    Service,
    TaskStatus,
)
from swarmapi.v1 import dispatcher_pb2 as pb
from swarmapi.v1 import exec_pb2, logs_pb2

log = logging.getLogger(__name__)
FORMAT: Final = 1
MERGE_S: Final = 0.02
"""Changes within this time travel in one message."""
MESSAGES_A_SECOND: Final = 1_000
"""To all sessions together, when something changes for all of them again and again."""
HELLO_WAIT_S: Final = 10.0
SESSIONS_WITHIN: Final = (3, 8.0)
"""A node begins at most so many sessions within so many seconds: each one writes to the log."""
TICK_S: Final = 0.1


class Session:
    """One stream; the newest of a node is the only one that counts."""

    def __init__(self, session_id: str, node_id: str, assigner: Assigner, role: str) -> None:
        self.id = session_id
        self.node_id = node_id
        self.assigner = assigner
        self.role = role
        self.dirty_tasks: set[str] = set()
        self.stored: list[str] = []
        self.requests: list[pb.DispatcherMessage] = []
        """What its agent is asked to answer with calls of its own."""
        self.beaten = False
        self.changed = asyncio.Event()
        self.error: SwarmError | None = None

    def end(self, error: SwarmError) -> None:
        """End the session with this answer."""
        self.error = self.error or error
        self.changed.set()


class Dispatcher:
    """The leader's side of all sessions; on other members it names the leader."""

    def __init__(
        self,
        store: Store,
        on_acks: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._task_node: dict[str, str] = {}
        self._acks: dict[str, dict[str, int]] = {}
        self._cache = TableCache()
        self._reports = ReportBatcher(store)
        self._begun: dict[str, deque[float]] = {}
        """When each node's last sessions began."""
        self._led = False
        self.on_acks = on_acks
        self.on_session: Callable[[str, bool], None] = lambda node_id, began: None
        """Called with a node's id when its session has begun (True), and when it has none."""
        self.on_probed: Callable[[str, pb.Probed], None] = lambda node_id, probed: None
        self.liveness = Liveness()
        store.replica.subscribe(self._on_applied)
        store.replica.on_restore(self._on_restore)
        store.log.on_status(self._on_status)
        self._on_status(store.log.status)

    @property
    def acks(self) -> Mapping[str, Mapping[str, int]]:
        """Table revisions each node has acknowledged."""
        return self._acks

    # what the log says ----------------------------------------------------------------------

    def _on_status(self, status: LogStatus) -> None:
        leads = status.is_leader and status.ready
        if leads and not self._led:
            nodes = self._store.view.nodes.values()
            known = [n.id for n in nodes if n.state != NodeState.DOWN]
            self.liveness.lead(known, self._clock(), self.period_s())
            self._acks.clear()
            self._begun.clear()
        self._led = leads
        if not leads:
            for session in self._sessions.values():
                session.end(NotLeader(leader=status.leader_address))

    def _on_restore(self) -> None:
        self._cache.clear()
        for session in self._sessions.values():
            session.end(Unavailable("the state was replaced: begin a new session"))

    def _on_applied(self, applied: Applied) -> None:
        view = self._store.view
        for (kind, object_id), moved in applied.changed.items():
            if kind == "task":
                self._route_task(object_id)
            elif kind == "service":
                self._service_changed(moved.after)
            elif kind == "node":
                self._node_changed(object_id)
                if _manager_of(moved.before) != _manager_of(moved.after):
                    self._wake(self._sessions)
            elif isinstance(moved.before, NetworkLease):
                self._wake((moved.before.node_id,))  # it may have left the network
            elif kind == "cluster" or (kind == "network" and moved.after is None):
                self._wake(self._sessions)
        for network_id in applied.tables:
            self._wake(view.participants(view.networks[network_id]))

    def _route_task(self, task_id: str) -> None:
        task = self._store.view.tasks.get(task_id)
        node_id = task.node_id if task is not None else self._task_node.pop(task_id, "")
        session = self._sessions.get(node_id)
        if session is not None:
            if task is not None:
                self._task_node[task_id] = node_id
            session.dirty_tasks.add(task_id)
            session.changed.set()

    def _service_changed(self, service: object) -> None:
        """Let the nodes of its tasks have what is swapped into them."""
        if isinstance(service, Service) and any(
            reference.swap for _, reference in defaults.references(service.spec)
        ):
            for task in self._store.view.tasks_of_service(service.id):
                self._route_task(task.id)

    def _node_changed(self, node_id: str) -> None:
        node = self._store.view.nodes.get(node_id)
        session = self._sessions.get(node_id)
        if node is None:
            self.liveness.forget(node_id)
            self._acks.pop(node_id, None)
            self._begun.pop(node_id, None)
            if session is not None:
                session.end(Forbidden(f"node {node_id} was removed from the cluster"))
        elif session is not None and session.role != node.spec.role.value:
            session.end(Conflict(f"node {node_id} is now a {node.spec.role.value}"))
        if node is not None and self._led and node.state != NodeState.DOWN:
            self.liveness.expect(node_id, self._clock(), self.period_s())
        self._wake((node_id,))

    def _wake(self, node_ids: Iterable[str]) -> None:
        """Let the sessions of these nodes look for what is new to them."""
        for node_id in node_ids:
            session = self._sessions.get(node_id)
            if session is not None:
                session.changed.set()

    # one session ----------------------------------------------------------------------------

    async def converse(self, messages: AsyncIterator[pb.AgentMessage], context: Any) -> None:
        """Serve one agent until either side ends the stream.

        Raises:
            SwarmError: why the session ended.
        """
        session = await self._begin(messages, context)
        try:
            await context.write(pb.DispatcherMessage(welcome=self._welcome(session)))
            self.on_session(session.node_id, True)
            await self._serve(session, messages, context)
        finally:
            if self._sessions.get(session.node_id) is session:
                del self._sessions[session.node_id]
                self.on_session(session.node_id, False)

    def ask_for_log(self, node_id: str, request: logs_pb2.LogRequest) -> bool:
        """Ask a node's agent to publish a log; returns False when it has no session."""
        return self._ask(node_id, pb.DispatcherMessage(log=request))

    def ask_for_exec(self, node_id: str, request: exec_pb2.ExecRequest) -> bool:
        """Ask a node's agent to run a process; returns False when it has no session."""
        return self._ask(node_id, pb.DispatcherMessage(exec=request))

    def ask_for_probe(self, node_id: str, request: pb.ProbeRequest) -> bool:
        """Ask a node's agent to try out the network; returns False when it has no session."""
        return self._ask(node_id, pb.DispatcherMessage(probe=request))

    def _ask(self, node_id: str, message: pb.DispatcherMessage) -> bool:
        session = self._sessions.get(node_id)
        if session is None:
            return False
        session.requests.append(message)
        session.changed.set()
        return True

    def _check(self, identity: Identity) -> Node:
        status = self._store.log.status
        if not status.is_leader:
            raise NotLeader(leader=status.leader_address)
        if not status.ready:
            raise Unavailable("the leader is starting: try again")
        return check_node(self._store.view, identity)

    async def _begin(self, messages: AsyncIterator[pb.AgentMessage], context: Any) -> Session:
        identity = identity_from_auth_context(context)
        # Hello is read before anything is refused: an agent whose write meets a call that has
        # ended is told INTERNAL by its gRPC, and not who leads.
        try:
            async with asyncio.timeout(HELLO_WAIT_S):
                first = await anext(messages, None)
        except TimeoutError as error:
            raise InvalidArgument("a session begins with Hello") from error
        self._check(identity)
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidArgument("a session begins with Hello")
        hello, node_id = first.hello, identity.node_id
        self._refuse_flapping(node_id)
        description = _decoded(hello.description, NodeDescription)
        address = hello.address or _host(context.peer())
        # Before READY is proposed: else its silence might be found, and stored, after it.
        self.liveness.register(node_id, self._clock(), self.period_s())
        await self._store.propose(
            (
                SetNodeDescription(
                    node_id=node_id,
                    description=description,
                    address=address,
                    data_path=hello.data_path or address,
                    reason="session begins",
                ),
                SetNodeStatus(node_id=node_id, state=NodeState.READY, reason="session begins"),
            )
        )
        # Again, and nothing is awaited after it: a session that a lost leadership did not end
        # would be answered here for ever, while the next leader takes the node for lost.
        node = self._check(identity)
        held = dict(hello.tables)
        assigner = Assigner(node_id, self._cache, held)
        session = Session(self._store.new_id(), node_id, assigner, node.spec.role.value)
        older = self._sessions.get(node_id)
        if older is not None:
            older.end(Conflict("another session of this node began"))
        self._sessions[node_id] = session
        self._acks[node_id] = held
        self.on_acks()
        return session

    def _refuse_flapping(self, node_id: str) -> None:
        most, within_s = SESSIONS_WITHIN
        begun = self._begun.setdefault(node_id, deque(maxlen=most))
        if len(begun) == most and self._clock() - begun[0] < within_s:
            raise Unavailable(
                f"node {node_id} began {most} sessions within {within_s:g} s: wait and try again"
            )
        begun.append(self._clock())

    def _welcome(self, session: Session) -> pb.Welcome:
        return pb.Welcome(
            format=FORMAT,
            session_id=session.id,
            beat_every_ms=int(self.period_s() * 1000),
            managers=self._store.view.manager_addresses(),
            role=session.role,
        )

    async def _serve(
        self, session: Session, messages: AsyncIterator[pb.AgentMessage], context: Any
    ) -> None:
        view = self._store.view
        complete = session.assigner.complete(view)
        for task in view.tasks_of_node(session.node_id):
            self._task_node[task.id] = session.node_id
        reader = asyncio.create_task(self._read(session, messages))
        reader.add_done_callback(lambda _: session.changed.set())
        try:
            await _assign(session, complete, context)
            while not reader.done():
                await session.changed.wait()
                session.changed.clear()
                if session.error is not None:
                    raise session.error
                await self._send(session, context)
                if not session.changed.is_set():
                    continue
                await asyncio.sleep(self._merge_s())
            reader.result()
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader

    async def _send(self, session: Session, context: Any) -> None:
        if session.beaten:
            session.beaten = False
            await context.write(pb.DispatcherMessage(beat=pb.Beat()))
        if session.stored:
            ids, session.stored = session.stored, []
            await context.write(pb.DispatcherMessage(stored=pb.ReportsStored(task_ids=ids)))
        requests, session.requests = session.requests, []
        for request in requests:
            await context.write(request)
        dirty, session.dirty_tasks = session.dirty_tasks, set()
        message = session.assigner.incremental(self._store.view, dirty)
        if await _assign(session, message, context):
            await asyncio.sleep(self._merge_s())

    def _merge_s(self) -> float:
        """Return how long a session rests after a message."""
        return max(MERGE_S, len(self._sessions) / MESSAGES_A_SECOND)

    async def _read(self, session: Session, messages: AsyncIterator[pb.AgentMessage]) -> None:
        pending: set[asyncio.Task[None]] = set()
        try:
            async for message in messages:
                self.liveness.beat(session.node_id, self._clock())
                kind = message.WhichOneof("message")
                if kind == "beat":
                    session.beaten = True
                    session.changed.set()
                elif kind == "reports":
                    reports = self._checked(session, message.reports)
                    job = asyncio.create_task(self._store_reports(session, reports))
                    pending.add(job)
                    job.add_done_callback(pending.discard)
                elif kind == "ack":
                    self._acks[session.node_id] = dict(message.ack.revisions)
                    self.on_acks()
                elif kind == "tls":
                    job = asyncio.create_task(self._store_tls(session, message.tls))
                    pending.add(job)
                    job.add_done_callback(pending.discard)
                elif kind == "probed":
                    self.on_probed(session.node_id, message.probed)
                elif kind == "hello":
                    raise InvalidArgument("a session has one Hello")
        finally:
            for job in pending:
                job.cancel()

    def _checked(self, session: Session, reports: pb.TaskReports) -> dict[str, TaskStatus]:
        result = {}
        for report in reports.reports:
            status = _decoded(report.status, TaskStatus)
            self._reports.check(session.node_id, report.task_id, status)
            result[report.task_id] = status
        return result

    async def _store_reports(self, session: Session, reports: dict[str, TaskStatus]) -> None:
        try:
            session.stored += await self._reports.store(reports)
        except SwarmError as error:
            session.end(error)
        session.changed.set()

    async def _store_tls(self, session: Session, told: pb.NodeTLS) -> None:
        view = self._store.view
        node = view.nodes.get(session.node_id)
        root = view.cluster.root_ca if view.cluster is not None else None
        if node is None or root is None:
            return
        try:
            if identity_of(told.certificate_pem).node_id != node.id:
                raise InvalidArgument("certificate of a node: it is another one's")
            tls = tls_of(root, told.certificate_pem, told.roots_pem)
            if tls != node.tls:
                change = SetNodeTLS(node_id=node.id, tls=tls, reason="certificate told")
                await self._store.propose((change,))
        except SwarmError as error:
            session.end(error)  # the next session tells again

    # liveness -------------------------------------------------------------------------------

    def period_s(self) -> float:
        """Return how often agents are to beat."""
        cluster = self._store.view.cluster
        dispatcher = cluster.spec.dispatcher if cluster is not None else None
        base_ns = dispatcher.heartbeat_period if dispatcher else 0
        base_s = (base_ns or defaults.HEARTBEAT_PERIOD_NS) / 1e9
        return beat_period_s(base_s, len(self._store.view.nodes))

    async def watch(self) -> None:
        """Mark silent nodes UNKNOWN, then DOWN, until cancelled."""
        while True:
            self.liveness.tick(self._clock(), TICK_S)
            try:
                await self.expire()
            except SwarmError as error:
                log.info("silent nodes not marked: %s", error.message)
            await asyncio.sleep(TICK_S)

    async def expire(self) -> None:
        """Store which nodes have been silent for too long, and end their sessions."""
        if not self._led:
            return
        changes = []
        for node_id, state in self.liveness.expired(self._clock()):
            node = self._store.view.nodes.get(node_id)
            if node is None or node.state == NodeState.DOWN:
                continue
            changes.append(
                SetNodeStatus(
                    node_id=node_id,
                    state=NodeState(state),
                    message="heartbeat failure",
                    reason="no heartbeat",
                )
            )
            session = self._sessions.get(node_id)
            if session is not None and state == "down":
                session.end(Unavailable("heartbeat failure: begin a new session"))
        if changes:
            await self._store.propose(changes)


async def _assign(session: Session, message: pb.Assignments | None, context: Any) -> bool:
    """Send what the assigner has made, in order; False when that is nothing."""
    parts = session.assigner.take_ahead()
    parts += [message] if message is not None else []
    for part in parts:
        await context.write(pb.DispatcherMessage(assignments=part))
    return bool(parts)


def _manager_of(node: object) -> str:
    """Return what the list of managers holds of a node, empty when nothing."""
    return node.manager_address if isinstance(node, Node) and node.is_manager else ""


def _decoded(raw: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{kind.__name__} cannot be read: {error}") from error


def _host(peer: str) -> str:
    """Return the IPv4 address in gRPC's `ipv4:host:port`; empty for other transports."""
    kind, _, rest = peer.partition(":")
    return rest.rpartition(":")[0] if kind == "ipv4" else ""
