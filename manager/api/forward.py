"""Passing REST requests from a follower to the leader: one gRPC stream each, one hop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
from aiohttp import web

from manager.api.app import FORWARDED
from manager.api.responses import REQUEST_ID
from manager.api.routes import ON_BEHALF_OF
from manager.ca.authority import check_manager
from manager.ca.rpc import refuse
from manager.replica import Store
from swarmapi.errors import NotLeader, SwarmError, Unavailable
from swarmapi.identity import MANAGER, TLSMaterial, expect, identity_from_auth_context
from swarmapi.v1 import forward_pb2 as pb

CHUNK_BYTES: Final = 1 << 16
HEAD_WAIT_S: Final = 30.0
_HOP_BY_HOP: Final = frozenset(
    ("host", "connection", "transfer-encoding", "content-length", "upgrade", "keep-alive", "te")
)


class GrpcForwarder:
    """The follower's side."""

    def __init__(self, node_id: str, tls: Callable[[], TLSMaterial]) -> None:
        self._node_id = node_id
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def forward(
        self,
        request: web.Request,
        leader_address: str,
        request_id: str,
        lost: Callable[[], Coroutine[None, None, None]],
    ) -> web.StreamResponse:
        """Return the leader's answer, streamed.

        Raises:
            Unavailable: nothing of an answer came while it led: the request may be sent again.
        """
        body = await request.read()
        parts = self._parts(request, body, request_id)
        call = self._channel(leader_address).stream_stream(
            "/swarmapi.v1.Forward/Call",
            request_serializer=pb.ForwardRequest.SerializeToString,
            response_deserializer=pb.ForwardReply.FromString,
        )(_each(parts))
        try:
            try:
                first = await _unless(lost(), call.read(), HEAD_WAIT_S)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                words = error.details() if isinstance(error, grpc.aio.AioRpcError) else "no answer"
                raise Unavailable(f"leader {leader_address}: {words}") from error
            if not isinstance(first, pb.ForwardReply) or first.WhichOneof("part") != "head":
                raise Unavailable(f"leader {leader_address} gave no answer")
            response = web.StreamResponse(status=first.head.status)
            for header in first.head.headers:
                response.headers.add(header.name, header.value)
            await response.prepare(request)
            with contextlib.suppress(grpc.aio.AioRpcError):
                # A leader lost in mid-stream ends the body early, which the client sees.
                while isinstance(part := await call.read(), pb.ForwardReply):
                    await response.write(part.chunk)
                await response.write_eof()
            return response
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close(None)

    def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            options = [expect(MANAGER)]
            channel = grpc.aio.secure_channel(address, self._tls().client(), options=options)
            self._channels[address] = channel
        return channel

    def _parts(self, request: web.Request, body: bytes, request_id: str) -> list[pb.ForwardRequest]:
        headers = [
            pb.Header(name=k, value=v)
            for k, v in request.headers.items()
            if k.lower() not in (*_HOP_BY_HOP, FORWARDED.lower(), REQUEST_ID.lower())
        ]
        if ON_BEHALF_OF not in request.headers:
            headers.append(pb.Header(name=ON_BEHALF_OF, value=self._node_id))
        head = pb.RequestHead(
            method=request.method,
            path=request.path_qs,
            headers=headers,
            request_id=request_id,
        )
        chunks = [body[i : i + CHUNK_BYTES] for i in range(0, len(body), CHUNK_BYTES)]
        return [pb.ForwardRequest(head=head), *(pb.ForwardRequest(chunk=c) for c in chunks)]


async def _unless(
    lost: Coroutine[None, None, None], reply: Awaitable[object], timeout_s: float
) -> object:
    """Return the reply; raises TimeoutError when `lost` returns first, or the time is over.

    A leader whose machine lost its power leaves the connection open and silent.
    """
    gone, head = asyncio.ensure_future(lost), asyncio.ensure_future(reply)
    try:
        await asyncio.wait({gone, head}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not head.done():
            raise TimeoutError
        return head.result()
    finally:
        for future in (gone, head):
            future.cancel()
        await asyncio.gather(gone, head, return_exceptions=True)


async def _each(parts: list[pb.ForwardRequest]) -> AsyncIterator[pb.ForwardRequest]:
    for part in parts:
        yield part


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
            raise Unavailable("a forwarded request begins with its head")
        body = bytearray()
        while isinstance(part := await context.read(), pb.ForwardRequest):
            body += part.chunk
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
                data=bytes(body),
                allow_redirects=False,
            ) as response,
        ):
            kept = [
                pb.Header(name=k, value=v)
                for k, v in response.headers.items()
                if k.lower() not in _HOP_BY_HOP
            ]
            head = pb.ReplyHead(status=response.status, headers=kept)
            await context.write(pb.ForwardReply(head=head))
            async for chunk in response.content.iter_any():
                await context.write(pb.ForwardReply(chunk=chunk))
