"""Writing down who called what on this daemon, and reading it together with its manager's."""

import asyncio
import heapq
import os
from collections.abc import Awaitable, Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from swarmapi import query, rest
from swarmapi.access import ApiRole, needed
from swarmapi.audit import (
    BEGUN,
    FILTERS,
    REFUSED,
    AuditLog,
    AuditReader,
    Entry,
    Refusals,
    matches,
    outcome_of,
)
from swarmapi.ids import new_id
from swarmapi.query import DECLARED
from swarmapi.ratelimit import PER_S
from swarmapi.rest import Route
from worker.api.callers import CALLER, PEER

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
AUDIT: web.AppKey[AuditLog] = web.AppKey("audit", AuditLog)
DIRECTORY: web.AppKey[Path] = web.AppKey("audit_directory", Path)
"""Of the daemon's log and its manager's."""
REQUEST_ID = web.RequestKey("request_id", str)
"""The id of a call that is written down; the manager hears it, too."""
REQUEST_ID_HEADER = "X-Swarm-Request-Id"
REFUSALS: web.AppKey[Refusals] = web.AppKey("refusals", Refusals)
_LOOK_S = 0.25
_AT_ONCE = 500
"""Entries that are read before others have their turn."""
_MOST_CHARACTERS = 256
"""Of a path, a name or a request's id: a line may be a mebibyte, and a log of them soon over."""
_HIJACKED, _CLIENT_WENT = 101, 499


class _Made(msgspec.Struct):
    """The part of an answer that names what was made."""

    id: str = msgspec.field(default="", name="Id")
    ID: str = ""


@web.middleware
async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Write a call down at its end, if it asks for more than a viewer or was refused."""
    asks_for_more = needed(request.method, request.path)[0] > ApiRole.VIEWER
    if asks_for_more:
        given = request.headers.get(REQUEST_ID_HEADER, "")
        request[REQUEST_ID] = given[:_MOST_CHARACTERS] or new_id(os.urandom)
    status, made = 500, ""
    try:
        response = await handler(request)
        status, made = response.status, _made(response)
        return response
    except asyncio.CancelledError:
        status = _HIJACKED if _is_upgrade(request) else _CLIENT_WENT
        raise
    finally:
        if asks_for_more or status in (401, 403):
            _write(request, outcome_of(status), status, made)


def begin(request: web.Request) -> None:
    """Write down the beginning of what becomes a stream: its end may be far."""
    if _is_upgrade(request):
        _write(request, BEGUN, 0, "")


def _is_upgrade(request: web.Request) -> bool:
    route = request.app[DECLARED].get(request.match_info.route)
    return route is not None and route.content == "upgrade"


def _write(request: web.Request, outcome: str, status: int, made: str) -> None:
    entry = Entry(
        method=request.method,
        path=request.path[:_MOST_CHARACTERS],
        object=_object(request)[:_MOST_CHARACTERS],
        object_id=made,
        outcome=outcome,
        status=status,
        request_id=request.get(REQUEST_ID, ""),
        peer=request.get(PEER, ""),
    )
    if (caller := request.get(CALLER)) is not None:
        entry = msgspec.structs.replace(
            entry,
            by=caller.by,
            who=caller.name,
            role=caller.role.word,
            uid=caller.uid,
            pid=caller.pid,
        )
    if outcome == REFUSED or not entry.by:
        _write_refusal(request.app, entry)
    else:
        request.app[AUDIT].write(entry)


def _write_refusal(app: web.Application, entry: Entry) -> None:
    refusals, loop = app[REFUSALS], asyncio.get_running_loop()
    held = refusals.holds
    for said in refusals.take(f"{entry.by} {entry.who}", entry, loop.time()):
        app[AUDIT].write(said)
    if refusals.holds and not held:
        loop.call_later(PER_S, _tell_held, app)


def _tell_held(app: web.Application) -> None:
    refusals, loop = app[REFUSALS], asyncio.get_running_loop()
    for said in refusals.end(loop.time()):
        app[AUDIT].write(said)
    if refusals.holds:
        loop.call_later(PER_S, _tell_held, app)


async def end(app: web.Application) -> None:
    """Write down what was held back, and let go of the log."""
    for said in app[REFUSALS].end():
        app[AUDIT].write(said)
    app[AUDIT].close()


def _object(request: web.Request) -> str:
    """Return what the path names; for the manager's routes its second part."""
    found, route = request.match_info, request.app[DECLARED].get(request.match_info.route)
    if "tail" in found:
        return found["tail"].partition("/")[0].removeprefix("create")
    named = found.get("id") or found.get("name", "")
    if not named and route is not None and any(param.name == "name" for param in route.query):
        return query.text(request, "name")
    return named


def _made(response: web.StreamResponse) -> str:
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return ""
    try:
        found = msgspec.json.decode(response.body, type=_Made)
    except msgspec.DecodeError:
        return ""
    return found.id or found.ID


async def show(request: web.Request) -> web.StreamResponse:
    """Stream the audit log of this daemon and its manager, one line of JSON an entry."""
    since_ns, wanted = query.time_ns(request, "since"), query.filters(request)
    follow = query.flag(request, "follow")
    names = ("engine.log", "manager.log")
    readers = [AuditReader(request.app[DIRECTORY] / name) for name in names]
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    while True:
        for number, entry in enumerate(_merged(readers), 1):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # the files may hold a hundred thousand
            if entry.time_ns >= since_ns and matches(entry, wanted):
                await response.write(msgspec.json.encode(entry) + b"\n")
        if not follow or request.transport is None or request.transport.is_closing():
            break
        await asyncio.sleep(_LOOK_S)  # another process writes one of them: files wake nobody
    await response.write_eof()
    return response


def _merged(readers: list[AuditReader]) -> Iterator[Entry]:
    return heapq.merge(*(reader.entries() for reader in readers), key=attrgetter("time_ns"))


ROUTES = (
    Route(
        "GET",
        "/swarm/v1/audit",
        show,
        (rest.time("since"), rest.flag("follow"), rest.filters(*FILTERS)),
        answer=dict[str, Any],
        content="stream",
    ),
)
