"""Passing on to the manager's socket: streams that break off on either side."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from worker.cluster.proxy import ManagerProxy

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serve(handler: Handler, path: Path) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    # As the manager does, and as the daemon does not.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=path.name == "manager.sock")
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    return runner


@asynccontextmanager
async def through(tmp_path: Path, handler: Handler) -> AsyncIterator[aiohttp.ClientSession]:
    manager = await serve(handler, tmp_path / "manager.sock")
    proxy = ManagerProxy(tmp_path / "manager.sock")
    daemon = await serve(proxy.pass_on, tmp_path / "swarmd.sock")
    connector = aiohttp.UnixConnector(str(tmp_path / "swarmd.sock"))
    session = aiohttp.ClientSession("http://swarmd", connector=connector)
    try:
        yield session
    finally:
        await session.close()
        await daemon.shutdown()
        await proxy.close()
        await manager.cleanup()
        await daemon.cleanup()


def play(story: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(story, 20)

    asyncio.run(bounded())


async def begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(b"begun")
    return response


def test_a_silent_stream_ends_with_its_client(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await begin(request)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("nobody sets the event")

    async def story() -> None:
        async with through(tmp_path, handler) as session:
            async with session.get("/services/web/logs") as answer:
                assert await answer.content.readexactly(5) == b"begun"
                answer.close()
            await ended.wait()

    play(story())


def test_an_answer_cut_short_is_not_ended_as_if_whole(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        await begin(request)
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError

    async def story() -> None:
        async with through(tmp_path, handler) as session, session.get("/x") as answer:
            assert await answer.content.readexactly(5) == b"begun"
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.content.read()

    play(story())


def test_a_body_of_unknown_length_passes_piece_by_piece(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        async for piece in request.content.iter_any():
            await response.write(piece)
        return response

    async def story() -> None:
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def body() -> AsyncIterator[bytes]:
            while (piece := await pieces.get()) is not None:
                yield piece

        async with through(tmp_path, handler) as session:
            pieces.put_nowait(b"one")
            async with session.post("/x", data=body()) as answer:
                assert await answer.content.readexactly(8) == b"begunone"
                pieces.put_nowait(b"two")
                assert await answer.content.readexactly(3) == b"two"
                pieces.put_nowait(None)
                assert await answer.content.read() == b""

    play(story())
