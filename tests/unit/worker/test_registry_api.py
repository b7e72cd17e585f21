"""The routes of registries, over a fake registry: what is told before and in the stream."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.fakes.registry import FakeRegistry
from tests.unit.image.registry_images import publish
from tests.unit.image.tars import file_member, tar_of
from tests.unit.worker.test_engine import World
from worker.api.app import build_app

Client = TestClient[Any, Any]


def login(user: str = "alice", password: str = "sekret") -> dict[str, str]:
    raw = json.dumps({"username": user, "password": password}).encode()
    return {"X-Registry-Auth": base64.urlsafe_b64encode(raw).decode()}


async def objects(response: aiohttp.ClientResponse) -> list[Any]:
    text = await response.text()
    assert all(line.endswith("\r") for line in text.split("\n")[:-1])
    return [json.loads(line) for line in text.split("\r\n") if line]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - files wake nobody
            await asyncio.sleep(0.01)


def play(
    tmp_path: Path,
    story: Callable[[Client, FakeRegistry, World], Awaitable[None]],
    *,
    auth: str = "none",
) -> None:
    async def main() -> None:
        world = World(tmp_path)
        await world.engine.open()
        try:
            async with (
                FakeRegistry(auth).serving() as registry,
                TestClient(TestServer(build_app(world.engine))) as client,
            ):
                await story(client, registry, world)
        finally:
            await world.engine.close()

    asyncio.run(main())


def test_pull_streams_and_errors_before_it_have_a_status(tmp_path: Path) -> None:
    async def story(client: Client, registry: FakeRegistry, world: World) -> None:
        digest = publish(registry, "app", "1", {"f": b"1"})
        name = f"{registry.address}/app"
        response = await client.post(f"/v1.50/images/create?fromImage={name}&tag=1")
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json"
        lines = await objects(response)
        assert lines[-1] == {"status": f"Status: Downloaded newer image for {name}:1"}
        image = await (await client.get(f"/images/{name}:1/json")).json()
        assert image["RepoDigests"] == [f"{name}@{digest}"]
        missing = await client.post(f"/v1.50/images/create?fromImage={name}&tag=9")
        assert missing.status == 404
        words = f"manifest for {name}:9 not found: manifest unknown: manifest unknown"
        assert await missing.json() == {"message": words}
        for wrong in ("fromImage=UP&tag=1", f"fromImage={name}&tag=1&platform=/"):
            assert (await client.post(f"/images/create?{wrong}")).status == 400
        bad = {"X-Registry-Auth": "!"}
        refused = await client.post(f"/images/create?fromImage={name}&tag=1", headers=bad)
        assert refused.status == 400
        told = [(event.action, event.attributes["name"]) for event in world.engine.events.past()]
        assert ("pull", f"{name}:1") in told

    play(tmp_path, story)


def test_an_error_midway_travels_in_the_stream(tmp_path: Path) -> None:
    async def story(client: Client, registry: FakeRegistry, world: World) -> None:
        publish(registry, "app", "1", {"f": b"1" * 2000})
        for (repository, digest), content in list(registry.blobs.items()):
            if content.startswith(b"\x1f\x8b"):
                registry.blobs[repository, digest] = bytes(len(content))
        name = f"{registry.address}/app"
        lines = await objects(await client.post(f"/images/create?fromImage={name}&tag=1"))
        assert "verification failed" in lines[-1]["error"]
        assert lines[-1]["errorDetail"] == {"message": lines[-1]["error"]}
        assert (await client.get(f"/images/{name}:1/json")).status == 404

    play(tmp_path, story)


def test_push_distribution_login_and_search(tmp_path: Path) -> None:
    async def story(client: Client, registry: FakeRegistry, world: World) -> None:
        name = f"{registry.address}/app"
        world.images.tag("img:1", f"{name}:1")
        push = f"/images/{name}/push?tag=1"
        lines = await objects(await client.post(push))
        assert lines[0] == {"status": f"The push refers to repository [{name}]"}
        assert lines[-1]["error"] == "no basic auth credentials"
        lines = await objects(await client.post(push, headers=login()))
        aux = lines[-1]["aux"]
        assert lines[-2] == {"status": f"1: digest: {aux['Digest']} size: {aux['Size']}"}
        there = await client.get(f"/distribution/{name}:1/json", headers=login())
        descriptor = (await there.json())["Descriptor"]
        assert (descriptor["digest"], descriptor["size"]) == (aux["Digest"], aux["Size"])
        assert (await client.get(f"/distribution/{name}:1/json")).status == 500
        absent = await objects(await client.post(f"/images/{name}/push?tag=2", headers=login()))
        words = f"An image does not exist locally with the tag: {name}"
        assert absent[-1]["error"] == words
        body = {"username": "alice", "password": "sekret", "serveraddress": registry.address}
        taken = await client.post("/auth", json=body)
        assert await taken.json() == {"IdentityToken": "", "Status": "Login Succeeded"}
        refused = await client.post("/auth", json={**body, "password": "wrong"})
        assert refused.status == 401
        assert "401 Unauthorized" in (await refused.json())["message"]
        registry.auth = "none"
        none = await client.get(f"/images/search?term={registry.address}/x")
        assert none.status == 501
        registry.has_search = True
        found = await client.get(
            f'/images/search?term={registry.address}/x&filters={{"stars":["5"]}}'
        )
        assert [row["name"] for row in await found.json()] == ["x"]
        assert (await client.get("/images/search?term=x&limit=101")).status == 400

    play(tmp_path, story, auth="basic")


def test_a_pull_ends_when_its_client_goes(tmp_path: Path) -> None:
    async def story(client: Client, registry: FakeRegistry, world: World) -> None:
        publish(registry, "app", "1", {"f": os.urandom(5000)})
        registry.gate = asyncio.Event()
        name = f"{registry.address}/app"
        response = await client.post(f"/images/create?fromImage={name}&tag=1")
        await until(lambda: any(world.images.blobs.temporary.iterdir()))
        response.close()
        await until(lambda: not any(world.images.blobs.temporary.iterdir()))
        assert (await client.get(f"/images/{name}:1/json")).status == 404

    play(tmp_path, story)


def test_the_pull_of_a_build_ends_with_its_client(tmp_path: Path) -> None:
    async def story(client: Client, registry: FakeRegistry, world: World) -> None:
        publish(registry, "base", "1", {"big": os.urandom(5000)})
        registry.gate = asyncio.Event()
        dockerfile = f"FROM {registry.address}/base:1\n".encode()
        context = tar_of(file_member("Dockerfile", dockerfile)).getvalue()
        building = asyncio.ensure_future(client.post("/build", data=context))
        await until(lambda: any("/blobs/" in asked for asked in registry.requests))
        flights = world.engine.registries.puller.flights
        await until(lambda: bool(flights.under_way))
        (await building).close()
        await until(lambda: not flights.under_way)
        await until(lambda: not list(world.images.blobs.temporary.iterdir()))

    play(tmp_path, story)


def test_a_registry_that_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(client: Client, registry: FakeRegistry, world: World) -> None:
        monkeypatch.setattr("worker.api.registry._RESOLVE_TIMEOUT_S", 0.2)
        async with silent() as address:
            answer = await client.get(f"/distribution/{address}/app:1/json")
            assert answer.status == 500
            words = f"{address} did not say within 0.2 s what {address}/app:1 is"
            assert await answer.json() == {"message": words}

    play(tmp_path, story)


@asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """Listen on loopback and never answer."""
    closed = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closed.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        closed.set()
        server.close()
