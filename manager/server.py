"""One manager: its servers, its loops, and their order at start and stop."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import grpc
from aiohttp import web

from manager.api.app import Local, build_app
from manager.api.forward import ForwardService, GrpcForwarder
from manager.api.keys import EXECS, PROBES, RAFT_USAGE
from manager.audit import AUDIT, log_of
from manager.bootstrap import Founding, found
from manager.ca.service import CertificateService, MembershipService
from manager.config import RunConfig, split
from manager.dispatcher.dispatcher import Dispatcher
from manager.dispatcher.leases import LeaseService
from manager.dispatcher.probes import ProbeBroker
from manager.dispatcher.service import DispatcherService
from manager.events import EventLog
from manager.execs.broker import ExecBroker
from manager.execs.service import ExecsService
from manager.front import Front
from manager.generations import Generations
from manager.keys import Locker, load_tls
from manager.logbroker.broker import LogBroker
from manager.logbroker.service import LogsService
from manager.logbroker.tails import TailKeeper, Tails
from manager.loop import ControlLoop
from manager.replica import Log, Replica, Store
from manager.roster import Roster
from manager.statecheck import StateCheck
from manager.store.apply import Applied
from manager.telling import LevelTeller
from swarmapi import release
from swarmapi.conversation import LEADER_METADATA, MESSAGE_OPTIONS
from swarmapi.errors import BY_GRPC_CODE, FailedPrecondition, SwarmError, Unavailable
from swarmapi.identity import JOIN_SERVER_NAME, MANAGER, LiveTLS, expect
from swarmapi.keyring import Keyring
from swarmapi.model import defaults
from swarmapi.model.spec import RaftSettings
from swarmapi.query import runner_of
from swarmapi.v1 import (
    ca_pb2,
    ca_pb2_grpc,
    dispatcher_pb2_grpc,
    exec_pb2_grpc,
    forward_pb2_grpc,
    leases_pb2_grpc,
    logs_pb2_grpc,
)

log = logging.getLogger(__name__)
RETRY_S: Final = 0.2
JOIN_WAIT_S: Final = 15.0
_OPTIONS: Final = (*MESSAGE_OPTIONS, ("grpc.so_reuseport", 0))
# The generated modules are untyped.
_ca_rpc: Any = ca_pb2_grpc
_dispatcher_rpc: Any = dispatcher_pb2_grpc
_exec_rpc: Any = exec_pb2_grpc
_forward_rpc: Any = forward_pb2_grpc
_leases_rpc: Any = leases_pb2_grpc
_logs_rpc: Any = logs_pb2_grpc


class RunningLog(Log, Protocol):
    """A log with a life, and perhaps a port of its own behind the public one."""

    async def start(self) -> None:
        """Begin to take part."""

    async def stop(self) -> None:
        """Stop taking part; what is acknowledged is durable."""

    async def listen(self, generation: int) -> None:
        """Serve with the present TLS material from now on; `backends` tells where."""

    async def hand_over(self) -> None:
        """Make another member lead, where there is one."""

    async def reseal(self) -> None:
        """Return once what is on the disk is sealed with the newest key of the node."""

    def tune(self, settings: RaftSettings) -> None:
        """Keep the log as the cluster's settings say."""

    @property
    def returning(self) -> bool:
        """Whether this member lost its log, and is to ask for its membership anew."""

    async def speak_from(self, index: int) -> None:
        """Return once a member that lost its log has come back: it holds this entry."""

    def start_anew(self) -> bool:
        """End the process and come back without the present state; False when it did so lately."""

    def usage(self) -> dict[str, Any]:
        """Return what the log takes on the disk, and how far it reaches."""

    @property
    def backends(self) -> dict[str, str]:
        """TLS server names of its own, and where they are served (`host:port`, `unix:PATH`)."""


class Manager:
    """Everything of one process; `new_log` makes the log over the replica, `keyring` seals it."""

    def __init__(
        self,
        config: RunConfig,
        tls: LiveTLS,
        new_log: Callable[[Replica], RunningLog],
        new_id: Callable[[], str],
        founding: Founding | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        self._config = config
        self._tls = tls
        self._founding = founding
        self._keyring = keyring
        self._log = new_log(replica := Replica())
        self.store = Store(replica, self._log, new_id)
        self._locker = (
            Locker(
                tls.identity.node_id,
                config.paths,
                keyring,
                config.unlock_key,
                self.store,
                self._log.reseal,
            )
            if keyring is not None
            else None
        )
        self._jobs: list[asyncio.Task[None]] = []
        self._inner: dict[str, Generations] = {}
        self._generation = 0
        self._taking = asyncio.Lock()
        self._forwarder = GrpcForwarder(tls.identity.node_id, lambda: tls.material)
        self._front: Front | None = None
        self._runner: web.AppRunner | None = None
        self.port = 0
        """The public port that was bound."""

    async def start(self) -> None:
        """Serve; raises OSError when an address cannot be had."""
        paths = self._config.paths
        paths.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        dispatcher = Dispatcher(self.store)
        control = ControlLoop(self.store, acks=lambda: dispatcher.acks)
        dispatcher.on_acks = control.nudge
        tails = Tails(paths.tails)
        broker = LogBroker(self.store, dispatcher.ask_for_log, tails.read)
        keeper = TailKeeper(self.store, broker, tails, self._share_log)
        execs = ExecBroker(self.store, dispatcher.ask_for_exec)

        def on_session(node_id: str, began: bool) -> None:
            broker.on_session(node_id, began)
            execs.on_session(node_id, began)

        dispatcher.on_session = on_session
        probes = ProbeBroker(dispatcher.ask_for_probe, self.store.new_id)
        dispatcher.on_probed = probes.take
        roster = Roster(self.store)
        teller = LevelTeller(
            self._tls.identity.node_id, release.version(), self.store, self._ask_membership
        )
        events = EventLog(self.store.replica)
        await self._log.start()
        self._follow_raft_settings()
        self._make_servers(dispatcher, broker, tails, execs)
        await self._listen_inside()
        host, port = split(self._config.listen)
        self._front = Front(host, port, *self._backends())
        self.port = await asyncio.to_thread(self._front.start)
        self._begin("control loop", control.run)
        self._begin("liveness", dispatcher.watch)
        self._begin("roster", roster.run)
        self._begin("level", teller.run)
        self._begin("kept logs", keeper.run)
        check = StateCheck(self.store, self._ask_digests, self._log.hand_over, self._log.start_anew)
        self._begin("state check", check.run)
        if self._locker is not None:
            self._begin("keys", self._locker.run)
        if self._founding is not None:
            self._begin("founding", self._found)
        elif self._log.returning:
            self._begin("return", self._come_back)
        elif self._config.join:
            self._begin("join", self._join)
        await self._serve_rest(broker, execs, events, probes)

    async def stop(self) -> None:
        """End in the reverse order."""
        if self._runner is not None:
            await self._runner.cleanup()
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._forwarder.close()
        if self._front is not None:
            await asyncio.to_thread(self._front.stop)
        for servers in self._inner.values():
            await servers.stop(0.5)
        await self._log.stop()

    def _follow_raft_settings(self) -> None:
        """Have the log kept as the cluster's settings say, now and after each change of them."""
        replica, told = self.store.replica, RaftSettings()

        def tell() -> None:
            nonlocal told
            cluster = replica.view.cluster
            wanted = defaults.raft(cluster.spec) if cluster is not None else told
            if wanted != told:
                told = wanted
                self._log.tune(wanted)

        replica.subscribe(lambda applied: tell() if touches_cluster(applied) else None)
        replica.on_restore(tell)
        tell()

    def _begin(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        self._jobs.append(asyncio.create_task(_kept_going(name, job), name=name))

    async def _share_log(self, task_id: str, lines: bytes) -> None:
        await self._forwarder.share_log(self._other_members().values(), task_id, lines)

    async def _ask_digests(self, index: int) -> dict[str, str]:
        return await self._forwarder.digests(self._other_members(), index)

    def _other_members(self) -> dict[str, str]:
        own = self._tls.identity.node_id
        return {i: address for i, address in self._log.members().items() if i != own}

    def _make_servers(
        self, dispatcher: Dispatcher, broker: LogBroker, tails: Tails, execs: ExecBroker
    ) -> None:
        authority = CertificateService(self.store, self._tls.material.ca_pem, self._relay)
        membership, leases = MembershipService(self.store), LeaseService(self.store)
        logs, exec_service = LogsService(self.store, broker, tails), ExecsService(self.store, execs)
        forwarding = ForwardService(self.store, self._config.paths.socket)
        sessions = DispatcherService(dispatcher)

        def trusted() -> grpc.aio.Server:
            server = joining()
            _ca_rpc.add_MembershipServicer_to_server(membership, server)
            _dispatcher_rpc.add_DispatcherServicer_to_server(sessions, server)
            _leases_rpc.add_LeasesServicer_to_server(leases, server)
            _logs_rpc.add_LogsServicer_to_server(logs, server)
            _exec_rpc.add_ExecsServicer_to_server(exec_service, server)
            _forward_rpc.add_ForwardServicer_to_server(forwarding, server)
            return server

        def joining() -> grpc.aio.Server:
            server = grpc.aio.server(options=_OPTIONS)
            _ca_rpc.add_CertificateAuthorityServicer_to_server(authority, server)
            return server

        self._inner = {"grpc": Generations(trusted), "join": Generations(joining)}

    async def _listen_inside(self) -> None:
        """Serve behind the front with the present TLS material."""
        for name, servers in self._inner.items():
            path = self._config.paths.inner(name, self._generation)
            await servers.listen(f"unix:{path}", self._tls.server(name != "join"))

    def _backends(self) -> tuple[dict[str, str], str]:
        """Return where the front passes connections on to: by server name, and all others."""
        grpc_path, join_path = (
            f"unix:{self._config.paths.inner(name, self._generation)}" for name in ("grpc", "join")
        )
        return {JOIN_SERVER_NAME: join_path, **self._log.backends}, grpc_path

    async def _serve_rest(
        self, broker: LogBroker, execs: ExecBroker, events: EventLog, probes: ProbeBroker
    ) -> None:
        node_id = self._tls.identity.node_id
        locker = self._locker
        app = build_app(
            self.store,
            node_id,
            self._forwarder,
            broker,
            events,
            Local(
                lambda: locker.unlock_key if locker is not None else "",
                self._take_certificate,
            ),
        )
        app[EXECS] = execs
        app[PROBES] = probes
        app[AUDIT] = log_of(self._config.paths.state_dir)
        app[RAFT_USAGE] = self._log.usage
        self._runner = runner_of(app, 1.0, handler_cancellation=True)
        await self._runner.setup()
        path = self._config.paths.socket
        path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(path)).start()
        path.chmod(0o600)

    async def _take_certificate(self) -> None:
        """Go on with the certificate on the disk; calls that are open go on.

        Raises:
            FailedPrecondition: it is another node's, or a worker's.
            OSError: there cannot be servers with it.
        """
        async with self._taking:
            tls = await asyncio.to_thread(load_tls, self._config.paths, self._keyring)
            if tls == self._tls.material:
                return
            if tls.identity != self._tls.identity:
                raise FailedPrecondition(
                    f"the certificate is of {tls.identity}: restart the manager"
                )
            before, self._tls.material = self._tls.material, tls
            self._generation += 1
            try:
                await self._listen_inside()
                await self._log.listen(self._generation)
            except BaseException:
                self._tls.material = before  # or the next try would find nothing to do
                raise
            if self._front is not None:
                self._front.switch(*self._backends())
        log.info("a new certificate is in use")

    async def _relay(self, leader: str, request: ca_pb2.IssueRequest) -> ca_pb2.IssueReply:
        """Carry a join token to the leader."""
        credentials, options = self._tls.client(), [expect(MANAGER)]
        try:
            async with grpc.aio.secure_channel(leader, credentials, options=options) as channel:
                stub = _ca_rpc.CertificateAuthorityStub(channel)
                reply = await stub.IssueCertificate(request, timeout=JOIN_WAIT_S)
        except grpc.aio.AioRpcError as error:
            kind = BY_GRPC_CODE.get(error.code().name, Unavailable)
            raise kind(error.details() or error.code().name) from error
        assert isinstance(reply, ca_pb2.IssueReply)
        return reply

    async def _found(self) -> None:
        """Commit the first entry as soon as this member leads."""
        founding = self._founding
        if founding is None:
            return
        while True:
            status = self.store.log.status
            if self.store.view.cluster is not None or (status.is_leader and status.ready):
                with contextlib.suppress(SwarmError):
                    await found(self.store, self._config.paths, founding)
                    return
            await asyncio.sleep(RETRY_S)

    async def _join(self) -> None:
        await self._enter((self._config.join,))

    async def _come_back(self) -> None:
        """Become a member anew: what was promised before the log was lost counts no more."""
        if not self._config.known:
            log.error("no other manager is known to come back through: remove it and join it again")
            return
        while not (index := await self._enter(self._config.known, returning=True)):
            log.error("the leader is of a version that cannot take this manager back: upgrade it")
            await asyncio.sleep(JOIN_WAIT_S)
        whole = asyncio.create_task(self._log.speak_from(index))
        try:
            await self._enter(self._config.known, insist=True)
            await whole
        finally:
            whole.cancel()
        log.warning("this manager has come back with the others' log")

    async def _enter(
        self, through: Sequence[str], *, returning: bool = False, insist: bool = False
    ) -> int:
        """Ask the leader for membership until it is granted; return an entry behind it.

        A new member may ask twice; it goes without the entry once it hears of a leader, unless it
        is to `insist`. With `returning` it is removed, as one that lost its log.
        """
        leader = ""
        for known in itertools.cycle(through):
            target = leader or known
            try:
                reply = await self._request_membership(target, returning=returning)
                log.info("member of Raft through %s", target)
                return int(reply.index)
            except grpc.aio.AioRpcError as error:
                pairs: Any = error.trailing_metadata()
                leader = dict(pairs or ()).get(LEADER_METADATA, "")
                log.info("not yet a member: %s", error.details())
            if not (returning or insist) and self.store.log.status.leader_address:
                break
            await asyncio.sleep(RETRY_S)
        return 0

    async def _request_membership(
        self, target: str, *, returning: bool = False
    ) -> ca_pb2.JoinReply:
        """Ask a manager for membership, which tells it this one's level; raises AioRpcError."""
        request = ca_pb2.JoinRequest(
            address=self._config.advertise,
            level=self.store.replica.known,
            version=release.version(),
            returning=returning,
        )
        credentials, options = self._tls.client(), [expect(MANAGER)]
        async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
            reply = await _ca_rpc.MembershipStub(channel).Join(request, timeout=JOIN_WAIT_S)
        assert isinstance(reply, ca_pb2.JoinReply)
        return reply

    async def _ask_membership(self, leader: str) -> None:
        try:
            await self._request_membership(leader)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(error.details() or error.code().name) from error


def touches_cluster(applied: Applied) -> bool:
    """Tell whether the cluster object is among what changed."""
    return any(kind == "cluster" for kind, _ in applied.changed)


async def _kept_going(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Run a job to its end; a bug in it is logged, and it begins again."""
    while True:
        try:
            await job()
            return
        except Exception:
            log.exception("%s failed", name)
        await asyncio.sleep(1.0)
