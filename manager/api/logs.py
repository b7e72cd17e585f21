"""Logs of services and tasks, as Docker's clients read them.

Each line is a frame of its own: `[stream, 0, 0, 0, length as big-endian uint32]` and the line,
with `details` behind the labels that tell node, service and task. A frame of stream 3 is an error
that ends the stream for the client. Of containers with a terminal the bytes come as they are.
"""

import struct
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from aiohttp import web

from manager.api.keys import BROKER, STORE
from manager.api.render import rfc3339
from manager.control.lookup import find_service, find_task
from manager.logbroker.subscription import Query, Record, Selector
from swarmapi import query, rest
from swarmapi.errors import InvalidArgument, SwarmError
from swarmapi.model import defaults
from swarmapi.model.objects import SpecVersion
from swarmapi.rest import Route

_SYSTEM_ERROR: Final = 3
_FRAME: Final = struct.Struct(">BxxxL")
_INCOMPLETE: Final = (
    "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "
)
_LABEL: Final = "com.docker.swarm."
_MOST_LINES: Final = 1 << 31
_FIRST_TYPED_VERSION: Final = 42


async def service_logs(request: web.Request) -> web.StreamResponse:
    """Stream what the containers of a service's tasks wrote, in the order of time."""
    view = request.app[STORE].view
    service = find_service(view, request.match_info["id"])
    spec = view.specs.get((service.id, service.spec_version))
    return await _stream(request, Selector(service_id=service.id), spec)


async def task_logs(request: web.Request) -> web.StreamResponse:
    """Stream what a task's container wrote."""
    view = request.app[STORE].view
    task = find_task(view, request.match_info["id"])
    return await _stream(request, Selector(task_id=task.id), view.spec_of(task))


async def _stream(
    request: web.Request, selector: Selector, spec: SpecVersion | None
) -> web.StreamResponse:
    wanted = _query(request)
    stamps, details = query.flag(request, "timestamps"), query.flag(request, "details")
    tty = spec is not None and defaults.container(spec.spec).tty
    response = web.StreamResponse()
    version = request.match_info.get("version", rest.API_VERSION)
    if int(version.partition(".")[2]) >= _FIRST_TYPED_VERSION:
        kind = "raw" if tty else "multiplexed"
        response.content_type = f"application/vnd.docker.{kind}-stream"
    response.enable_chunked_encoding()
    with request.app[BROKER].subscribe(selector, wanted) as subscription:
        await response.prepare(request)
        ended = ""
        try:
            async with aclosing(subscription.records()) as pieces:
                async for records in pieces:
                    lines = [_line(one, stamps=stamps, details=details) for one in records]
                    if not tty:
                        streams = [one.line.stream for one in records]
                        lines = [_frame(*framed) for framed in zip(streams, lines, strict=True)]
                    await response.write(b"".join(lines))
        except SwarmError as error:
            ended = error.message
        if subscription.problems:
            ended = _INCOMPLETE + ", ".join((*subscription.problems, ended)).removesuffix(", ")
    if ended:
        text = f"{ended}\n".encode()
        await response.write(text if tty else _frame(_SYSTEM_ERROR, text))
    await response.write_eof()
    return response


def _frame(stream: int, data: bytes) -> bytes:
    return _FRAME.pack(stream, len(data)) + data


def _line(record: Record, *, stamps: bool, details: bool) -> bytes:
    line = record.line
    words = []
    if stamps:
        seconds, nanos = divmod(line.time_ns, 10**9)
        words.append(f"{rfc3339(seconds * 10**9)[:-1]}.{nanos:09d}Z")
    if details:
        source = record.origin
        words.append(
            f"{_LABEL}node.id={source.node_id},{_LABEL}service.id={source.service_id},"
            f"{_LABEL}task.id={source.task_id}{',' if line.details else ''}{line.details}"
        )
    return " ".join((*words, "")).encode() + line.data


def _query(request: web.Request) -> Query:
    """Read the parameters; raises InvalidArgument when neither stream is chosen."""
    stdout, stderr = query.flag(request, "stdout"), query.flag(request, "stderr")
    if not (stdout or stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    tail = query.text(request, "tail") or "all"
    if tail != "all" and not tail.removeprefix("-").isdecimal():
        raise InvalidArgument(f"invalid value {tail!r} for tail: all or a number")
    return Query(
        stdout=stdout,
        stderr=stderr,
        follow=query.flag(request, "follow"),
        since_ns=query.time_ns(request, "since"),
        until_ns=query.time_ns(request, "until"),
        tail=-1 if tail == "all" else max(-1, min(int(tail), _MOST_LINES)),
    )


_PARAMETERS: Final = (
    rest.flag("stdout"),
    rest.flag("stderr"),
    rest.flag("follow", "go on as lines come"),
    rest.flag("details", "labels of node, service and task before each line"),
    rest.flag("timestamps"),
    rest.time("since"),
    rest.time("until"),
    rest.text("tail", "lines from the end of each task's log, or all"),
)
ROUTES: Final[Sequence[rest.Declared]] = tuple(
    Route("GET", path, handler, _PARAMETERS, content="stream")
    for path, handler in (("/services/{id}/logs", service_logs), ("/tasks/{id}/logs", task_logs))
)
