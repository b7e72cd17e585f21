"""The daemon's cluster routes before a manager that is a real process on a real socket."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from runtime.image.store import ImageStore
from tests.unit.cluster.bench import Machine
from worker.api.app import build_app
from worker.cluster.info import SwarmInfo
from worker.cluster.membership import Member
from worker.cluster.proxy import ManagerProxy
from worker.cluster.routes import install
from worker.config import Config
from worker.engine.clock import SystemClock
from worker.engine.engine import Engine, EngineParts
from worker.engine.ports import Supervisor
from worker.networking import open_networking

INIT = {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1:1"}


@asynccontextmanager
async def served(machine: Machine) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve one daemon's API on a unix socket."""
    base = machine.run_dir.parent
    async with machine.daemon() as (member, _, proxy):
        app = application(base, member, proxy)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        path = str(machine.run_dir / "swarmd.sock")
        await web.UnixSite(runner, path).start()
        session = aiohttp.ClientSession(
            "http://swarm", connector=aiohttp.UnixConnector(path), raise_for_status=False
        )
        try:
            yield session
        finally:
            await session.close()
            await runner.cleanup()


def application(base: Path, member: Member, proxy: ManagerProxy) -> web.Application:
    info = SwarmInfo(member, proxy)
    engine = Engine(
        EngineParts(
            data_root=base,
            supervisor=cast(Supervisor, None),  # an engine that is never opened asks none
            networking=open_networking(Config(data_root=base, run_dir=base / "run")),
            images=ImageStore(base / "images"),
            clock=SystemClock(),
            swarm_info=info.block,
        )
    )
    return build_app(
        engine,
        swarm_state=info.ping_state,
        cluster_routes=lambda app: install(app, member, proxy, info),
    )


async def ask(
    session: aiohttp.ClientSession, method: str, path: str, **options: Any
) -> tuple[int, Any]:
    async with session.request(method, path, **options) as answer:
        raw = await answer.read()
        return answer.status, json.loads(raw) if raw.strip() else None


@pytest.mark.parametrize("path", ["/swarm", "/v1.41/nodes", "/services/x", "/swarm/v1/explain"])
def test_outside_a_cluster_cluster_routes_say_so_in_dockers_words(
    machine: Machine, path: str
) -> None:
    async def run() -> None:
        async with served(machine) as session:
            status, body = await ask(session, "GET", path)
            assert status == 503
            assert body["message"].startswith("This node is not a swarm manager. Use ")

    asyncio.run(run())


def test_init_answers_a_bare_string_and_the_ping_tells_it(machine: Machine) -> None:
    async def run() -> None:
        async with served(machine) as session:
            async with session.get("/_ping") as answer:
                assert answer.headers["Swarm"] == "inactive"
            assert await ask(session, "POST", "/v1.50/swarm/init", json=INIT) == (200, "n1")
            async with session.get("/_ping") as answer:
                assert answer.headers["Swarm"] == "active/manager"
            status, body = await ask(session, "POST", "/swarm/init", json=INIT)
            assert status == 503
            assert "already part of a swarm" in body["message"]

    asyncio.run(run())


def test_an_option_not_served_is_refused_by_name(machine: Machine) -> None:
    async def run() -> None:
        async with served(machine) as session:
            status, body = await ask(
                session, "POST", "/swarm/init", json={**INIT, "DataPathPort": 4790}
            )
            assert status == 501
            assert "DataPathPort" in body["message"]
            harmless = {**INIT, "AutoLockManagers": False, "DataPathPort": 4789}
            assert (await ask(session, "POST", "/swarm/init", json=harmless))[0] == 200

    asyncio.run(run())


def test_requests_pass_with_path_query_headers_and_body(machine: Machine) -> None:
    async def run() -> None:
        async with served(machine) as session:
            await ask(session, "POST", "/swarm/init", json=INIT)
            status, seen = await ask(
                session,
                "POST",
                "/v1.44/services/web/update?version=7&x=%7B%22a%22%7D",
                data=b'{"Name":"web"}',
                headers={"X-Registry-Auth": "e30="},
            )
            assert status == 200
            assert seen["path"] == "/v1.44/services/web/update?version=7&x=%7B%22a%22%7D"
            assert (seen["method"], seen["body"]) == ("POST", '{"Name":"web"}')
            assert seen["auth"] == "e30="
            status, body = await ask(session, "GET", "/services/missing")
            assert (status, body) == (404, {"message": "service missing not found"})

    asyncio.run(run())


def test_a_stream_passes_piece_by_piece(machine: Machine) -> None:
    async def run() -> None:
        async with served(machine) as session:
            await ask(session, "POST", "/swarm/init", json=INIT)
            async with session.get("/tasks/t1/logs", params={"follow": "1"}) as plain:
                assert plain.status == 200
                await plain.read()
            async with session.get("/tasks/t1/logs") as answer:
                assert await answer.content.readexactly(5) == b"first"
                fd = os.open(machine.certs / "go-on", os.O_WRONLY)
                os.close(fd)
                assert await answer.content.read() == b"last"
                assert answer.content_type == "application/vnd.docker.multiplexed-stream"

    asyncio.run(run())


def test_info_shows_the_cluster_without_its_tokens(machine: Machine) -> None:
    async def run() -> None:
        async with served(machine) as session:
            _, before = await ask(session, "GET", "/info")
            assert before["Swarm"]["LocalNodeState"] == "inactive"
            await ask(session, "POST", "/swarm/init", json=INIT)
            _, after = await ask(session, "GET", "/v1.50/info")
            swarm = after["Swarm"]
            assert (swarm["NodeID"], swarm["NodeAddr"]) == ("n1", "127.0.0.1")
            assert swarm["LocalNodeState"] == "active"
            assert swarm["ControlAvailable"] is True
            assert (swarm["Nodes"], swarm["Managers"]) == (2, 1)
            assert swarm["RemoteManagers"] == [{"NodeID": "n1", "Addr": "127.0.0.1:2377"}]
            assert swarm["Cluster"]["Version"] == {"Index": 7}
            assert "JoinTokens" not in swarm["Cluster"]

    asyncio.run(run())


def test_overlay_networks_are_the_clusters_and_others_the_engines(machine: Machine) -> None:
    async def run() -> None:
        async with served(machine) as session:
            overlay = {"Name": "web", "Driver": "overlay"}
            status, body = await ask(session, "POST", "/networks/create", json=overlay)
            assert status == 503
            assert "not a swarm manager" in body["message"]
            await ask(session, "POST", "/swarm/init", json=INIT)
            status, body = await ask(session, "POST", "/v1.50/networks/create", json=overlay)
            assert status == 200
            assert json.loads(body["body"]) == overlay
            _, local = await ask(session, "GET", "/networks/host?scope=local")
            assert local["Driver"] == "host"
            status, body = await ask(session, "DELETE", "/networks/web")
            assert (status, body["method"], body["path"]) == (200, "DELETE", "/networks/web")

    asyncio.run(run())
