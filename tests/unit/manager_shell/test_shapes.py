"""The JSON shapes that the docker CLI was recorded to read (Engine API 1.50)."""

import asyncio
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from manager.api.app import build_app
from manager.api.render import rfc3339
from manager.logbroker.broker import LogBroker
from swarmapi.model.objects import TaskState
from tests.unit.manager_shell.cluster import MemoryCluster, NoForwarder, no_session

SPEC = {
    "Name": "web",
    "Labels": {},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "busybox:latest",
            "Args": ["sleep", "9"],
            "Env": ["A=1"],
            "Init": False,
            "StopGracePeriod": 10**9,
            "DNSConfig": {},
        },
        "Resources": {"Limits": {}, "Reservations": {}},
        "Placement": {},
        "Networks": [{"Target": "ov1"}],
        "ForceUpdate": 0,
    },
    "Mode": {"Replicated": {"Replicas": 2}},
    "UpdateConfig": {
        "Parallelism": 1,
        "FailureAction": "pause",
        "Monitor": 5 * 10**9,
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    },
    "EndpointSpec": {"Mode": "vip"},
}
OBJECT = {"ID", "Version", "CreatedAt", "UpdatedAt", "Spec"}


async def recorded() -> dict[str, Any]:
    cluster = MemoryCluster()
    await cluster.found()
    await cluster.settle()
    broker = LogBroker(cluster.store, no_session)
    app = build_app(cluster.store, "m1", NoForwarder(), broker, cluster.events)
    async with TestClient(TestServer(app)) as client:
        network = {"Name": "ov1", "Driver": "overlay", "Attachable": True}
        assert (await client.post("/networks/create", json=network)).status == 201
        assert (await client.post("/services/create", json=SPEC)).status == 201
        await cluster.settle()
        await cluster.run_tasks()
        paths = {
            "service": "/services/web?insertDefaults=true",
            "tasks": "/tasks",
            "nodes": "/nodes",
            "network": "/networks/ov1",
            "swarm": "/swarm",
        }
        return {name: await (await client.get(path)).json() for name, path in paths.items()}


def test_bodies_have_the_recorded_keys() -> None:
    bodies = asyncio.run(recorded())
    service = bodies["service"]
    assert set(service) == OBJECT | {"Endpoint"}
    assert set(service["Spec"]) == {*SPEC, "RollbackConfig"}
    assert set(service["Spec"]["TaskTemplate"]) == {
        "ContainerSpec",
        "Resources",
        "RestartPolicy",
        "Placement",
        "Networks",
        "ForceUpdate",
        "Runtime",
    }
    assert service["Spec"]["TaskTemplate"]["ContainerSpec"] == {
        "Image": "busybox:latest",
        "Args": ["sleep", "9"],
        "Env": ["A=1"],
        "Init": False,
        "StopGracePeriod": 10**9,
        "DNSConfig": {},
        "Isolation": "default",
    }
    assert service["Spec"]["RollbackConfig"] == service["Spec"]["UpdateConfig"]
    assert set(service["Endpoint"]) == {"Spec", "VirtualIPs"}
    task = bodies["tasks"][0]
    assert set(task) == OBJECT | {
        "Labels",
        "ServiceID",
        "Slot",
        "NodeID",
        "Status",
        "DesiredState",
        "NetworksAttachments",
        "EndpointState",
    }
    assert set(task["Status"]) == {
        "Timestamp",
        "State",
        "Message",
        "ContainerStatus",
        "PortStatus",
    }
    assert set(task["Status"]["ContainerStatus"]) == {"ContainerID", "PID", "ExitCode"}
    (attachment,) = task["NetworksAttachments"]
    assert set(attachment["Network"]) == OBJECT | {"DriverState", "IPAMOptions"}
    (node,) = bodies["nodes"]
    assert set(node) == OBJECT | {"Description", "Status", "ManagerStatus"}
    assert set(node["Description"]) == {
        "Hostname",
        "Platform",
        "Resources",
        "Engine",
        "TLSInfo",
    }
    assert set(node["Description"]["TLSInfo"]) == {
        "TrustRoot",
        "CertIssuerSubject",
        "CertIssuerPublicKey",
    }
    assert node["Description"]["TLSInfo"]["CertIssuerSubject"] == "MBMxETAPBgNVBAMMCHN3YXJtLWNh"
    assert bodies["network"]["IPAM"]["Config"][0].keys() == {"Subnet", "Gateway"}
    assert bodies["network"]["Options"]["com.docker.network.driver.overlay.vxlanid_list"]
    assert {"JoinTokens", "TLSInfo", "DefaultAddrPool", "SubnetSize"} < set(bodies["swarm"])


def test_times_are_written_as_go_writes_them() -> None:
    second = 1_767_225_600 * 10**9
    assert rfc3339(second) == "2026-01-01T00:00:00Z"
    assert rfc3339(second + 120_000_000) == "2026-01-01T00:00:00.12Z"
    assert rfc3339(second + 1) == "2026-01-01T00:00:00.000000001Z"


MINIMAL = {
    "Name": "web",
    "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest"}},
    "EndpointSpec": {"Ports": [{"TargetPort": 80}]},
}


@pytest.mark.parametrize("given", [SPEC | {"TaskTemplate": MINIMAL["TaskTemplate"]}, MINIMAL])
@pytest.mark.parametrize("insert_defaults", ["false", "true"])
def test_what_was_read_and_scaled_replaces_no_task(
    given: dict[str, Any], insert_defaults: str
) -> None:
    """Clients read the spec, change the count and send all of it back."""

    async def main() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        await cluster.settle()
        broker = LogBroker(cluster.store, no_session)
        app = build_app(cluster.store, "m1", NoForwarder(), broker, cluster.events)
        async with TestClient(TestServer(app)) as client:
            assert (await client.post("/services/create", json=given)).status == 201
            await cluster.settle()
            before = await cluster.run_tasks()
            url = f"/services/web?insertDefaults={insert_defaults}"
            read = await (await client.get(url)).json()
            spec = read["Spec"] | {"Mode": {"Replicated": {"Replicas": len(before) + 2}}}
            url = f"/services/web/update?version={read['Version']['Index']}"
            assert (await client.post(url, json=spec)).status == 200
            await cluster.settle()
            after = {task.id: task for task in await cluster.run_tasks()}
        assert len(after) == len(before) + 2
        assert {after[task.id].desired for task in before} == {TaskState.RUNNING}
        (service,) = cluster.store.view.services.values()
        assert service.update_status is None

    asyncio.run(main())
