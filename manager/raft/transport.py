"""Links between members: one mutual-TLS gRPC stream per pair, the peer known by its certificate.

The larger node id dials at once, the smaller one only when no link came up by itself, which is
how a member reaches one that does not know it yet. A stream may be opened by a manager of this
cluster that the core accepts; everything else is refused with PERMISSION_DENIED.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import msgspec

from manager.generations import Generations
from manager.raft import messages
from manager.raft.driver import Connected, Disconnected, Event, Received
from manager.raft.messages import Message
from manager.raft.ports import Member
from swarmapi.errors import SwarmError
from swarmapi.identity import LiveTLS, expect, identity_from_auth_context
from swarmapi.override import override
from swarmapi.v1 import raft_pb2, raft_pb2_grpc

QUEUE_MAX_BYTES: Final = 64 << 20
OPTIONS: Final = (
    ("grpc.max_receive_message_length", QUEUE_MAX_BYTES),
    ("grpc.max_send_message_length", QUEUE_MAX_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Servers take a ping every 10 s for abuse and hang up; who comes here has a certificate.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_OPEN: Final = ("swarm-raft", "open")
_RETRY_MIN_S: Final = 0.05
_RETRY_MAX_S: Final = 1.0
_YIELD_S: Final = 0.5
"""How long the smaller id leaves the dialling to the larger one."""
_log = logging.getLogger(__name__)

Read = Callable[[], Awaitable[Any]]
Write = Callable[[raft_pb2.RaftFrame], Awaitable[None]]


class _Link:
    """One stream: a queue out, and the tasks that pump it."""

    def __init__(self, peer: str, dialled: bool) -> None:
        self.peer = peer
        self.dialled = dialled
        self.ended = asyncio.Event()
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()

    def push(self, data: bytes) -> None:
        """Queue a frame; a peer too slow for `QUEUE_MAX_BYTES` loses the link."""
        self._queue.append(data)
        self._queued_bytes += len(data)
        self._wake.set()
        if self._queued_bytes > QUEUE_MAX_BYTES:
            _log.warning("raft peer %s is too slow, link dropped", self.peer)
            self.ended.set()

    async def pump_out(self, write: Write) -> None:
        """Write queued frames until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                data = self._queue.popleft()
                await write(raft_pb2.RaftFrame(format=messages.FORMAT, messages=data))
                self._queued_bytes -= len(data)


class GrpcLinks:
    """The links of one member, in one event loop; `put` takes what happens to them.

    `accepts` decides who may open a stream.
    """

    def __init__(
        self,
        node_id: str,
        tls: LiveTLS,
        put: Callable[[Event], None],
        accepts: Callable[[str], bool],
    ) -> None:
        self._node_id = node_id
        self._tls = tls
        self._cluster_id = tls.identity.cluster_id
        self._put = put
        self._accepts = accepts
        self._links: dict[str, _Link] = {}
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._servers = Generations(self._new_server)

    async def listen(self, address: str) -> None:
        """Serve streams on `address`, at first or with new material. Raises OSError."""
        await self._servers.listen(address, self._tls.server())

    def _new_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=OPTIONS)
        raft_pb2_grpc.add_RaftServicer_to_server(_Servicer(self), server)  # type: ignore[no-untyped-call]  # generated
        return server

    async def close(self) -> None:
        """End all links and the server."""
        dialers = list(self._dialers.values())
        self._dialers.clear()
        for task in dialers:
            task.cancel()
        for link in self._links.values():
            link.ended.set()
        await asyncio.gather(*dialers, return_exceptions=True)
        await self._servers.stop(0.2)

    # Links, as the driver sees them

    def send(self, peer: str, batch: Sequence[Message]) -> None:
        """Queue a frame for `peer`, or drop it when there is no link."""
        link = self._links.get(peer)
        if link is not None:
            link.push(messages.encode(batch))

    def add(self, member: Member) -> None:
        """Dial the member until it is dropped."""
        if member.id not in self._dialers:
            task = asyncio.get_running_loop().create_task(self._dial(member))
            self._dialers[member.id] = task

    def drop(self, peer: str) -> None:
        """End the link to a former member."""
        task = self._dialers.pop(peer, None)
        if task is not None:
            task.cancel()
        if peer in self._links:
            self._links[peer].ended.set()

    def hang_up(self) -> None:
        """End all links; those to members are made anew."""
        for link in self._links.values():
            link.ended.set()

    # Streams

    async def serve(self, read: Read, context: Any) -> None:
        """Run a stream that a peer opened."""
        try:
            identity = identity_from_auth_context(context)
        except SwarmError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
            return
        peer = identity.node_id
        if not identity.is_manager or identity.cluster_id != self._cluster_id:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"node {peer} is no manager of this cluster"
            )
        if not self._accepts(peer):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"node {peer} is not a member of the log"
            )
        present = self._links.get(peer)
        if present is not None and present.dialled and self._node_id > peer:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "there is a link already")
        await context.send_initial_metadata((_OPEN,))
        await self._run(_Link(peer, dialled=False), read, context.write)

    async def _dial(self, member: Member) -> None:
        pause_s = _RETRY_MIN_S
        while True:
            if self._node_id < member.id:
                await asyncio.sleep(_YIELD_S)
            if member.id in self._links:
                await self._links[member.id].ended.wait()
                await asyncio.sleep(_RETRY_MIN_S)
                continue
            try:
                await self._open(member)
                pause_s = _RETRY_MIN_S
            except Exception as error:  # noqa: BLE001 - whatever broke a stream, dial the next
                _log.debug("raft link to %s at %s: %s", member.id, member.address, error)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(pause_s * 2, _RETRY_MAX_S)

    async def _open(self, member: Member) -> None:
        options = [*OPTIONS, expect(member.id)]
        channel = grpc.aio.secure_channel(member.address, self._tls.client(), options=options)
        async with channel:
            stub = raft_pb2_grpc.RaftStub(channel)  # type: ignore[no-untyped-call]  # generated
            call = stub.Stream()
            try:
                # A refusal ends the stream with metadata of its own.
                if _OPEN in tuple(await call.initial_metadata() or ()):
                    await self._run(_Link(member.id, dialled=True), call.read, call.write)
            finally:
                call.cancel()

    async def reachable(self, member: Member, timeout_s: float) -> bool:
        """Tell whether the member's port answers with the member's certificate."""
        options = [*OPTIONS, expect(member.id)]
        channel = grpc.aio.secure_channel(member.address, self._tls.client(), options=options)
        async with channel:
            try:
                await asyncio.wait_for(channel.channel_ready(), timeout_s)
            except TimeoutError:
                return False
        return True

    async def _run(self, link: _Link, read: Read, write: Write) -> None:
        """Pump a stream until it, or the link, ends."""
        self._replace(link)
        tasks = [
            asyncio.ensure_future(self._pump_in(link, read)),
            asyncio.ensure_future(link.pump_out(write)),
            asyncio.ensure_future(link.ended.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._remove(link)
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                self._report(link, result)

    def _replace(self, link: _Link) -> None:
        present = self._links.get(link.peer)
        if present is not None:
            self._remove(present)
        self._links[link.peer] = link
        self._put(Connected(link.peer))

    def _remove(self, link: _Link) -> None:
        link.ended.set()
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._put(Disconnected(link.peer))

    async def _pump_in(self, link: _Link, read: Read) -> None:
        while True:
            frame = await read()
            if not isinstance(frame, raft_pb2.RaftFrame):
                return
            if frame.format != messages.FORMAT:
                _log.warning("raft peer %s speaks the unknown format %d", link.peer, frame.format)
                return
            batch = messages.decode(frame.messages)
            if self._links.get(link.peer) is link:
                self._put(Received(link.peer, batch))

    @staticmethod
    def _report(link: _Link, result: object) -> None:
        expected = (grpc.RpcError, asyncio.CancelledError, asyncio.InvalidStateError)
        if isinstance(result, BaseException) and not isinstance(result, expected):
            level = logging.WARNING if isinstance(result, msgspec.DecodeError) else logging.INFO
            _log.log(level, "raft link to %s ended: %r", link.peer, result)


class _Servicer(raft_pb2_grpc.RaftServicer):
    """Hands streams to the links."""

    def __init__(self, links: GrpcLinks) -> None:
        self._links = links

    @override
    async def Stream(self, requests: Any, context: Any) -> None:  # noqa: N802 - the service's name
        """Run one stream."""
        await self._links.serve(context.read, context)
