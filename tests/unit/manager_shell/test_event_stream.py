"""A manager's stream of events: remembered, then live; resumed by index; a follower's own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from manager import events
from manager.api.app import build_app
from manager.logbroker.broker import LogBroker
from manager.replica import LogStatus
from manager.store import snapshot
from manager.store.changes import PutNode, SetNodeStatus
from swarmapi.events import EventBatch
from swarmapi.model.objects import Node, NodeState
from tests.unit.manager_shell.cluster import MemoryCluster, NoForwarder, no_session

Client = TestClient[Any, Any]
URL = "/swarm/v1/events"


def play(story: Callable[[MemoryCluster, Client], Awaitable[None]]) -> None:
    async def main() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        await cluster.settle()
        broker = LogBroker(cluster.store, no_session)
        app = build_app(cluster.store, "m1", NoForwarder(), broker, cluster.events)
        async with TestClient(TestServer(app)) as client:
            await asyncio.wait_for(story(cluster, client), 20)

    asyncio.run(main())


async def line(answer: aiohttp.ClientResponse) -> EventBatch:
    return msgspec.json.decode(await answer.content.readline(), type=EventBatch)


def names(batch: EventBatch) -> list[tuple[str, str, str]]:
    return [(event.kind, event.action, event.attributes["name"]) for event in batch.events]


async def create(cluster: MemoryCluster, client: Client, name: str) -> None:
    body = {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
    assert (await client.post("/services/create", json=body)).status == 201
    await cluster.settle()


def test_without_a_time_only_what_comes_is_told_a_transaction_a_line() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        async with client.get(URL) as answer:
            assert (await line(answer)).events == ()
            await create(cluster, client, "web")
            first = await line(answer)
            assert names(first) == [("service", "create", "web")]
            assert first.events[0].time_ns <= cluster.store.view.now_ns
            assert names(await line(answer)) == [("service", "update", "web")], "its endpoint"
            assert (await client.delete("/services/web")).status == 200
            assert names(await line(answer)) == [("service", "remove", "web")]

    play(story)


def test_what_is_remembered_comes_first_and_can_be_resumed_by_index() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await create(cluster, client, "one")
        between_ns = cluster.store.now_ns()
        await create(cluster, client, "two")
        seconds, nanos = divmod(between_ns, 10**9)
        async with client.get(f"{URL}?since={seconds}.{nanos:09d}") as answer:
            past = await line(answer)
        assert {name for _, _, name in names(past)} == {"two"}
        assert past.index == cluster.store.view.index
        await create(cluster, client, "three")
        async with client.get(f"{URL}?after={past.index}") as answer:
            assert {name for _, _, name in names(await line(answer))} == {"three"}
        async with client.get(f"{URL}?since=1") as answer:
            whole = names(await line(answer))
        assert ("node", "create", "host1") in whole
        assert whole.count(("service", "create", "one")) == 1

    play(story)


def test_tasks_are_told_on_request_only() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        async with client.get(f"{URL}?tasks=1&since=1") as asked, client.get(URL) as other:
            await line(asked)
            await line(other)
            await create(cluster, client, "web")
            kinds: set[str] = set()
            while not kinds >= {"service", "task"}:
                kinds |= {event.kind for event in (await line(asked)).events}
            assert (await client.delete("/services/web")).status == 200
            told = []
            while ("service", "remove", "web") not in told:
                told += names(await line(other))
            assert {kind for kind, _, _ in told} == {"service"}
        async with client.get(f"{URL}?tasks=1&since=1") as answer:
            past = (await line(answer)).events
        order = [event.time_ns for event in past]
        assert order == sorted(order)
        assert "task" in {event.kind for event in past}

    play(story)


def test_a_follower_tells_them_itself_and_a_lost_leader_ends_nothing() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        async with client.get(URL) as answer:
            await line(answer)
            cluster.log.become(LogStatus(False, False, "m2", "127.0.0.2:2377"))
            async with client.get(f"{URL}?since=1") as of_follower:
                assert ("node", "create", "host1") in names(await line(of_follower))
            cluster.log.become(LogStatus(False, False))
            cluster.log.become(LogStatus(True, True, "m1", "127.0.0.1:2377"))
            await cluster.store.propose((PutNode(node=Node(id="w1")),))
            assert names(await line(answer)) == [("node", "create", "")]

    play(story)


def test_a_snapshot_taken_from_another_tells_what_it_changed() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        ahead = MemoryCluster()
        await ahead.found()
        await ahead.settle()
        down = SetNodeStatus(node_id="m1", state=NodeState.DOWN)
        await ahead.store.propose((down,))
        async with client.get(URL) as answer:
            await line(answer)
            cluster.replica.restore(snapshot.dump(ahead.store.view))
            (event,) = [e for e in (await line(answer)).events if e.kind == "node"]
            assert (event.action, event.attributes["state.new"]) == ("update", "down")

    play(story)


def test_what_is_remembered_is_bounded_and_a_reader_that_left_is_forgotten() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        states = (NodeState.DOWN, NodeState.READY)
        for number in range(events.REMEMBERED + 10):
            change = SetNodeStatus(node_id="m1", state=states[number % 2])
            await cluster.store.propose((change,))
        stream = cluster.events.stream(since_ns=1)
        assert len((await anext(stream)).events) == events.REMEMBERED
        assert len(cluster.events._queues) == 1
        await stream.aclose()
        assert not cluster.events._queues

    play(story)


def test_a_reader_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold whatever happens in memory for ever; it asks again behind what it has."""
    monkeypatch.setattr(events, "_QUEUE_LIMIT", 8)

    async def story(cluster: MemoryCluster, client: Client) -> None:
        stream = cluster.events.stream()
        await anext(stream)
        states = (NodeState.DOWN, NodeState.READY)
        for number in range(20):
            change = SetNodeStatus(node_id="m1", state=states[number % 2])
            await cluster.store.propose((change,))
        assert not cluster.events._queues
        assert len([batch async for batch in stream]) == 9

    play(story)
