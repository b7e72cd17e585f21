"""The upgraded stream of an exec in a task's container: raw bytes here, one request behind.

To the local manager stdin is the body of that request and output its answer, so that it passes a
follower as any other does.
"""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import msgspec
from aiohttp import web

from swarmapi import query
from swarmapi.errors import InvalidArgument
from worker.api import hijack
from worker.cluster.proxy import ManagerProxy

_SYSTEM_ERROR = 3


class TaskExecStart(msgspec.Struct, rename="pascal", forbid_unknown_fields=True):
    """The body of `POST /swarm/v1/exec/{id}/start`."""

    detach: bool = False
    """Leave it alone once it runs; nothing of it is told any more."""
    tty: bool = False
    """As it was prepared; that counts."""


async def serve(request: web.Request, proxy: ManagerProxy) -> web.StreamResponse:
    """Run a prepared exec on an upgraded connection; a refusal is the manager's answer.

    Raises:
        InvalidArgument: a body that asks for something else.
        Unavailable: the manager does not take the connection.
    """
    try:
        wanted = msgspec.convert(await query.body(request), TaskExecStart)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"exec: {error}") from error
    if wanted.detach:
        return await _leave(request, proxy)
    taken: asyncio.Future[hijack.Hijacked] = asyncio.get_running_loop().create_future()
    async with proxy.stream(request, _input(taken)) as answer:
        if answer.status != 200:
            body = await answer.read()
            return web.Response(body=body, status=answer.status, content_type=answer.content_type)
        kind = answer.headers.get("Content-Type", hijack.RAW)
        connection = hijack.take_over(request, kind)
        taken.set_result(connection)
        await _carry(connection, answer, tty=kind == hijack.RAW)
    raise hijack.taken(request)


async def _leave(request: web.Request, proxy: ManagerProxy) -> web.StreamResponse:
    """Start it for nobody; the manager answers once it runs, or with why it does not."""
    url = str(request.rel_url.update_query(detach="1"))
    async with proxy.stream(request, _nothing(), url) as answer:
        body, kind = await answer.read(), answer.content_type
        return web.Response(body=body, status=answer.status, content_type=kind)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def _carry(connection: hijack.Hijacked, answer: aiohttp.ClientResponse, *, tty: bool) -> None:
    """Give the client the answer until its end, or until the client goes."""
    sending = asyncio.ensure_future(_send(connection, answer, tty=tty))
    gone = asyncio.ensure_future(connection.until_gone())
    try:
        await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for job in (sending, gone):
            job.cancel()
        await asyncio.gather(sending, gone, return_exceptions=True)
        answer.close()  # what is still to come of either direction is of no use
        await connection.close()


async def _send(connection: hijack.Hijacked, answer: aiohttp.ClientResponse, *, tty: bool) -> None:
    try:
        async for piece in answer.content.iter_any():
            await connection.write(piece)
    except aiohttp.ClientError:
        words = b"the manager's stream broke off: the leader was lost, run it again\n"
        await connection.write(b"\r" + words if tty else hijack.frame(_SYSTEM_ERROR, words))


async def _input(taken: "asyncio.Future[hijack.Hijacked]") -> AsyncIterator[bytes]:
    """Yield what the client sends, once its connection was taken over, until its half-close."""
    yield b""  # sends the head: stdin may begin long after it
    connection = await asyncio.shield(taken)  # an answer that has ended cancels this, and it alone
    while (data := await connection.read()) is not None:
        yield data
