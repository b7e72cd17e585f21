"""A request has one answer: what fails after its head is out cuts the connection."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from swarmapi.errors import NotFound
from swarmapi.query import add_routes, runner_of
from worker.api.app import build_app

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def fails_late(error: Exception) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"begun")
        raise error

    return handler


def fails_at_once(error: Exception) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise error

    return handler


def answer_of(handler: Handler, place: Path) -> bytes:
    async def main() -> bytes:
        app = build_app(
            cast(Any, None), cluster_routes=lambda app: add_routes(app, (("GET", "/x", handler),))
        )
        runner = runner_of(app, 1.0)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(place)).start()
            reader, writer = await asyncio.open_unix_connection(str(place))
            writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            raw = b""
            try:
                while piece := await asyncio.wait_for(reader.read(65536), 10):
                    raw += piece
            except ConnectionResetError:
                raw += b"<reset>"
            writer.close()
            return raw
        finally:
            await runner.cleanup()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "error", [ConnectionResetError("the manager is gone"), NotFound("late"), ValueError("a bug")]
)
def test_what_fails_late_is_not_answered_twice(error: Exception, tmp_path: Path) -> None:
    raw = answer_of(fails_late(error), tmp_path / "s")
    assert raw.count(b"HTTP/1.1") == 1
    assert b"begun" in raw
    assert b"message" not in raw
    assert b"\r\n0\r\n" not in raw, "the answer looks whole"


def test_a_connection_of_the_daemons_own_is_no_client_that_went_away(tmp_path: Path) -> None:
    raw = answer_of(fails_at_once(ConnectionRefusedError("the registry")), tmp_path / "s")
    assert raw.startswith(b"HTTP/1.1 500")
    assert b"the registry" in raw
