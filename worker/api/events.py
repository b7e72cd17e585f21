"""The events of this machine's engine, and of its cluster where a manager runs here."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from aiohttp import web

from swarmapi import query, rest
from swarmapi.events import Event
from swarmapi.rest import Route
from worker.api import answers
from worker.api.keys import engine_of
from worker.api.presence import while_connected
from worker.api.responses import JsonLines
from worker.engine.events import Listener
from worker.engine.filters import label_matches

Feed = AsyncGenerator[Sequence[Event], None]
ClusterEvents = Callable[[int | None, bool], Feed]
"""(since in unix nanoseconds, tasks too) to a stream: what is remembered, then what comes."""
CLUSTER_EVENTS: web.AppKey[ClusterEvents] = web.AppKey("cluster_events")
_PAST_WAIT_S: Final = 2.0
"""A manager that starts or has no leader does not hold up the engine's events for longer."""
_FILTERS: Final = (
    "config", "container", "daemon", "event", "image", "label", "network", "node", "plugin",
    "scope", "secret", "service", "task", "type", "volume",
)  # fmt: skip


async def events(request: web.Request) -> web.StreamResponse:
    """Stream events, one JSON document a line.

    Those of the cluster are among them on its managers. Tasks are told of where `type` or `task`
    is a filter.
    """
    lines = JsonLines(request, end=b"\n")
    await while_connected(request, _send(request, lines))
    return await lines.finish()


async def _send(request: web.Request, lines: JsonLines) -> None:
    engine, wanted = engine_of(request), query.filters(request)
    since_ns = query.time_ns(request, "since") if query.given(request, "since") else None
    until_ns = query.time_ns(request, "until")

    def left_s() -> float | None:
        return (until_ns - engine.parts.clock.now_ns()) / 1e9 if until_ns else None

    with engine.events.listen(since_ns) as listener:
        joining = None
        if CLUSTER_EVENTS in request.app and _may_be_of("swarm", wanted):
            tasks = "task" in wanted.get("type", ()) or bool(wanted.get("task"))
            feed = request.app[CLUSTER_EVENTS](since_ns, tasks)
            remembered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            joining = asyncio.ensure_future(_join(feed, listener, remembered))
            await asyncio.wait(
                {remembered, joining},
                timeout=_PAST_WAIT_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            remembered.cancel()  # what is remembered and comes late comes among the rest
        try:
            await lines.begin()
            for event in sorted(listener.past, key=lambda event: event.time_ns):
                if event_matches(event, wanted) and not (until_ns and event.time_ns >= until_ns):
                    await lines.send(event.to_json())
            async for event in listener.live(left_s):
                if event_matches(event, wanted):
                    await lines.send(event.to_json())
        finally:
            if joining is not None:
                joining.cancel()
                await asyncio.gather(joining, return_exceptions=True)


async def _join(
    feed: AsyncGenerator[Sequence[Event], None],
    listener: Listener,
    remembered: "asyncio.Future[None]",
) -> None:
    """Add another stream to a listener: its first part is what was remembered."""
    async with aclosing(feed) as parts:
        async for part in parts:
            if not remembered.done():
                listener.past.extend(part)
                remembered.set_result(None)
                continue
            for event in part:
                listener.offer(event)


def _may_be_of(scope: str, wanted: Mapping[str, Sequence[str]]) -> bool:
    return scope in (wanted.get("scope") or (scope,))


def event_matches(event: Event, wanted: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether an event passes the filters: all keys, any value of each."""
    return all(_passes(event, key, values) for key, values in wanted.items() if values)


def _passes(event: Event, key: str, values: Sequence[str]) -> bool:
    match key:
        case "label":
            return all(label_matches(event.attributes, value) for value in values)
        case "type":
            return event.kind in values
        case "event":
            return event.action in values or event.action.partition(":")[0] in values
        case "scope":
            return event.scope in values
        case "image" if event.kind == "container":
            return event.attributes.get("image") in values
        case "service" | "node" if event.kind == "task":
            names = [event.attributes.get(f"{key}.{part}", "") for part in ("id", "name")]
        case _ if event.kind == key:
            names = [event.actor_id, event.attributes.get("name", "")]
        case _:
            return False
    return any(
        value in names or (len(value) >= 12 and names[0].removeprefix("sha256:").startswith(value))
        for value in values
    )


ROUTES = (
    Route(
        "GET",
        "/events",
        events,
        (rest.time("since"), rest.time("until"), rest.filters(*_FILTERS)),
        answer=answers.Object,
        content="stream",
    ),
)
