"""Forwarding streams: a follower's REST over gRPC to a leader whose handlers the test writes."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web

from manager.api import forward
from manager.api.app import KEPT_BODY_BYTES, NOT_LEADER, build_app
from manager.api.forward import ForwardService, GrpcForwarder
from manager.logbroker.broker import LogBroker
from manager.replica import LogStatus
from swarmapi.model.spec import NodeRole
from swarmapi.v1 import forward_pb2_grpc
from tests.unit.manager_shell.cluster import MemoryCluster, no_session
from tests.unit.manager_shell.wire import material, root_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
NOBODY = LogStatus(False, True)
STALL_S = 1.0


class Pair:
    """A leader that answers with `handler`, and a follower's client session."""

    def __init__(self, session: aiohttp.ClientSession, follower: MemoryCluster, target: str):
        self.session = session
        self.follower = follower
        self.target = target

    def become(self, status: LogStatus) -> None:
        self.follower.log.become(status)


async def serve_unix(app: web.Application, path: Path) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    return runner


@asynccontextmanager
async def pair(tmp_path: Path, handler: Handler) -> AsyncIterator[Pair]:
    leader, follower = MemoryCluster(), MemoryCluster()
    await leader.found()
    await follower.found()
    tls = material(root_of(leader), "m1", NodeRole.MANAGER)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = await serve_unix(app, tmp_path / "leader.sock")
    server = grpc.aio.server()
    rpc: Any = forward_pb2_grpc
    service = ForwardService(leader.store, tmp_path / "leader.sock")
    rpc.add_ForwardServicer_to_server(service, server)
    target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', tls.server())}"
    await server.start()
    forwarder = GrpcForwarder("m1", lambda: tls)
    follower.log.become(LogStatus(False, True, "m1", target))
    broker = LogBroker(follower.store, no_session)
    front = await serve_unix(
        build_app(follower.store, "m2", forwarder, broker, follower.events),
        tmp_path / "follower.sock",
    )
    connector = aiohttp.UnixConnector(str(tmp_path / "follower.sock"))
    session = aiohttp.ClientSession("http://manager", connector=connector)
    try:
        yield Pair(session, follower, target)
    finally:
        await session.close()
        await front.cleanup()
        await forwarder.close()
        await server.stop(None)
        await runner.cleanup()


def play(story: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(story, 20)

    asyncio.run(bounded())


async def begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


def test_both_directions_pass_piece_by_piece(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        async for piece in request.content.iter_any():
            await response.write(b"got " + piece)
        await response.write(b"end")
        return response

    async def story() -> None:
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def body() -> AsyncIterator[bytes]:
            while (piece := await pieces.get()) is not None:
                yield piece

        async with pair(tmp_path, handler) as both:
            pieces.put_nowait(b"one")
            async with both.session.post("/x", data=body()) as answer:
                assert await answer.content.readexactly(7) == b"got one"
                pieces.put_nowait(b"two")
                assert await answer.content.readexactly(7) == b"got two"
                pieces.put_nowait(None)
                assert await answer.content.read() == b"end"

    play(story())


def test_an_answer_may_come_before_its_request_has_a_body(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        await response.write(b"begun")
        return response

    async def story() -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b""  # sends the head
            await asyncio.Event().wait()

        async with (
            pair(tmp_path, handler) as both,
            both.session.post("/x", data=body()) as answer,
        ):
            assert await answer.content.read() == b"begun"

    play(story())


def test_a_client_that_goes_ends_the_leaders_handler(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await (await begin(request)).write(b"begun")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("nobody sets the event")

    async def story() -> None:
        async with pair(tmp_path, handler) as both:
            async with both.session.get("/events") as answer:
                assert await answer.content.readexactly(5) == b"begun"
                answer.close()
            await ended.wait()

    play(story())


def test_a_mutation_goes_on_when_its_client_goes(tmp_path: Path) -> None:
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response()
        begun.set()
        await go_on.wait()
        done.set()
        return web.Response(status=201)

    async def story() -> None:
        async with pair(tmp_path, handler) as both:
            asked = asyncio.ensure_future(both.session.post("/services/create", json={"a": 1}))
            await begun.wait()
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            # Behind the news of the client's end, on the same connection to the leader.
            async with both.session.get("/x") as answer:
                assert answer.status == 200
            go_on.set()
            await done.wait()

    play(story())


@pytest.mark.parametrize("status", [NOBODY, LogStatus(False, True, "m9", "127.0.0.1:1")])
def test_a_leader_lost_in_mid_stream_cuts_the_answer_short(
    tmp_path: Path, status: LogStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "LOST_WAIT_S", 0.01)

    async def handler(request: web.Request) -> web.StreamResponse:
        await (await begin(request)).write(b"begun")
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")

    async def story() -> None:
        async with pair(tmp_path, handler) as both, both.session.get("/events") as answer:
            assert await answer.content.readexactly(5) == b"begun"
            both.become(status)
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.content.read()

    play(story())


def test_an_answer_that_has_begun_outlives_a_change_of_leader(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        await response.write(b"begun")
        await go_on.wait()
        await response.write(b" and ended")
        return response

    async def story() -> None:
        async with pair(tmp_path, handler) as both, both.session.get("/services") as answer:
            assert await answer.content.readexactly(5) == b"begun"
            both.become(NOBODY)
            go_on.set()
            assert await answer.content.read() == b" and ended"

    play(story())


def test_a_slow_reader_stops_the_writer(tmp_path: Path) -> None:
    piece, whole = bytes(1 << 16), 64 << 20
    stalled = asyncio.Event()
    written = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = await begin(request)
        while written < whole:
            writing = asyncio.ensure_future(response.write(piece))
            if not (await asyncio.wait({writing}, timeout=STALL_S))[0]:
                stalled.set()
            await writing
            written += len(piece)
        return response

    async def story() -> None:
        async with pair(tmp_path, handler) as both, both.session.get("/x") as answer:
            await stalled.wait()
            assert written < whole // 2
            read = 0
            async for chunk in answer.content.iter_any():
                read += len(chunk)
            assert read >= whole

    play(story())


def test_a_short_request_is_sent_to_the_next_leader(tmp_path: Path) -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()
    bodies: list[bytes] = []
    ids: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.read())
        ids.append(request.headers["X-Swarm-Request-Id"])
        if len(bodies) == 1:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                let_go.set()
        return web.Response(status=201)

    async def story() -> None:
        async with pair(tmp_path, handler) as both:
            asked = asyncio.ensure_future(both.session.post("/services/create", data=b"spec"))
            await begun.wait()
            both.become(NOBODY)
            await let_go.wait()
            both.become(LogStatus(False, True, "m1", both.target))
            assert (await asked).status == 201
            assert bodies == [b"spec", b"spec"]
            assert len(set(ids)) == 1

    play(story())


def test_a_request_that_a_deposed_leader_refused_is_sent_to_the_next(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.read())
        if len(bodies) == 1:
            return web.Response(status=503, headers={NOT_LEADER: "1"})
        return web.Response(status=201)

    async def story() -> None:
        async with pair(tmp_path, handler) as both:
            answer = await both.session.post("/services/create", data=b"spec")
            assert answer.status == 201
            assert bodies == [b"spec", b"spec"]

    play(story())


def test_a_request_too_long_to_keep_is_not_sent_again(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await request.content.readany()
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")

    async def story() -> None:
        async with pair(tmp_path, handler) as both:
            body = io.BytesIO(bytes(KEPT_BODY_BYTES + 1))
            asked = asyncio.ensure_future(both.session.post("/services/create", data=body))
            await begun.wait()
            both.become(NOBODY)
            answer = await asked
            assert answer.status == 503
            assert "a part of the request" in (await answer.json())["message"]

    play(story())


def test_half_a_request_is_no_request(tmp_path: Path) -> None:
    begun = asyncio.Event()
    ends: asyncio.Queue[str] = asyncio.Queue()

    async def handler(request: web.Request) -> web.StreamResponse:
        begun.set()
        try:
            await request.read()
        except BaseException as error:
            ends.put_nowait(type(error).__name__)
            raise
        ends.put_nowait("whole")
        return web.Response()

    async def story() -> None:
        async with pair(tmp_path, handler):
            path = str(tmp_path / "follower.sock")
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(b"POST /x HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"4\r\nhalf\r\n")
            await begun.wait()
            writer.close()
            assert await ends.get() != "whole"

    play(story())


def test_a_length_that_is_known_is_kept(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text="short", headers={"X-Kind": request.query["a"]})

    async def story() -> None:
        async with pair(tmp_path, handler) as both, both.session.get("/x?a=x%26y") as answer:
            assert (answer.status, answer.content_length) == (200, 5)
            assert answer.headers["X-Kind"] == "x&y"
            assert await answer.text() == "short"

    play(story())


def test_a_manager_that_does_not_answer_holds_up_the_others_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forward, "SHARE_WAIT_S", 0.2)

    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        tls = material(root_of(cluster), "m1", NodeRole.MANAGER)
        calls: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, out: calls.append(out), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        forwarder = GrpcForwarder("m1", lambda: tls)
        await forwarder.share_log([f"{host}:{port}"], "t1", b"")
        assert forwarder._rests_until
        began = dict(forwarder._rests_until)
        await forwarder.share_log([f"{host}:{port}"], "t2", b"")
        assert forwarder._rests_until == began, "it is not asked again"
        await forwarder.close()
        for call in calls:
            call.close()
        server.close()

    play(story())
