"""A manager and who should not get in: refused, logged within bounds, and nothing unpickled."""

import ast
import asyncio
import datetime
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp
import grpc
import pytest

from manager.api.routes import ROUTES
from manager.bootstrap import prepare_first
from manager.ca.certificates import create_root
from manager.config import InitConfig
from swarmapi.identity import JOIN_SERVER_NAME, MANAGER, expect
from swarmapi.model.spec import NodeRole
from swarmapi.ratelimit import MOST
from swarmapi.rest import route_of
from tests.hostile import Mark, Port, attack
from tests.unit.manager_shell.test_authority import DENIED, METHODS, Door
from tests.unit.manager_shell.test_three_managers import Place
from tests.unit.manager_shell.wire import material

TRIES: Final = 300
AT_ONCE: Final = 4


def play(tmp_path: Path, story: Callable[[Door], Awaitable[None]]) -> None:
    async def main() -> None:
        place = Place(tmp_path)
        prepare_first(InitConfig(place.paths, place.address, ("10.0.0.0/8",), 24), os.urandom)
        try:
            async with asyncio.timeout(100):
                await place.start()
                await place.until("/swarm", lambda body: "JoinTokens" in body)
                await story(Door(place))
        finally:
            await place.stop()

    asyncio.run(main())


def ports(door: Door) -> list[Port]:
    """Return the three servers behind the public port: everything, joining, Raft."""
    host, _, number = door.place.address.rpartition(":")
    now = datetime.datetime.now(datetime.UTC)
    foreign = create_root(now, os.urandom)
    bad = {
        "expired": material(
            door.root,
            "m",
            NodeRole.MANAGER,
            door.cluster_id,
            now=now - datetime.timedelta(days=400),
        ),
        "foreign": material(foreign, "m", NodeRole.MANAGER, door.cluster_id),
    }
    return [
        Port(host, int(number), MANAGER, bad),
        Port(host, int(number), JOIN_SERVER_NAME, {}, answers_nobody=True),
        Port(host, int(number), door.place.node_id, bad),
    ]


def test_hundreds_of_tries_open_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mark = Mark(tmp_path / "mark")

    async def story(door: Door) -> None:
        tried: Counter[str] = Counter()
        targets = ports(door)

        async def some(first: int) -> None:
            for number in range(first, TRIES, AT_ONCE):
                port = targets[number % len(targets)]
                kind = await asyncio.to_thread(attack, port, number // len(targets), mark)
                tried[kind] += 1

        await asyncio.gather(*(some(first) for first in range(AT_ONCE)))
        assert min(tried.values()) > 10
        assert set(tried) == {
            "plaintext", "garbage", "pickle", "torn hello", "nobody", "expired", "foreign",
        }  # fmt: skip
        assert (await door.place.rest("GET", "/swarm"))[0] == 200
        assert await door.knock("manager", "/swarmapi.v1.Membership/Join", "Membership") != "OK"

    with caplog.at_level(logging.INFO):
        play(tmp_path / "place", story)
    refused = [line for line in caplog.messages if "speaks no TLS: refused" in line]
    assert 0 < len(refused) <= MOST
    assert len(caplog.messages) < 100


def test_no_method_unpickles(tmp_path: Path) -> None:
    mark = Mark(tmp_path / "mark")

    async def story(door: Door) -> None:
        await door.people()
        for full_name, service, method in METHODS:
            callers = {MANAGER: "manager", JOIN_SERVER_NAME: "nobody", door.place.node_id: ""}
            for name, caller in callers.items():
                own = door.place.tls.client()  # the one member's own, which Raft lets in
                credentials = door.credentials(caller) if caller else own
                async with grpc.aio.secure_channel(
                    door.place.address, credentials, options=[expect(name)]
                ) as channel:
                    call = channel.stream_stream(
                        f"/{full_name}/{method}",
                        request_serializer=bytes,
                        response_deserializer=bytes,
                    )(None, timeout=2.0)
                    try:
                        await call.write(mark.pickled)
                        await call.done_writing()
                        await call.read()
                    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                        pass  # the code tells
                    code = (await call.code()).name
                    ended = service == "Raft"  # a member's link just ends
                    assert ended or code in DENIED | {"INTERNAL", "UNKNOWN"}, service
        assert not mark.was_run

    play(tmp_path / "place", story)


def test_no_route_unpickles(tmp_path: Path) -> None:
    mark = Mark(tmp_path / "mark")

    async def story(door: Door) -> None:
        connector = aiohttp.UnixConnector(str(door.place.paths.socket))
        async with aiohttp.ClientSession("http://manager", connector=connector) as client:
            for route in map(route_of, ROUTES):
                if route.method in ("POST", "PUT") and route.path != "/swarm/leave":
                    path = route.path.replace("{id}", "x")
                    async with client.request(route.method, path, data=mark.pickled) as answer:
                        assert answer.status >= 400 or route.body is None, path
        assert not mark.was_run

    play(tmp_path / "place", story)


def test_a_mark_is_made_by_who_unpickles_it(tmp_path: Path) -> None:
    import pickle

    mark = Mark(tmp_path / "mark")
    pickle.loads(mark.pickled)
    assert mark.was_run


UNSAFE: Final = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}


def test_nothing_of_ours_imports_what_unpickles() -> None:
    root = Path(__file__).parents[3]
    found = []
    for package in ("manager", "worker", "runtime", "swarmctl", "proto"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or "", *(alias.name for alias in node.names)]
                found += [f"{path}: {name}" for name in names if name.split(".")[0] in UNSAFE]
    assert found == []
