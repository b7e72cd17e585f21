"""What managers pass to each other: REST requests to the leader, one stream each; kept logs."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
from aiohttp import web

from manager.api.app import FORWARDED, NOT_LEADER, is_kept
from manager.api.responses import REQUEST_ID
from manager.api.routes import ON_BEHALF_OF
from manager.ca.authority import check_manager
from manager.ca.rpc import refuse
from manager.replica import Store
from swarmapi.errors import InvalidArgument, NotLeader, OutcomeUnknown, SwarmError, Unavailable
from swarmapi.identity import MANAGER, TLSMaterial, expect, identity_from_auth_context
from swarmapi.v1 import ca_pb2, logs_pb2
from swarmapi.v1 import forward_pb2 as pb

log = logging.getLogger(__name__)
SHARE_WAIT_S: Final = 5.0
SHARE_REST_S: Final = 30.0
CHUNK_BYTES: Final = 1 << 16
HEAD_WAIT_S: Final = 30.0
LOST_WAIT_S: Final = 1.0
"""An answer that has begun may go on after another leader is known, but not with such a pause."""
_HOP_BY_HOP: Final = frozenset(
    ("host", "connection", "transfer-encoding", "content-length", "upgrade", "keep-alive", "te")
)


class GrpcForwarder:
    """The follower's side."""

    def __init__(self, node_id: str, tls: Callable[[], TLSMaterial]) -> None:
        self._node_id = node_id
        self._tls = tls
        self._channels: dict[tuple[str, TLSMaterial], grpc.aio.Channel] = {}
        """By address and what they show. Outdated ones are kept: calls may be open on them."""
        self._rests_until: dict[str, float] = {}
        """Managers that are not handed logs for now, by address."""

    async def forward(
        self,
        request: web.Request,
        leader_address: str,
        request_id: str,
        lost: Callable[[], Coroutine[None, None, None]],
    ) -> web.StreamResponse:
        """Return the leader's answer; request and answer pass piece by piece.

        Raises:
            Unavailable: nothing of an answer came while it led: the request may be sent again.
            OutcomeUnknown: the same, but a part of a body too long to be kept has been sent.
            ConnectionResetError: the answer was cut short, or the client's request was.
        """
        if is_kept(request):
            await request.read()  # kept by the request, for the next leader or this member
        call = self._open(leader_address)
        gone = asyncio.ensure_future(lost())
        sending = asyncio.ensure_future(_send(call, request, self._head(request, request_id)))
        try:
            first = await _first(call, gone, request, leader_address)
            response = web.StreamResponse(status=first.head.status)
            for header in first.head.headers:
                response.headers.add(header.name, header.value)
            await response.prepare(request)
            try:
                while (part := await _next(call, gone)).HasField("chunk"):
                    await response.write(part.chunk)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                # Without its end the client sees that the answer is not whole.
                raise ConnectionResetError(f"leader {leader_address} was lost") from error
            await response.write_eof()
            return response
        finally:
            gone.cancel()
            sending.cancel()
            await asyncio.gather(gone, sending, return_exceptions=True)
            call.cancel()

    async def share_log(self, addresses: Iterable[str], task_id: str, lines: bytes) -> None:
        """Hand a task's last lines to other managers; one that does not answer goes without.

        Nor is it asked for a while: many tasks may end, and the others would wait for it each time.
        """
        kept = logs_pb2.KeptLog(task_id=task_id, lines=lines)
        now = time.monotonic()
        asked = [address for address in addresses if self._rests_until.get(address, now) <= now]
        calls = (
            self._channel(address).unary_unary(
                "/swarmapi.v1.Logs/Keep",
                request_serializer=logs_pb2.KeptLog.SerializeToString,
                response_deserializer=logs_pb2.LogReceipt.FromString,
            )(kept, timeout=SHARE_WAIT_S)
            for address in asked
        )
        for address, error in zip(
            asked, await asyncio.gather(*calls, return_exceptions=True), strict=True
        ):
            if not isinstance(error, grpc.aio.AioRpcError):
                continue
            log.info("log of task %s is not shared: %s", task_id, error.details())
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._rests_until[address] = time.monotonic() + SHARE_REST_S

    async def digests(self, members: Mapping[str, str], index: int) -> dict[str, str]:
        """Return members' digests as of an entry by node id; empty for one that gives none."""

        async def ask(address: str) -> str:
            call = self._channel(address).unary_unary(
                "/swarmapi.v1.Membership/Digest",
                request_serializer=ca_pb2.DigestRequest.SerializeToString,
                response_deserializer=ca_pb2.DigestReply.FromString,
            )
            try:
                reply = await call(ca_pb2.DigestRequest(index=index), timeout=SHARE_WAIT_S)
            except grpc.aio.AioRpcError as error:
                log.info("manager at %s gives no digest: %s", address, error.details())
                return ""
            return str(reply.digest)

        found = await asyncio.gather(*map(ask, members.values()))
        return dict(zip(members, found, strict=True))

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close(None)

    def _channel(self, address: str) -> grpc.aio.Channel:
        tls = self._tls()
        channel = self._channels.get((address, tls))
        if channel is None:
            options = [expect(MANAGER)]
            channel = grpc.aio.secure_channel(address, tls.client(), options=options)
            self._channels[address, tls] = channel
        return channel

    def _open(self, address: str) -> Any:
        method: Any = self._channel(address).stream_stream(  # stubs: an iterator
            "/swarmapi.v1.Forward/Call",
            request_serializer=pb.ForwardRequest.SerializeToString,
            response_deserializer=pb.ForwardReply.FromString,
        )
        return method()

    def _head(self, request: web.Request, request_id: str) -> pb.RequestHead:
        headers = [
            pb.Header(name=k, value=v)
            for k, v in request.headers.items()
            if k.lower() not in (*_HOP_BY_HOP, FORWARDED.lower(), REQUEST_ID.lower())
        ]
        if ON_BEHALF_OF not in request.headers:
            headers.append(pb.Header(name=ON_BEHALF_OF, value=self._node_id))
        return pb.RequestHead(
            method=request.method,
            path=request.path_qs,
            headers=headers,
            request_id=request_id,
            has_body=request.body_exists,
        )


async def _send(call: Any, request: web.Request, head: pb.RequestHead) -> None:
    """Send head and body. A body that breaks off ends the call: half of it is no request."""
    try:
        await call.write(pb.ForwardRequest(head=head))
        if head.has_body:
            async for chunk in _pieces(request):
                await call.write(pb.ForwardRequest(chunk=chunk))
            await call.write(pb.ForwardRequest(end=pb.BodyEnd()))
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return  # who reads the answer learns why the call ended
    except Exception:
        call.cancel()
        raise


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    if is_kept(request):
        body = await request.read()
        for at in range(0, len(body), CHUNK_BYTES):
            yield body[at : at + CHUNK_BYTES]
    elif request.can_read_body:
        async for chunk in request.content.iter_chunked(CHUNK_BYTES):
            yield chunk


async def _first(
    call: Any, gone: "asyncio.Future[None]", request: web.Request, leader: str
) -> pb.ForwardReply:
    """Return the head of the answer (errors as `forward` says)."""
    words = "no answer"
    try:
        first = await _unless(gone, call.read(), HEAD_WAIT_S)
        if isinstance(first, pb.ForwardReply) and first.HasField("head"):
            return first
    except grpc.aio.AioRpcError as error:
        words = error.details() or error.code().name
    except TimeoutError:
        pass
    if request.content.total_bytes and not is_kept(request):
        raise OutcomeUnknown(f"leader {leader}: {words}; a part of the request was on its way")
    raise Unavailable(f"leader {leader}: {words}")


async def _next(call: Any, gone: "asyncio.Future[None]") -> pb.ForwardReply:
    """Return the next part of an answer; raises TimeoutError when a lost leader sends none."""
    part: asyncio.Future[Any] = asyncio.ensure_future(call.read())
    try:
        await asyncio.wait({gone, part}, return_when=asyncio.FIRST_COMPLETED)
        found = await asyncio.wait_for(part, LOST_WAIT_S if gone.done() else None)
        if not isinstance(found, pb.ForwardReply):
            raise TimeoutError
        return found
    finally:
        part.cancel()


async def _unless(
    gone: "asyncio.Future[None]", reply: Awaitable[object], timeout_s: float
) -> object:
    """Return the reply; raises TimeoutError when `gone` is done first, or the time is over.

    A leader whose machine lost its power leaves the connection open and silent.
    """
    read: asyncio.Future[Any] = asyncio.ensure_future(reply)
    try:
        await asyncio.wait({gone, read}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not read.done():
            raise TimeoutError
        if read.cancelled():
            raise ConnectionResetError("the request broke off")
        result: object = read.result()
        return result
    finally:
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)


class ForwardService:
    """The leader's side: hands the request to its own REST socket."""

    def __init__(self, store: Store, socket_path: Path) -> None:
        self._store = store
        self._socket_path = socket_path

    async def Call(  # noqa: N802 - the name is the protocol's
        self, request_iterator: object, context: Any
    ) -> None:
        """Answer one forwarded request."""
        try:
            caller = check_manager(self._store.view, identity_from_auth_context(context))
            status = self._store.log.status
            if not status.is_leader:
                # Refused before anything happened: the follower looks for the leader again.
                raise NotLeader(leader=status.leader_address)
            await self._answer(caller.id, context)
        except SwarmError as error:
            await refuse(context, error)
        except aiohttp.ClientError as error:
            await refuse(context, Unavailable(f"the leader's REST socket: {error}"))

    async def _answer(self, caller_id: str, context: Any) -> None:
        first = await context.read()
        if not isinstance(first, pb.ForwardRequest) or first.WhichOneof("part") != "head":
            raise InvalidArgument("a forwarded request begins with its head")
        headers = [(h.name, h.value) for h in first.head.headers]
        headers.append((FORWARDED, caller_id))
        if first.head.request_id:
            headers.append((REQUEST_ID, first.head.request_id))
        connector = aiohttp.UnixConnector(str(self._socket_path))
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=False
            ) as session,
            session.request(
                first.head.method,
                f"http://manager{first.head.path}",
                headers=headers,
                data=_body(context) if first.head.has_body else None,
                allow_redirects=False,
            ) as response,
        ):
            if NOT_LEADER in response.headers:
                raise NotLeader(leader=self._store.log.status.leader_address)
            kept = [
                pb.Header(name=k, value=v)
                for k, v in response.headers.items()
                if k.lower() not in _HOP_BY_HOP or k.lower() == "content-length"
            ]
            head = pb.ReplyHead(status=response.status, headers=kept)
            await context.write(pb.ForwardReply(head=head))
            async for chunk in response.content.iter_any():
                await context.write(pb.ForwardReply(chunk=chunk))
        await context.write(pb.ForwardReply(end=pb.BodyEnd()))
        while isinstance(await context.read(), pb.ForwardRequest):
            continue  # a body that was not wanted; the follower ends the call


async def _body(context: Any) -> AsyncIterator[bytes]:
    """Yield the request's body as it comes; raises ConnectionResetError when it breaks off."""
    yield b""  # sends the head: a body may begin long after it
    while isinstance(part := await context.read(), pb.ForwardRequest):
        if part.HasField("end"):
            return
        yield part.chunk
    raise ConnectionResetError("the request broke off")
