"""Attach and logs: a container's output on its way to the client."""

from contextlib import aclosing
from urllib.parse import quote_plus as quote

from aiohttp import web

from swarmapi import query, rest
from swarmapi.errors import InvalidArgument
from swarmapi.rest import Route
from worker.api import hijack, websocket
from worker.api.keys import engine_of
from worker.api.presence import while_connected
from worker.api.version import minor_of
from worker.engine.engine import Engine
from worker.engine.logs import LogLine, LogQuery
from worker.engine.record import Container


async def attach(request: web.Request) -> web.StreamResponse:
    """Connect the client to the container's streams over the hijacked connection."""
    engine = engine_of(request)
    container = engine.inspect(request.match_info["id"])
    record = container.record
    shown = tuple(
        number for number, name in ((1, "stdout"), (2, "stderr")) if query.flag(request, name)
    )
    tty = record.config.tty
    live, stdin = query.flag(request, "stream"), query.flag(request, "stdin")
    keys = hijack.parse_detach_keys(query.text(request, "detachKeys"))
    session = await engine.attach(record.id) if live else None
    engine.emit(record.id, "attach")
    connection = hijack.take_over(request, hijack.content_type(request, tty=tty))
    if query.flag(request, "logs"):
        wanted = LogQuery(stdout=1 in shown, stderr=2 in shown)
        async with aclosing(engine.logs(record.id, wanted)) as batches:
            async for batch in batches:
                for line in batch:
                    data = line.data if tty else hijack.frame(line.stream, line.data)
                    await connection.write(data)
    if session is None:
        await connection.close()
    else:
        try:
            await hijack.serve(
                connection,
                session,
                tty=tty,
                stdin=stdin and record.config.open_stdin,
                shown=shown,
                detach_keys=keys,
                keep_stdin=not record.config.stdin_once,
            )
        finally:
            engine.forget_session(record.id, session)
            await session.close()
    raise hijack.taken(request)


async def attach_socket(request: web.Request) -> web.StreamResponse:
    """Connect the client to the container's streams over a WebSocket, unframed."""
    engine = engine_of(request)
    record = engine.inspect(request.match_info["id"]).record
    keys = hijack.parse_detach_keys(query.text(request, "detachKeys"))
    socket = web.WebSocketResponse()
    if not socket.can_prepare(request):
        raise InvalidArgument("attach/ws needs a WebSocket handshake: ask with Upgrade: websocket")
    session = await engine.attach(record.id) if query.flag(request, "stream") else None
    try:
        engine.emit(record.id, "attach")
        await socket.prepare(request)
        shown = (1,) * query.flag(request, "stdout") + (2,) * query.flag(request, "stderr")
        if query.flag(request, "logs"):
            wanted = LogQuery(stdout=1 in shown, stderr=2 in shown)
            async with aclosing(engine.logs(record.id, wanted)) as batches:
                async for batch in batches:
                    for line in batch:
                        await socket.send_bytes(line.data)
        if session is not None:
            takes_input = query.flag(request, "stdin") and record.config.open_stdin
            await websocket.serve(
                socket,
                session,
                shown=(1, 2) if record.config.tty else shown,
                stdin=takes_input,
                detach_keys=keys if record.config.tty else b"",
                keep_stdin=not record.config.stdin_once,
            )
        await socket.close()
    finally:
        if session is not None:
            engine.forget_session(record.id, session)
            await session.close()
    return socket


async def logs(request: web.Request) -> web.StreamResponse:
    """Send the log, framed unless the container has a terminal."""
    engine = engine_of(request)
    container = engine.inspect(request.match_info["id"])
    wanted = log_query(request)
    tty = container.record.config.tty
    response = web.StreamResponse()
    if minor_of(request) >= 42:
        response.content_type = hijack.RAW if tty else hijack.MULTIPLEXED
    response.enable_chunked_encoding()
    await while_connected(request, _write_log(engine, container, wanted, request, response))
    await response.write_eof()
    return response


async def _write_log(
    engine: Engine,
    container: Container,
    wanted: LogQuery,
    request: web.Request,
    response: web.StreamResponse,
) -> None:
    """Send the head once the log is open: a client that has it may remove the container."""
    stamps, details = query.flag(request, "timestamps"), query.flag(request, "details")
    tty = container.record.config.tty
    async with aclosing(engine.logs(container.record.id, wanted)) as batches:
        async for batch in batches:
            if not response.prepared:
                await response.prepare(request)
            lines = [
                (line.stream, _prefixed(line, stamps=stamps, details=details)) for line in batch
            ]
            data = b"".join(text if tty else hijack.frame(stream, text) for stream, text in lines)
            if data:
                await response.write(data)
    if not response.prepared:
        await response.prepare(request)


def _prefixed(line: LogLine, *, stamps: bool, details: bool) -> bytes:
    data = line.data
    if details:
        words = (f"{quote(k)}={quote(v)}" for k, v in sorted(line.attributes.items()))
        data = ",".join(words).encode() + b" " + data
    return line.stamp.encode() + b" " + data if stamps else data


def log_query(request: web.Request) -> LogQuery:
    """Read the parameters every log request has.

    Raises:
        InvalidArgument: when neither stream is chosen or a number is none.
    """
    stdout, stderr = query.flag(request, "stdout"), query.flag(request, "stderr")
    if not (stdout or stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    tail = query.text(request, "tail") or "all"
    if tail != "all" and not tail.lstrip("-").isdecimal():
        raise InvalidArgument(f"invalid value {tail!r} for tail: all or a number")
    lines = None if tail == "all" or int(tail) < 0 else int(tail)
    return LogQuery(
        stdout=stdout,
        stderr=stderr,
        since_ns=query.time_ns(request, "since"),
        until_ns=query.time_ns(request, "until"),
        tail=lines,
        follow=query.flag(request, "follow"),
    )


_STREAMS = (rest.flag("stdout"), rest.flag("stderr"))
_ATTACHED = (
    *_STREAMS,
    rest.flag("stream", "what comes from now on"),
    rest.flag("logs", "what came before"),
    rest.flag("stdin"),
    rest.text("detachKeys"),
)
LOG_QUERY = (
    *_STREAMS,
    rest.flag("follow"),
    rest.time("since"),
    rest.time("until"),
    rest.flag("timestamps"),
    rest.flag("details"),
    rest.text("tail", "all, or how many lines"),
)
ROUTES = (
    Route(
        "POST",
        "/containers/{id:.+}/attach",
        attach,
        _ATTACHED,
        answer=bytes,
        content="upgrade",
    ),
    Route(
        "GET",
        "/containers/{id:.+}/attach/ws",
        attach_socket,
        _ATTACHED,
        answer=bytes,
        content="upgrade",
    ),
    Route("GET", "/containers/{id:.+}/logs", logs, LOG_QUERY, answer=bytes, content="upgrade"),
)
