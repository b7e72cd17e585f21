"""The manager's audit log: what it answered itself, with who asked the first node."""

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from manager.api.app import FORWARDED, build_app
from manager.audit import AUDIT, log_of
from manager.logbroker.broker import LogBroker
from swarmapi.access import CALLER_HEADER
from tests.unit.manager_shell.cluster import MemoryCluster, NoForwarder, no_session
from tests.unit.manager_shell.test_rest import spec

ALICE = json.dumps(
    {"by": "certificate", "name": "alice", "role": "deployer", "peer": "192.0.2.1:9"}
)


def test_calls_are_written_down_with_who_asked_first(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        broker = LogBroker(cluster.store, no_session)
        app = build_app(cluster.store, "m1", NoForwarder(), broker, cluster.events)
        app[AUDIT] = log_of(tmp_path / "state")
        async with TestClient(TestServer(app)) as client:
            await story(client)

    async def story(client: TestClient[Any, Any]) -> None:
        asked = {CALLER_HEADER: ALICE, FORWARDED: "m2", "X-Swarm-Request-Id": "r1"}
        async with client.post("/services/create", json=spec("web"), headers=asked) as answer:
            service_id = (await answer.json())["ID"]
        secret = {"Name": "pw", "Data": "aHVudGVyMg=="}
        async with client.post("/secrets/create", json=secret, headers={CALLER_HEADER: ALICE}):
            pass
        async with client.delete("/services/nothing"):
            pass
        async with client.get("/services"):
            pass
        async with client.get("/swarm"):
            pass
        raw = (tmp_path / "audit" / "manager.log").read_text()
        assert "aHVudGVyMg" not in raw
        first, second, third, fourth = map(json.loads, raw.splitlines())
        wanted = {
            "Source": "manager", "Node": "m1", "By": "certificate", "Who": "alice",
            "Role": "deployer", "Peer": "192.0.2.1:9", "Via": "m2", "Method": "POST",
            "Path": "/services/create", "Object": "web", "ObjectId": service_id,
            "Outcome": "done", "Status": 201, "RequestId": "r1",
        }  # fmt: skip
        assert {key: first[key] for key in wanted} == wanted
        assert (second["Object"], second["Outcome"], second["Status"]) == ("pw", "done", 201)
        assert (third["Object"], third["Status"], third["By"]) == ("nothing", 404, "node")
        assert (fourth["Path"], fourth["Outcome"]) == ("/swarm", "done")

    asyncio.run(main())
