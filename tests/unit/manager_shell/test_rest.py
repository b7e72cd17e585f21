"""The REST API over a real store and real turns."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from manager.api.app import FORWARDED, NOT_LEADER, build_app
from manager.logbroker.broker import LogBroker
from manager.replica import LogStatus
from manager.store.changes import SetNodeDescription, SetTaskStatus
from swarmapi.model.objects import NodeDescription, TaskState, TaskStatus
from tests.unit.manager_shell.cluster import MemoryCluster, NoForwarder, no_session

OUT_OF_SEQUENCE = "rpc error: code = Unknown desc = update out of sequence"
Client = TestClient[Any, Any]
Story = Callable[[MemoryCluster, Client], Awaitable[None]]


def spec(name: str = "web", **more: Any) -> dict[str, Any]:
    """What `docker service create` sends, blanks and all."""
    return {
        "Name": name,
        "Labels": {},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busybox:latest",
                "Args": ["sleep", "999"],
                "Init": False,
                "DNSConfig": {},
            },
            "Resources": {"Limits": {}, "Reservations": {}},
            "Placement": {},
            "ForceUpdate": 0,
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "EndpointSpec": {"Mode": "vip"},
        **more,
    }


def play(story: Story, forwarder: NoForwarder | None = None) -> None:
    async def main() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        await cluster.settle()
        broker = LogBroker(cluster.store, no_session)
        app = build_app(cluster.store, "m1", forwarder or NoForwarder(), broker, cluster.events)
        async with TestClient(TestServer(app)) as client:
            await story(cluster, client)

    asyncio.run(main())


async def get(
    client: Client, path: str, status: int = 200, filters: dict[str, list[str]] | None = None
) -> Any:
    params = {"filters": json.dumps(filters)} if filters else None
    response = await client.get(path, params=params)
    body = await response.json()
    assert response.status == status, body
    assert response.headers["Content-Type"] == "application/json"
    return body


async def post(client: Client, path: str, body: Any, status: int = 200) -> Any:
    response = await client.post(path, json=body)
    text = await response.text()
    assert response.status == status, text
    return json.loads(text) if text else None


def test_service_from_create_to_running_tasks() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        created = await post(client, "/v1.50/services/create", spec(), 201)
        await cluster.settle()
        await cluster.run_tasks()
        service = await get(client, "/services/web?insertDefaults=true")
        assert service["ID"] == created["ID"]
        assert service["Spec"]["TaskTemplate"]["RestartPolicy"] == {
            "Condition": "any",
            "Delay": 5_000_000_000,
            "MaxAttempts": 0,
        }
        assert service["Spec"]["UpdateConfig"] == {
            "Parallelism": 1,
            "FailureAction": "pause",
            "Monitor": 5_000_000_000,
            "MaxFailureRatio": 0,
            "Order": "stop-first",
        }
        assert service["Spec"]["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] == 10**10
        plain = await get(client, f"/services/{created['ID'][:24]}")
        assert "RestartPolicy" not in plain["Spec"]["TaskTemplate"]
        assert plain["Endpoint"] == {"Spec": {"Mode": "vip"}}
        (listed,) = await get(client, "/services?status=true")
        assert listed["ServiceStatus"] == {
            "RunningTasks": 2,
            "DesiredTasks": 2,
            "CompletedTasks": 0,
        }
        tasks = await get(client, "/tasks", filters={"service": ["web"]})
        assert [t["Slot"] for t in tasks] == [1, 2]
        assert tasks[0]["NodeID"] == "m1"
        assert tasks[0]["DesiredState"] == "running"
        assert tasks[0]["Status"]["State"] == "running"
        assert tasks[0]["Status"]["ContainerStatus"]["PID"] == 42
        assert tasks[0]["Spec"]["ContainerSpec"]["Image"] == "busybox:latest"

    play(story)


def test_a_spec_sent_back_as_it_was_read_replaces_no_task() -> None:
    """Clients update what they read, in which defaults are filled in."""

    async def story(cluster: MemoryCluster, client: Client) -> None:
        created = await post(client, "/services/create", spec(), 201)
        await cluster.settle()
        before = {t.id for t in await cluster.run_tasks()}
        for insert in ("false", "true"):
            service = await get(client, f"/services/web?insertDefaults={insert}")
            path = f"/services/{created['ID']}/update?version={service['Version']['Index']}"
            await post(client, path, service["Spec"])
            await cluster.settle()
        assert {t.id for t in cluster.store.view.tasks.values()} == before

    play(story)


def test_published_port_and_overlay_are_allocated_and_rendered() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        body = {
            "Name": "ov1",
            "Driver": "overlay",
            "Scope": "",
            "IPAM": {"Driver": "default", "Options": {}, "Config": [{"Subnet": "10.77.0.0/24"}]},
            "Internal": False,
            "Attachable": True,
            "Ingress": False,
            "ConfigOnly": False,
            "ConfigFrom": None,
            "Options": {},
            "Labels": {},
        }
        network_id = (await post(client, "/networks/create", body, 201))["Id"]
        wanted = spec(EndpointSpec={"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]})
        wanted["TaskTemplate"]["Networks"] = [{"Target": "ov1"}]
        await post(client, "/services/create", wanted, 201)
        await cluster.settle()
        service = await get(client, "/services/web")
        assert service["Spec"]["TaskTemplate"]["Networks"] == [{"Target": network_id}]
        assert service["Endpoint"]["Ports"] == [
            {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}
        ]
        vips = {v["NetworkID"]: v["Addr"] for v in service["Endpoint"]["VirtualIPs"]}
        assert vips[network_id].startswith("10.77.0.")
        network = await get(client, "/networks/ov1")
        assert network["IPAM"]["Config"] == [{"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.1"}]
        assert network["Scope"] == "swarm"
        task = (await get(client, "/tasks", filters={"service": ["web"]}))[0]
        attached = {a["Network"]["ID"]: a["Addresses"][0] for a in task["NetworksAttachments"]}
        assert attached[network_id].startswith("10.77.0.")
        response = await client.delete("/networks/ov1")
        assert response.status == 400
        assert "in use by service web" in (await response.json())["message"]
        taken = spec("two", EndpointSpec={"Ports": [{"TargetPort": 1, "PublishedPort": 8080}]})
        refused = await post(client, "/services/create", taken, 400)
        assert "already in use by service 'web'" in refused["message"]

    play(story)


def test_a_networks_removal_waits_for_tasks_that_stop() -> None:
    """`docker stack rm` removes services and networks in one go."""

    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/networks/create", {"Name": "ov1", "Driver": "overlay"}, 201)
        wanted = spec()
        wanted["TaskTemplate"]["Networks"] = [{"Target": "ov1"}]
        await post(client, "/services/create", wanted, 201)
        await cluster.settle()
        tasks = await cluster.run_tasks()
        assert (await client.delete("/services/web")).status == 200
        await cluster.settle()
        removal = asyncio.create_task(client.delete("/networks/ov1"))
        assert await get(client, "/networks/ov1")
        ended = TaskStatus(state=TaskState.SHUTDOWN, timestamp_ns=cluster.clock())
        changes = [SetTaskStatus(task_id=task.id, status=ended) for task in tasks]
        await cluster.store.propose(changes)
        await cluster.settle()
        assert (await asyncio.wait_for(removal, 10)).status == 204
        assert (await client.get("/networks/ov1")).status == 404

    play(story)


def test_figures_are_told_without_a_leader() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/services/create", spec(), 201)
        await cluster.settle()
        await cluster.run_tasks()
        cluster.log.become(LogStatus(is_leader=False, ready=False))
        response = await client.get("/swarm/v1/metrics")
        lines = (await response.text()).splitlines()
        assert 'swarm_tasks{state="running"} 2' in lines
        assert 'swarm_nodes{state="ready"} 1' in lines
        assert {"swarm_services 1", "swarm_raft_is_leader 0", "swarm_raft_has_leader 0"} <= {*lines}

    play(story)


def test_a_read_outlives_the_leadership_that_took_it() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/services/create", spec(), 201)
        cluster.log.refusals = 3
        assert [s["Spec"]["Name"] for s in await get(client, "/services")] == ["web"]

    play(story)


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ("ingress", "ingress", 400),
        ("host", "ingress", 400),
        ("ingress", "host", 400),
        ("host", "host", 201),
    ],
)
def test_a_port_is_taken_before_it_is_allocated(first: str, second: str, status: int) -> None:
    def on(mode: str) -> dict[str, Any]:
        return {"Ports": [{"TargetPort": 80, "PublishedPort": 9000, "PublishMode": mode}]}

    async def story(cluster: MemoryCluster, client: Client) -> None:
        one = await post(client, "/services/create", spec("one", EndpointSpec=on(first)), 201)
        two = await post(client, "/services/create", spec("two", EndpointSpec=on(second)), status)
        what = "an ingress" if first == "ingress" else "a host-published"
        if status != 201:
            assert two["message"] == (
                f"port '9000' is already in use by service 'one' ({one['ID']}) as {what} port"
            )

    play(story)


def test_a_port_keeps_its_place_when_a_client_of_dockers_writes_it_back() -> None:
    plain = {"TargetPort": 80, "PublishedPort": 9000, "Protocol": "tcp", "PublishMode": "ingress"}
    ours = {"Source": "snat", "Address": "10.0.0.5"}

    async def story(cluster: MemoryCluster, client: Client) -> None:
        made = {"EndpointSpec": {"Ports": [plain | ours]}}
        one = await post(client, "/services/create", spec("one", **made), 201)
        await post(client, "/services/create", spec("two", EndpointSpec={"Ports": [plain]}), 400)
        elsewhere = [plain | {"Address": "10.0.0.6"}]
        await post(client, "/services/create", spec("two", EndpointSpec={"Ports": elsewhere}), 201)
        for sent, kept in ((plain, plain | ours), (plain | {"Source": "client"}, plain)):
            path = f"/services/{one['ID']}"
            version = (await get(client, path))["Version"]["Index"]
            body = spec("one", EndpointSpec={"Ports": [sent]})
            status = 200 if kept != plain else 400
            await post(client, f"{path}/update?version={version}", body, status)
            if status == 200:
                assert (await get(client, path))["Spec"]["EndpointSpec"]["Ports"] == [kept]

    play(story)


def test_each_port_of_one_number_keeps_its_own_place() -> None:
    plain = {"TargetPort": 80, "PublishedPort": 9000, "Protocol": "tcp", "PublishMode": "ingress"}
    low, high, third = (plain | {"Address": f"10.0.0.{last}"} for last in (5, 6, 7))

    async def story(cluster: MemoryCluster, client: Client) -> None:
        made = spec("one", EndpointSpec={"Ports": [low, high]})
        path = f"/services/{(await post(client, '/services/create', made, 201))['ID']}"
        bare = {"TargetPort": 80, "PublishedPort": 9000}
        for sent, kept in (
            ([plain, plain], [low, high]),
            ([bare, bare], [low, high]),
            ([low, bare], [low, high]),
            ([bare, low], [high, low]),
            ([bare, third], [high, third]),
        ):
            version = (await get(client, path))["Version"]["Index"]
            body = spec("one", EndpointSpec={"Ports": sent})
            await post(client, f"{path}/update?version={version}", body, 200)
            found = (await get(client, path))["Spec"]["EndpointSpec"]["Ports"]
            assert [one["Address"] for one in found] == [one["Address"] for one in kept]

    play(story)


def test_update_needs_the_version_and_rollback_the_previous_spec() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/services/create", spec(), 201)
        await cluster.settle()
        version = (await get(client, "/services/web"))["Version"]["Index"]
        stale = await post(client, f"/services/web/update?version={version - 1}", spec(), 500)
        assert stale == {"message": OUT_OF_SEQUENCE}
        nothing = await post(
            client, f"/services/web/update?version={version}&rollback=previous", spec(), 400
        )
        assert "does not have a previous spec" in nothing["message"]
        newer = spec()
        newer["TaskTemplate"]["ContainerSpec"]["Image"] = "busybox:2"
        assert await post(client, f"/services/web/update?version={version}", newer) == {
            "Warnings": None
        }
        assert not await get(
            client, "/tasks", filters={"service": ["web"], "_up-to-date": ["true"]}
        )
        await cluster.settle()
        current = await get(client, "/services/web")
        assert current["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "busybox:2"
        former = current["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]
        assert former["Image"] == "busybox:latest"
        assert current["UpdateStatus"]["State"] == "updating"
        version = current["Version"]["Index"]
        await post(client, f"/services/web/update?version={version}&rollback=previous", newer)
        back = await get(client, "/services/web")
        assert back["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == "busybox:latest"
        assert back["UpdateStatus"]["State"] == "rollback_started"

    play(story)


def test_names_modes_and_unknown_objects() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/services/create", spec(), 201)
        version = (await get(client, "/services/web"))["Version"]["Index"]
        taken = await post(client, "/services/create", spec(), 409)
        assert "name conflicts with an existing object" in taken["message"]
        path = f"/services/web/update?version={version}"
        assert "renamed" in (await post(client, path, spec("other"), 400))["message"]
        changed = await post(client, path, spec(Mode={"Global": {}}), 400)
        assert changed["message"].startswith("Mode: ")
        assert await get(client, "/services/nope", 404) == {"message": "service nope not found"}
        wrong = await get(client, "/services", 400, {"color": ["red"]})
        assert wrong == {"message": "invalid filter 'color'"}
        response = await client.delete("/services/web")
        assert response.status == 200
        await cluster.settle()
        assert await get(client, "/services") == []
        assert await get(client, "/tasks") == []

    play(story)


def test_same_request_id_creates_once() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        headers = {"X-Swarm-Request-Id": "r1"}
        first = await client.post("/services/create", json=spec(), headers=headers)
        again = await client.post("/services/create", json=spec(), headers=headers)
        assert (first.status, again.status) == (201, 201)
        assert await first.json() == await again.json()
        assert len(cluster.store.view.services) == 1

    play(story)


def test_a_request_id_of_another_request_is_refused() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        headers = {"X-Swarm-Request-Id": "r1"}
        made = await client.post("/services/create", json=spec(), headers=headers)
        assert made.status == 201
        for path, body in (
            ("/services/create", spec(Name="other")),
            ("/secrets/create", {"Name": "pw", "Data": "eA=="}),
            ("/networks/create", {"Name": "net", "Driver": "overlay"}),
        ):
            answer = await client.post(path, json=body, headers=headers)
            assert answer.status in (400, 412), path
            assert "used for another request" in await answer.text()
        long = {"X-Swarm-Request-Id": "r" * 300}
        assert (await client.post("/services/create", json=spec(), headers=long)).status == 400

    play(story)


def test_update_and_removal_sent_again_happen_once() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/services/create", spec(), 201)
        version = (await get(client, "/services/web"))["Version"]["Index"]
        path = f"/services/web/update?version={version}"
        for _ in range(2):
            headers = {"X-Swarm-Request-Id": "u1"}
            response = await client.post(path, json=spec(Labels={"a": "b"}), headers=headers)
            assert response.status == 200
        (service,) = cluster.store.view.services.values()
        assert (service.spec_version, service.previous_spec_version) == (2, 1)
        for _ in range(2):
            headers = {"X-Swarm-Request-Id": "d1"}
            assert (await client.delete("/services/web", headers=headers)).status == 200
        assert (await client.delete("/services/web")).status == 404

    play(story)


def test_forwarded_mutation_is_sent_again_under_one_id() -> None:
    forwarder = NoForwarder()

    async def story(cluster: MemoryCluster, client: Client) -> None:
        cluster.log.become(LogStatus(False, True, "m2", "10.0.0.2:2377"))
        forwarder.failures = 1
        response = await client.post("/services/create", json=spec())
        assert response.status == 200
        first, second = forwarder.request_ids
        assert first == second != ""

    play(story, forwarder)


def test_a_mutation_outlives_the_leadership_that_took_it() -> None:
    """Refused by a log that has just lost its leadership, it waits for the next leader."""
    forwarder = NoForwarder()

    async def story(cluster: MemoryCluster, client: Client) -> None:
        cluster.log.refused_proposals = 2
        made = await post(client, "/services/create", spec(), 201)
        assert list(cluster.store.view.services) == [made["ID"]]
        # the next leader is another one: it is sent the same body under the same id
        cluster.log.refused_proposals = 1
        cluster.log.next_status = LogStatus(False, True, "m2", "10.0.0.2:2377")
        response = await client.post("/services/create", json=spec("other"))
        assert await response.text() == "POST /services/create"
        assert [json.loads(body)["Name"] for body in forwarder.bodies] == ["other"]
        assert forwarder.request_ids[0]
        assert len(cluster.store.view.services) == 1

    play(story, forwarder)


def test_what_was_forwarded_is_refused_by_a_leader_that_leads_no_more() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        cluster.log.refused_proposals = 1
        response = await client.post("/services/create", json=spec(), headers={FORWARDED: "m3"})
        assert (response.status, NOT_LEADER in response.headers) == (503, True)
        refused = await client.post("/swarm/leave")
        assert (refused.status, NOT_LEADER in refused.headers) == (503, False)

    play(story)


def test_nodes_are_listed_updated_and_guarded() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        (node,) = await get(client, "/nodes")
        assert node["ManagerStatus"] == {
            "Leader": True,
            "Reachability": "reachable",
            "Addr": "127.0.0.1:2377",
            "Version": "",
            "Level": 1,
        }
        assert node["Description"]["Hostname"] == "host1"
        assert node["Description"]["TLSInfo"]["TrustRoot"].startswith("-----BEGIN CERTIFICATE")
        assert (await get(client, "/nodes/self"))["ID"] == "m1"
        wanted = {"Role": "manager", "Availability": "drain", "Labels": {"zone": "a"}}
        await post(client, f"/nodes/host1/update?version={node['Version']['Index']}", wanted)
        changed = await get(client, "/nodes/m1")
        assert changed["Spec"]["Labels"] == {"zone": "a"}
        assert changed["Spec"]["Availability"] == "drain"
        assert len(await get(client, "/nodes", filters={"node.label": ["zone=a"]})) == 1
        assert await get(client, "/nodes", filters={"node.label": ["zone=b"]}) == []
        path = f"/nodes/m1/update?version={changed['Version']['Index']}"
        # a session begins between the read and the write: the version moves, the spec does not
        begins = SetNodeDescription(node_id="m1", description=NodeDescription(hostname="host2"))
        await cluster.store.propose((begins,))
        assert (await get(client, "/nodes/m1"))["Version"]["Index"] > changed["Version"]["Index"]
        await post(client, path, wanted)
        assert (await post(client, path, wanted, 500))["message"] == OUT_OF_SEQUENCE
        changed = await get(client, "/nodes/m1")
        path = f"/nodes/m1/update?version={changed['Version']['Index']}"
        refused = await post(client, path, {**wanted, "Role": "worker"}, 400)
        assert "last manager" in refused["message"]
        response = await client.delete("/nodes/m1?force=1")
        assert response.status == 400

    play(story)


def test_cluster_inspect_update_and_token_rotation() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        body = await get(client, "/swarm")
        assert body["JoinTokens"]["Worker"].startswith("SWMTKN-1-")
        version = body["Version"]["Index"]
        settings = {**body["Spec"], "Orchestration": {"TaskHistoryRetentionLimit": 2}}
        path = f"/swarm/update?version={version}&rotateWorkerToken=true"
        await post(client, path, settings)
        after = await get(client, "/swarm")
        assert after["Spec"]["Orchestration"] == {"TaskHistoryRetentionLimit": 2}
        assert after["JoinTokens"]["Worker"] != body["JoinTokens"]["Worker"]
        assert after["JoinTokens"]["Manager"] == body["JoinTokens"]["Manager"]
        assert (await post(client, path, settings, 500))["message"] == OUT_OF_SEQUENCE
        other = {**settings, "CAConfig": {"NodeCertExpiry": 1}}
        path = f"/swarm/update?version={after['Version']['Index']}"
        assert "CAConfig" in (await post(client, path, other, 400))["message"]
        other = {**settings, "CAConfig": {"ExternalCAs": [{"URL": "https://ca"}]}}
        assert "ExternalCAs" in (await post(client, path, other, 501))["message"]
        skipped = await post(client, f"{path}&skipDownNodes=1", settings, 400)
        assert "no rotation" in skipped["message"]
        other = {**settings, "CAConfig": {"ForceRotate": 1, "ExternalCAs": []}}
        await post(client, path, other)
        during = await get(client, "/swarm")
        assert during["RootRotationInProgress"]
        assert during["Spec"]["CAConfig"]["ForceRotate"] == 1
        old, new = after["TLSInfo"], during["TLSInfo"]
        assert new["TrustRoot"] == old["TrustRoot"]
        assert new["CertIssuerPublicKey"] != old["CertIssuerPublicKey"]
        refused = await post(client, "/swarm/leave", None, 503)
        assert refused["message"].startswith("You are attempting to leave the swarm")

    play(story)


def test_task_that_fits_nowhere_says_why() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        wanted = spec()
        wanted["TaskTemplate"]["Placement"] = {"Constraints": ["node.labels.disk==ssd"]}
        await post(client, "/services/create", wanted, 201)
        await cluster.settle()
        task = (await get(client, "/tasks"))[0]
        assert task["Status"]["State"] == "pending"
        assert "no suitable node" in task["Status"]["Err"]
        story_of = await get(client, f"/swarm/v1/tasks/{task['ID']}/explain")
        assert [r["Count"] for r in story_of["Refusals"]] == [1]

    play(story)


def test_follower_forwards_once_and_waits_for_a_leader() -> None:
    forwarder = NoForwarder()

    async def story(cluster: MemoryCluster, client: Client) -> None:
        cluster.log.become(LogStatus(False, True))
        waiting = asyncio.create_task(client.get("/services?status=1"))
        await asyncio.sleep(0)
        cluster.log.become(LogStatus(False, True, "m2", "10.0.0.2:2377"))
        assert await (await waiting).text() == "GET /services?status=1"
        assert forwarder.asked == ["10.0.0.2:2377"]
        response = await client.get("/services", headers={FORWARDED: "m3"})
        assert response.status == 503

    play(story, forwarder)


@pytest.mark.parametrize("value", ["not json", "[]", '{"name": 3}'])
def test_bad_filters_are_refused(value: str) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        response = await client.get("/services", params={"filters": value})
        assert response.status == 400
        assert (await response.json())["message"].startswith("invalid filter")

    play(story)


def test_failed_task_shows_its_error() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/services/create", spec(), 201)
        await cluster.settle()
        tasks = await cluster.run_tasks()
        assert {t.status.state for t in tasks} == {TaskState.RUNNING}
        body = await get(client, "/tasks/web.1")
        assert body["Slot"] == 1

    play(story)
