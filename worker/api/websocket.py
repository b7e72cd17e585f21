"""A container's streams over a WebSocket: what it says as binary messages, input as any message."""

import asyncio

from aiohttp import WSMsgType, web

from worker.api.hijack import Streams


async def serve(
    socket: web.WebSocketResponse,
    streams: Streams,
    *,
    shown: tuple[int, ...],
    stdin: bool,
    detach_keys: bytes,
    keep_stdin: bool,
) -> None:
    """Carry bytes both ways until the output ends, the client leaves or types the detach keys."""
    out = asyncio.create_task(_send_output(socket, streams, shown))
    into = asyncio.create_task(_take_input(socket, streams, stdin, detach_keys))
    try:
        await asyncio.wait({out, into}, return_when=asyncio.FIRST_COMPLETED)
        if into.done() and into.exception() is None and into.result() and stdin and not keep_stdin:
            await streams.close_stdin()
    finally:
        for task in (out, into):
            task.cancel()
        await asyncio.gather(out, into, return_exceptions=True)


async def _send_output(
    socket: web.WebSocketResponse, streams: Streams, shown: tuple[int, ...]
) -> None:
    async for stream, data in streams.output():
        if stream in shown:
            await socket.send_bytes(data)


async def _take_input(
    socket: web.WebSocketResponse, streams: Streams, stdin: bool, keys: bytes
) -> bool:
    """Return whether the client left, which ends its input; False when it detached."""
    tail = b""
    async for message in socket:
        if not stdin or message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            continue
        data = message.data.encode() if message.type is WSMsgType.TEXT else message.data
        if keys and keys in tail + data:
            return False
        tail = (tail + data)[-(len(keys) - 1) :] if len(keys) > 1 else b""
        await streams.write(data)
    return True
