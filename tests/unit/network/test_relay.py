"""Carried connections: who lingers or does not read neither holds a place nor hides."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from worker.network.carried import Way
from worker.network.relay import CarriedPort

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LIMIT_S = 10
SMALL_BUFFER_BYTES = 4096
ANSWER = bytes(50_000)


def opened(kind: socket.SocketKind, family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family, kind)
    made.setblocking(False)
    return made


@asynccontextmanager
async def carried(task: Handle, half_closed_s: float) -> AsyncIterator[tuple[CarriedPort, Stream]]:
    """Yield a port that leads to `task`, and a client of it whose buffers are small."""
    server = await asyncio.start_server(task, "127.0.0.1", 0)
    holder = socket.create_server(("127.0.0.1", 0))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
    port = CarriedPort(
        holder, Way((server.sockets[0].getsockname(),)), opened, half_closed_s=half_closed_s
    )
    await port.start()
    link = opened(socket.SOCK_STREAM, socket.AF_INET)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    await asyncio.get_running_loop().sock_connect(link, holder.getsockname())
    client = await asyncio.open_connection(sock=link, limit=1)
    try:
        yield port, client
    finally:
        client[1].transport.abort()
        port.close()
        server.close()


async def turns() -> None:
    """Let what is on its way through the machine arrive."""
    for _ in range(200):
        await asyncio.sleep(0)


def play(story: Awaitable[None]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(LIMIT_S):
            await story

    asyncio.run(whole())


def test_a_client_that_never_ends_its_half_loses_its_place() -> None:
    async def story() -> None:
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def task(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write_eof()
            try:
                await reader.read()
                ended.set_result("end")
            except ConnectionResetError:
                ended.set_result("reset")
            writer.close()

        async with carried(task, half_closed_s=0.01) as (port, (reader, _)):
            assert await reader.read() == b""
            assert await ended == "reset"
            await turns()
            assert not port.is_busy()

    play(story())


def test_a_client_that_ended_its_half_waits_for_a_slow_answer() -> None:
    async def story() -> None:
        go_on = asyncio.Event()

        async def task(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            await go_on.wait()
            writer.write(b"late")
            writer.close()

        async with carried(task, half_closed_s=0.0) as (_, (reader, writer)):
            writer.write_eof()
            await turns()
            go_on.set()
            assert await reader.read() == b"late"

    play(story())


def test_a_client_that_does_not_read_is_counted_and_can_be_ended() -> None:
    async def story() -> None:
        async def task(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.write(ANSWER)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            answered.set()

        answered = asyncio.Event()
        async with carried(task, half_closed_s=LIMIT_S) as (port, (reader, writer)):
            writer.write_eof()
            await answered.wait()
            await turns()
            assert port.is_busy()
            port.forget("127.0.0.1")
            await turns()
            assert not port.is_busy()
            with pytest.raises(ConnectionResetError):
                await reader.read()

    play(story())
