"""The upgraded stream of a task's exec, joined to one request to a manager the test plays."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from swarmapi.access import CALLER_HEADER, ApiRole
from tests.unit.cluster.test_proxy import begin, play, serve
from worker.api.audit import REQUEST_ID, REQUEST_ID_HEADER
from worker.api.callers import CALLER, PEER, Caller
from worker.cluster import execs
from worker.cluster.proxy import ManagerProxy

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def upgraded(tmp_path: Path, handler: Handler, body: bytes = b"{}") -> AsyncIterator[Streams]:
    """Ask for the stream as Docker's clients do; nothing of the answer is read."""
    manager = await serve(handler, tmp_path / "manager.sock")
    proxy = ManagerProxy(tmp_path / "manager.sock")

    async def start(request: web.Request) -> web.StreamResponse:
        request[CALLER], request[PEER] = Caller("token", "ci", ApiRole.OPERATOR), "192.0.2.1:9"
        request[REQUEST_ID] = "r1"
        return await execs.serve(request, proxy)

    daemon = await serve(start, tmp_path / "swarmd.sock")
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "swarmd.sock"))
    head = "POST /swarm/v1/exec/e1/start HTTP/1.1\r\nHost: swarm\r\nConnection: Upgrade\r\n"
    head += f"Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    try:
        yield reader, writer
    finally:
        writer.close()
        await daemon.shutdown()
        await proxy.close()
        await manager.cleanup()
        await daemon.cleanup()


async def head_of(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n\r\n")).decode()


def test_bytes_pass_both_ways_and_half_closed(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.path == "/swarm/v1/exec/e1/start"
        told = json.loads(request.headers[CALLER_HEADER])
        assert (told["by"], told["name"], told["peer"]) == ("token", "ci", "192.0.2.1:9")
        assert request.headers[REQUEST_ID_HEADER] == "r1"
        response = await begin(request)
        async for piece in request.content.iter_any():
            await response.write(b"got " + piece)
        await response.write(b"end")
        return response

    async def story() -> None:
        async with upgraded(tmp_path, handler) as (reader, writer):
            assert (await head_of(reader)).startswith("HTTP/1.1 101 UPGRADED\r\n")
            assert await reader.readexactly(5) == b"begun"
            writer.write(b"in")
            assert await reader.readexactly(6) == b"got in"
            writer.write_eof()
            assert await reader.read() == b"end"

    play(story())


def test_the_end_comes_while_stdin_is_open(tmp_path: Path) -> None:
    async def story() -> None:
        async with upgraded(tmp_path, begin) as (reader, _):
            await head_of(reader)
            assert await reader.read() == b"begun"

    play(story())


def test_a_client_that_goes_after_its_half_close_ends_the_request(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await begin(request)
        assert await request.content.read() == b""
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("nobody sets the event")

    async def story() -> None:
        async with upgraded(tmp_path, handler) as (reader, writer):
            await head_of(reader)
            writer.write_eof()
            assert await reader.readexactly(5) == b"begun"
            writer.close()
            await ended.wait()

    play(story())


def test_a_refusal_is_the_managers(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "exec e1 has already run"}, status=409)

    async def story() -> None:
        async with upgraded(tmp_path, handler) as (reader, _):
            head = await head_of(reader)
            assert head.startswith("HTTP/1.1 409 ")
            assert b"has already run" in await reader.readuntil(b"}")

    play(story())


def test_a_process_that_nobody_stays_with_is_asked_for_without_a_stream(tmp_path: Path) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        assert await request.read() == b""
        asked.append(request.path_qs)
        return web.json_response({"message": "no such program"}, status=400)

    async def story() -> None:
        async with upgraded(tmp_path, handler, b'{"Detach": true}') as (reader, _):
            assert (await head_of(reader)).startswith("HTTP/1.1 400 ")
            assert b"no such program" in await reader.readuntil(b"}")
        assert asked == ["/swarm/v1/exec/e1/start?detach=1"]

    play(story())


def test_a_stream_that_breaks_off_says_so(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/vnd.docker.multiplexed-stream"
        response.enable_chunked_encoding()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError

    async def story() -> None:
        async with upgraded(tmp_path, handler) as (reader, _):
            await head_of(reader)
            frame = await reader.read()
            assert (frame[0], b"the leader was lost" in frame) == (3, True)

    play(story())
