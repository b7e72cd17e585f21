"""The session with the leader: one gRPC stream that beats, reports, acknowledges and assigns.

Any error ends the session; the next try goes to another manager, or to the leader that the last
one named. Containers and tables stay as they are without a manager, for ever.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import msgspec

from swarmapi.conversation import LEADER_METADATA
from swarmapi.errors import Unavailable
from swarmapi.model.objects import Config, NodeDescription, Secret, SpecVersion, Task
from swarmapi.model.tables import NetworkTable, TableDelta, apply_delta
from swarmapi.v1 import dispatcher_pb2 as pb
from worker.agent import probes
from worker.agent.answers import Answers
from worker.agent.execs import ExecRunner
from worker.agent.leases import NodeLeases
from worker.agent.logs import LogPublisher
from worker.agent.ports import Clock, ExecSource, LogSource, Vantage
from worker.agent.reporter import Reporter
from worker.agent.secrets import NodeSecrets
from worker.agent.tasks import Assigned, TaskTable

logger = logging.getLogger(__name__)

FORMAT = 1
_CONNECT_TIMEOUT_S = 2.0
"""A machine without power answers nothing at all; a new leader's grace is 6 periods of 1 s."""
_SHUN_NS = 3 * 10**9
"""Long enough for an election: by then its followers no longer name a lost leader."""
_WELCOME_TIMEOUT_S = 10
_SILENT_PERIODS = 4
"""Every beat is answered; a leader that is silent for so many periods is gone or stopped. Fewer
than the periods of grace that its successor gives."""
_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 2.0


class Tables(Protocol):
    """Where endpoint tables go: returns the revisions that nft, DNS and fdb hold."""

    async def set_tables(self, tables: Mapping[str, NetworkTable]) -> dict[str, int]: ...

    async def caught_up(self) -> dict[str, int]:
        """Wait until tables that could not be put into effect are; return their revisions."""
        ...


@dataclass(frozen=True)
class Place:
    """What a node says of itself in a session."""

    description: NodeDescription
    address: str
    data_path: str


@dataclass
class AgentParts:
    """What an agent is built from."""

    place: Callable[[], Place]
    tasks: TaskTable
    reporter: Reporter
    tables: Tables
    secrets: NodeSecrets
    logs: LogSource
    leases: NodeLeases
    execs: ExecSource
    vantages: Callable[[], Mapping[str, Vantage]]
    """A running container on each network, by network id."""
    channel: Callable[[str], grpc.aio.Channel]
    """A mutual-TLS channel to a manager's `host:port`."""
    managers: list[str]
    save_managers: Callable[[list[str]], Awaitable[None]]
    clock: Clock
    shown: Callable[[], tuple[bytes, bytes]] = lambda: (b"", b"")
    """The certificate of new connections and the roots they trust, PEM."""
    on_trust: Callable[[bytes, str, float], None] = lambda roots, issuer, within_s: None
    """Called with the roots to trust, whose certificate to have, and within what time."""
    on_role: Callable[[str], None] = lambda role: None
    """Called with the store's role of this node when a session begins."""


class SessionEnded(Exception):
    """The session is over; a new one follows."""


class Unreachable(SessionEnded):
    """The session did not begin: nobody was there."""


class Agent:
    """Keeps a session with the leader for as long as it runs."""

    def __init__(self, parts: AgentParts) -> None:
        self._parts = parts
        self._tables: dict[str, NetworkTable] = {}
        self._revisions: dict[str, int] = {}
        self._leader = ""
        """Whom the last manager named as the leader; empty when it named nobody."""
        self._shunned_until_ns: dict[str, int] = {}
        """Managers that did not answer; tried before that time only if there is no other."""
        self._chain = 0
        self._publisher: LogPublisher | None = None
        self._runner: ExecRunner | None = None
        self._probes = Answers()
        self.session_id = ""
        """Of the session in force; empty while there is none."""
        self._shown = asyncio.Event()

    def tell_certificate(self) -> None:
        """Tell the leader of another certificate, or of other roots."""
        self._shown.set()

    async def run(self) -> None:
        """Hold sessions until cancelled."""
        backoff_s = 0.0
        while True:
            target = self._target()
            try:
                await self._session(target)
            except (grpc.aio.AioRpcError, SessionEnded, Unavailable, TimeoutError) as error:
                self._leader = _leader_of(error)
                logger.info("session with %s ended: %s", target, _words(error))
                if isinstance(error, Unreachable | TimeoutError):
                    self._shunned_until_ns[target] = self._parts.clock.now_ns() + _SHUN_NS
            began, self.session_id = bool(self.session_id), ""
            if self._leader and not self._shuns(self._leader):
                continue
            backoff_s = 0.0 if began else min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S + 2 * backoff_s)
            await self._parts.clock.sleep(random.uniform(0.02, max(backoff_s, 0.05)))

    def _shuns(self, manager: str) -> bool:
        return self._parts.clock.now_ns() < self._shunned_until_ns.get(manager, 0)

    def _target(self) -> str:
        """Return the named leader, else any manager; the ones that did not answer come last."""
        named, self._leader = self._leader, ""
        if named and not self._shuns(named):
            return named
        managers = self._parts.managers
        return random.choice([m for m in managers if not self._shuns(m)] or managers)

    async def _session(self, target: str) -> None:
        outgoing: asyncio.Queue[pb.AgentMessage] = asyncio.Queue()
        place = self._parts.place()
        outgoing.put_nowait(
            pb.AgentMessage(
                hello=pb.Hello(
                    format=FORMAT,
                    description=msgspec.msgpack.encode(place.description),
                    address=place.address,
                    data_path=place.data_path,
                    tables=self._revisions,
                )
            )
        )
        async with self._parts.channel(target) as channel:
            await _connect(channel)
            call = _open(channel)
            async with asyncio.timeout(_WELCOME_TIMEOUT_S):
                await call.write(outgoing.get_nowait())
                first = await call.read()
            if not isinstance(first, pb.DispatcherMessage) or not first.HasField("welcome"):
                raise SessionEnded("the manager closed the stream")
            welcome = first.welcome
            self.session_id = welcome.session_id
            self._chain = 0
            self._parts.secrets.begin()
            self._parts.on_role(welcome.role)
            await self._learn_managers(list(welcome.managers))
            self._parts.reporter.again(self._parts.tasks.statuses())
            self._publisher = LogPublisher(channel, self._parts.logs)
            self._parts.leases.begin(channel)
            self._runner = ExecRunner(channel, self._parts.execs)
            try:
                await self._converse(call, outgoing, welcome.beat_every_ms / 1000)
            finally:
                self._parts.leases.begin(None)
                await self._publisher.close()
                await self._runner.close()
                await self._probes.close()

    async def _converse(
        self,
        call: Any,
        outgoing: "asyncio.Queue[pb.AgentMessage]",
        beat_every_s: float,
    ) -> None:
        async def beat() -> None:
            while True:
                outgoing.put_nowait(pb.AgentMessage(beat=pb.Beat()))
                await self._parts.clock.sleep(beat_every_s)

        async def report() -> None:
            while True:
                batch = await self._parts.reporter.next_batch()
                reports = [
                    pb.TaskReport(task_id=task_id, status=msgspec.msgpack.encode(status))
                    for task_id, status in batch.items()
                ]
                outgoing.put_nowait(pb.AgentMessage(reports=pb.TaskReports(reports=reports)))

        async def send() -> None:
            with contextlib.suppress(asyncio.InvalidStateError):  # `listen` tells why it ended
                while True:
                    await call.write(await outgoing.get())

        async def listen() -> None:
            while True:
                async with asyncio.timeout(_SILENT_PERIODS * beat_every_s):
                    message = await call.read()
                if not isinstance(message, pb.DispatcherMessage):
                    raise SessionEnded("the manager closed the stream")
                await self._take(message, outgoing)

        jobs = [asyncio.ensure_future(job()) for job in (beat, report, send, listen)]
        jobs.append(asyncio.ensure_future(self._catch_up(outgoing)))
        jobs.append(asyncio.ensure_future(self._tell_certificate(outgoing)))
        jobs.append(asyncio.ensure_future(self._parts.leases.run()))
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _take(
        self,
        message: pb.DispatcherMessage,
        outgoing: "asyncio.Queue[pb.AgentMessage]",
    ) -> None:
        kind = message.WhichOneof("message")
        if kind == "assignments":
            await self._assign(message.assignments, outgoing)
        elif kind == "log" and self._publisher is not None:
            self._publisher.answer(message.log)
        elif kind == "exec" and self._runner is not None:
            self._runner.answer(message.exec)
        elif kind == "probe":
            self._probes.begin(self._probe(message.probe, outgoing))

    async def _probe(
        self, request: pb.ProbeRequest, outgoing: "asyncio.Queue[pb.AgentMessage]"
    ) -> None:
        probed = await probes.answer(request, self._tables, self._parts.vantages)
        outgoing.put_nowait(pb.AgentMessage(probed=probed))

    async def _assign(
        self, message: pb.Assignments, outgoing: "asyncio.Queue[pb.AgentMessage]"
    ) -> None:
        if message.chain != self._chain + 1:
            raise SessionEnded(f"assignment {message.chain} after {self._chain}")
        self._chain = message.chain
        assigned = [
            Assigned(
                msgspec.msgpack.decode(one.task, type=Task),
                msgspec.msgpack.decode(one.spec, type=SpecVersion),
            )
            for one in message.tasks
        ]
        complete = message.kind == pb.Assignments.COMPLETE
        await self._take_tables(message, complete=complete, outgoing=outgoing)
        decode = msgspec.msgpack.decode
        secrets = [decode(raw, type=Secret) for raw in message.secrets]
        secrets += [decode(raw, type=Config) for raw in message.configs]
        self._parts.secrets.take(secrets, complete=complete)
        if complete:
            await self._parts.tasks.assign_all(assigned)
        else:
            await self._parts.tasks.change(assigned, message.removed_tasks)
        self._parts.secrets.forget(message.removed_secrets)
        if message.HasField("trust"):
            trust = message.trust
            within_s = trust.renew_within_ms / 1000
            self._parts.on_trust(trust.roots_pem, trust.issuer, within_s)
        await self._learn_managers(list(message.managers))

    async def _take_tables(
        self,
        message: pb.Assignments,
        *,
        complete: bool,
        outgoing: "asyncio.Queue[pb.AgentMessage]",
    ) -> None:
        """Apply tables before the tasks that need them, and acknowledge what is in the kernel."""
        tables = {} if complete else dict(self._tables)
        for raw in message.tables:
            delta = msgspec.msgpack.decode(raw, type=TableDelta)
            fresh = apply_delta(self._tables.get(delta.network_id), delta)
            if fresh is None:
                raise SessionEnded(f"a gap in the table of network {delta.network_id}")
            tables[delta.network_id] = fresh
        for network_id in message.removed_tables:
            tables.pop(network_id, None)
        if tables == self._tables and not message.tables:
            return
        self._revisions = await self._parts.tables.set_tables(tables)
        self._tables = tables
        outgoing.put_nowait(pb.AgentMessage(ack=pb.TableAck(revisions=self._revisions)))

    async def _catch_up(self, outgoing: "asyncio.Queue[pb.AgentMessage]") -> None:
        """Acknowledge what came into effect only after `_take_tables` had been told it is not."""
        while True:
            self._revisions = await self._parts.tables.caught_up()
            outgoing.put_nowait(pb.AgentMessage(ack=pb.TableAck(revisions=self._revisions)))

    async def _tell_certificate(self, outgoing: "asyncio.Queue[pb.AgentMessage]") -> None:
        """Tell what this node shows and trusts, at first and after each change."""
        while True:
            self._shown.clear()
            certificate, roots = self._parts.shown()
            if certificate:
                told = pb.NodeTLS(certificate_pem=certificate, roots_pem=roots)
                outgoing.put_nowait(pb.AgentMessage(tls=told))
            await self._shown.wait()

    async def _learn_managers(self, managers: list[str]) -> None:
        if managers and managers != self._parts.managers:
            self._parts.managers = managers
            await self._parts.save_managers(managers)


async def _connect(channel: grpc.aio.Channel) -> None:
    """Wait until a channel is connected.

    Raises:
        Unreachable: the connection is refused, or not a manager's.
        TimeoutError: nobody answers there.
    """
    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
        state = channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise Unreachable("it cannot be reached")
            await channel.wait_for_state_change(state)
            state = channel.get_state()


def _open(channel: grpc.aio.Channel) -> Any:
    """Open the stream; it is cancelled with the channel.

    It is written by hand: gRPC would close an iterator of requests while it still runs.
    """
    session: Any = channel.stream_stream(  # the stubs want an iterator of requests
        "/swarmapi.v1.Dispatcher/Session",
        request_serializer=pb.AgentMessage.SerializeToString,
        response_deserializer=pb.DispatcherMessage.FromString,
    )
    return session()


def _leader_of(error: Exception) -> str:
    """Return the leader that a manager named when it refused, else the empty string."""
    if isinstance(error, grpc.aio.AioRpcError):
        pairs: Any = error.trailing_metadata()  # the stubs hide that they are pairs
        for key, value in pairs or ():
            if key == LEADER_METADATA:
                return str(value)
    return ""


def _words(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
