"""A daemon for the client: aiohttp on a unix socket, programmed answers, every request kept."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from swarmapi.override import override

Answer = Any
"""JSON; a `Reply`; or a function of the request's `Seen` that returns one of them."""


class Seen(NamedTuple):
    """A request: `body` is JSON where it was JSON, bytes elsewhere."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


class Reply(NamedTuple):
    """An answer that is not plain JSON; pieces are sent chunked, one by one."""

    status: int
    pieces: tuple[bytes, ...] = ()
    content_type: str = "application/json"


def refusal(status: int, message: str) -> Reply:
    """Return the daemon's error answer."""
    return Reply(status, (json.dumps({"message": message}).encode(),))


def frame(stream: int, payload: bytes) -> bytes:
    """Return one frame of a multiplexed stream."""
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def lines(*objects: Any) -> Reply:
    """Return progress objects, one per line."""
    return Reply(200, tuple(json.dumps(item).encode() + b"\r\n" for item in objects))


class Echo(asyncio.Protocol):
    """A program on a hijacked stream: greets, says back its input, ends with it."""

    def __init__(self, transport: asyncio.Transport, *, ended: Callable[[], None]) -> None:
        self._transport = transport
        self._ended = ended
        transport.write(frame(1, b"hello\n") + frame(2, b"warning\n"))

    @override
    def data_received(self, data: bytes) -> None:
        self._transport.write(frame(1, b"got " + data))

    @override
    def eof_received(self) -> bool:
        self._ended()
        self._transport.close()
        return True


class Daemon:
    """Serves `answers[(method, path)]` on a unix socket from a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "d.sock"
        self.host = f"unix://{self.socket}"
        self.seen: list[Seen] = []
        self.answers: dict[tuple[str, str], Answer] = {}
        self.hijacked: set[str] = set()
        self.exit_code = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._program_ended = asyncio.Event()
        self._streams: list[Echo] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Daemon":
        self._thread.start()
        assert self._ready.wait(30), "the fake daemon did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    def on(self, method: str, path: str, answer: Answer) -> None:
        """Program an answer."""
        self.answers[method, path] = answer

    def calls(self) -> list[str]:
        """Return the requests so far as `GET /path`."""
        return [f"{request.method} {request.path}" for request in self.seen]

    def body(self, path: str) -> Any:
        """Return the body of the only POST to a path."""
        (found,) = (seen.body for seen in self.seen if seen.method == "POST" and seen.path == path)
        return found

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket)).start()
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        own = path.startswith("/swarm/v1/")
        assert own or path.startswith("/v1.50/"), path
        path = path if own else path.removeprefix("/v1.50")
        data = await request.read()
        is_json = request.content_type == "application/json" and data
        query = {name: ",".join(request.query.getall(name)) for name in request.query}
        seen = Seen(
            request.method,
            path,
            query,
            json.loads(data) if is_json else data,
            dict(request.headers),
        )
        self.seen.append(seen)
        if path in self.hijacked:
            return await self._hijack(request)
        if path.endswith("/wait") and self.hijacked:
            return await self._wait(request)
        answer = self.answers.get((request.method, path), refusal(404, f"page {path} not found"))
        return await self._answer(request, answer(seen) if callable(answer) else answer)

    async def _answer(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        if not isinstance(answer, Reply):
            body = b"" if answer is None else json.dumps(answer).encode()
            return web.Response(body=body, status=200, content_type="application/json")
        if answer.status == 204:
            return web.Response(status=204)
        response = web.StreamResponse(status=answer.status)
        response.content_type = answer.content_type
        response.enable_chunked_encoding()
        await response.prepare(request)
        for piece in answer.pieces:
            await response.write(piece)
        await response.write_eof()
        return response

    async def _wait(self, request: web.Request) -> web.StreamResponse:
        """Send the head at once and the code when the program has ended."""
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await self._program_ended.wait()
        await response.write(json.dumps({"StatusCode": self.exit_code}).encode())
        await response.write_eof()
        return response

    async def _hijack(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Upgrade"] == "tcp"
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        kind = b"Content-Type: application/vnd.docker.multiplexed-stream\r\n"
        upgrade = b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        transport.write(b"HTTP/1.1 101 UPGRADED\r\n" + kind + upgrade)
        program = Echo(transport, ended=self._program_ended.set)
        self._streams.append(program)
        transport.set_protocol(program)
        await self._program_ended.wait()
        raise asyncio.CancelledError
