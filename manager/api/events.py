"""The cluster's events: every manager tells them itself, so a stream outlives its leader."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import msgspec
from aiohttp import web

from manager.api.keys import EVENTS
from swarmapi import query, rest
from swarmapi.events import EventBatch
from swarmapi.rest import Route


async def stream_events(request: web.Request) -> web.StreamResponse:
    """Stream what happens to the cluster's objects, one line of JSON a transaction.

    The first line is what is remembered since `since`, or behind `after`. To go on where a stream
    broke off, on any manager, ask for what comes after the last index.
    """
    since_ns = query.time_ns(request, "since")
    after, tasks = query.integer(request, "after"), query.flag(request, "tasks")
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    batches = request.app[EVENTS].stream(since_ns=since_ns or None, after=after, tasks=tasks)
    async with aclosing(batches):
        async for batch in batches:
            await response.write(msgspec.json.encode(batch) + b"\n")
    await response.write_eof()
    return response


ROUTES: Final[Sequence[rest.Declared]] = (
    Route(
        "GET",
        "/swarm/v1/events",
        stream_events,
        (
            rest.time("since", "of the cluster's clock; without it only what comes is told"),
            rest.integer("after", "index of the last transaction that is known"),
            rest.flag("tasks", "tell of tasks, too"),
        ),
        answer=EventBatch,
        content="stream",
    ),
)
SERVED_HERE: Final = frozenset((stream_events,))
"""Handlers that do not ask the leader."""
