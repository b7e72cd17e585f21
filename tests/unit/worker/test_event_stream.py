"""`GET /events` of the daemon: the engine's and the cluster's, filtered, until the client goes."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from swarmapi.events import Event
from swarmapi.query import runner_of
from tests.unit.worker.test_engine import World
from worker.api import events as routes
from worker.api.app import build_app
from worker.api.events import CLUSTER_EVENTS, event_matches

Client = aiohttp.ClientSession
LONG_S = 600.0
"""Longer than any test may take: nothing waits for it where the manager answers."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_PAST_WAIT_S", LONG_S)


def cluster_event(kind: str, name: str, time_ns: int, **more: str) -> Event:
    attributes = {"name": name, **{k.replace("_", "."): v for k, v in more.items()}}
    return Event(kind, "update", f"id-of-{name}-in-full", attributes, time_ns, "swarm")


class Feed:
    """A cluster's stream that the test fills; `None` is a manager that never answers."""

    def __init__(self, past: Sequence[Event] | None = ()) -> None:
        self.past = past
        self.coming: asyncio.Queue[Event] = asyncio.Queue()
        self.asked: list[tuple[int | None, bool]] = []
        self.readers = 0

    async def stream(
        self, since_ns: int | None, tasks: bool
    ) -> AsyncGenerator[Sequence[Event], None]:
        self.asked.append((since_ns, tasks))
        self.readers += 1
        try:
            if self.past is not None:
                yield self.past
            while True:
                yield [await self.coming.get()]
        finally:
            self.readers -= 1


def play(
    tmp_path: Path, story: Callable[[Client, World, Feed], Awaitable[None]], feed: Feed
) -> None:
    async def main() -> None:
        world = World(tmp_path)
        await world.engine.open()
        app = build_app(world.engine)
        app[CLUSTER_EVENTS] = feed.stream
        runner = runner_of(app, 1.0)  # as the daemon does: aiohttp's own for tests cancels handlers
        await runner.setup()
        path = str(tmp_path / "api.sock")
        await web.UnixSite(runner, path).start()
        try:
            connector = aiohttp.UnixConnector(path)
            async with aiohttp.ClientSession("http://swarm", connector=connector) as client:
                await asyncio.wait_for(story(client, world, feed), 20)
        finally:
            await world.engine.close()
            await runner.cleanup()

    asyncio.run(main())


async def line(answer: aiohttp.ClientResponse) -> tuple[str, str, str]:
    event = json.loads(await answer.content.readline())
    return event["scope"], event["Type"], event["Actor"]["Attributes"].get("name", "")


def test_both_are_told_the_past_in_the_order_of_time(tmp_path: Path) -> None:
    async def story(client: Client, world: World, feed: Feed) -> None:
        clock = world.engine.parts.clock
        early = cluster_event("service", "early", clock.now_ns())
        world.engine.events.emit("volume", "create", "v", {"name": "v"})
        feed.past = (early, cluster_event("service", "late", clock.now_ns()))
        async with client.get("/events?since=0") as answer:
            lines = [await line(answer) for _ in range(3)]
            assert [name for *_, name in lines] == ["early", "v", "late"]
            assert {scope for scope, *_ in lines} == {"swarm", "local"}
            feed.coming.put_nowait(cluster_event("node", "w1", 5))
            assert await line(answer) == ("swarm", "node", "w1")
            world.engine.events.emit("volume", "destroy", "v", {"name": "v"})
            assert await line(answer) == ("local", "volume", "v")

    play(tmp_path, story, Feed())


def test_a_manager_that_does_not_answer_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_PAST_WAIT_S", 0.1)

    async def story(client: Client, world: World, feed: Feed) -> None:
        world.engine.events.emit("volume", "create", "v", {"name": "v"})
        async with client.get("/events?since=0") as answer:
            assert await line(answer) == ("local", "volume", "v")
            feed.coming.put_nowait(cluster_event("service", "web", 1))
            assert await line(answer) == ("swarm", "service", "web"), "late, and not lost"

    play(tmp_path, story, Feed(None))


@pytest.mark.parametrize(
    ("filters", "asked"),
    [
        ({"type": ["task"]}, [(None, True)]),
        ({"type": ["service"]}, [(None, False)]),
        ({"scope": ["swarm"]}, [(None, False)]),
        ({"scope": ["local"]}, []),
    ],
)
def test_the_cluster_is_asked_for_what_is_wanted(
    tmp_path: Path, filters: dict[str, list[str]], asked: list[tuple[int | None, bool]]
) -> None:
    async def story(client: Client, world: World, feed: Feed) -> None:
        async with client.get("/events", params={"filters": json.dumps(filters)}) as answer:
            assert answer.status == 200
            assert feed.asked == asked

    play(tmp_path, story, Feed())


def test_a_client_that_went_away_is_noticed_though_nothing_happens(tmp_path: Path) -> None:
    async def story(client: Client, world: World, feed: Feed) -> None:
        answer = await client.get("/events")
        assert (world.engine.events.listeners, feed.readers) == (1, 1)
        answer.close()
        while world.engine.events.listeners or feed.readers:  # noqa: ASYNC110 - a look at a time
            await asyncio.sleep(0.01)

    play(tmp_path, story, Feed())


TASK = cluster_event("task", "web.1.t", 1, service_name="web", service_id="s", node_id="n")
SERVICE = cluster_event("service", "web", 1)


@pytest.mark.parametrize(
    ("event", "filters", "passes"),
    [
        (SERVICE, {"service": ["web"]}, True),
        (SERVICE, {"service": ["id-of-web-in"]}, True),
        (SERVICE, {"service": ["we"]}, False),
        (SERVICE, {"node": ["web"]}, False),
        (SERVICE, {"scope": ["local"]}, False),
        (SERVICE, {"scope": ["swarm"], "type": ["service"], "event": ["update"]}, True),
        (SERVICE, {"event": ["create"]}, False),
        (TASK, {"service": ["web"]}, True),
        (TASK, {"node": ["n"]}, True),
        (TASK, {"node": ["m"]}, False),
        (TASK, {"task": ["web.1.t"]}, True),
    ],
)
def test_filters_of_the_clusters_events(
    event: Event, filters: dict[str, list[str]], passes: bool
) -> None:
    assert event_matches(event, filters) is passes
