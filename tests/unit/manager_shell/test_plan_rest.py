"""Plans over REST: asked for, followed, refused when the cluster moved."""

import asyncio
from typing import Any

import msgspec

from manager.control.plans import Request, make_plan
from manager.store.changes import PutNode
from swarmapi.model.decode import decode_spec
from swarmapi.model.objects import Node, NodeDescription, NodeState
from swarmapi.model.spec import ServiceSpec
from tests.unit.manager_shell.cluster import MemoryCluster
from tests.unit.manager_shell.test_rest import Client, get, play, post, spec

PLAN = "/v1.50/swarm/v1/plan"


def create(given: dict[str, Any]) -> dict[str, Any]:
    return {"Services": [{"Action": "create", "Spec": given}]}


def test_a_plan_is_shown_and_followed_once() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        plan = await post(client, PLAN, create(spec()))
        (service,) = plan["Services"]
        assert (service["Action"], service["Create"], service["Name"]) == ("create", 2, "web")
        assert plan["Fits"]
        assert {t["Node"] for t in service["Tasks"]} == {"host1"}
        assert await get(client, "/v1.50/services") == []
        path = f"/v1.50/services/create?planVersion={plan['Version']}"
        made = await post(client, path, spec(), 201)
        await cluster.settle()
        where = {t["Slot"]: t["NodeID"] for t in await get(client, "/v1.50/tasks")}
        assert where == {t["Slot"]: t["NodeID"] for t in service["Tasks"]}
        error = await post(client, path, spec("other", Mode={"Global": {}}), 409)
        assert "the cluster moved since plan" in error["message"]
        changed = {**(await get(client, f"/v1.50/services/{made['ID']}"))}
        changed["Spec"]["Labels"] = {"a": "b"}
        item = {"Action": "update", "ID": "web", "Spec": changed["Spec"]}
        plan = await post(client, PLAN, {"Services": [item]})
        assert plan["Services"][0]["Changes"] == ['Labels.a: none → "b"']
        assert plan["Services"][0]["Keep"] == 2
        number = changed["Version"]["Index"]
        path = f"/v1.50/services/{made['ID']}/update?version={number}&planVersion="
        await post(client, f"{path}{plan['Version'] + 1}", changed["Spec"], 409)
        await post(client, f"{path}{plan['Version']}", changed["Spec"])

    play(story)


def test_what_is_no_plan_is_refused_with_its_place() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        for body, words in (
            ({}, "Services: a list"),
            ({"Services": [{"Action": "create", "Spec": {"Nmae": "x"}}]}, "Services[0].Spec."),
            (
                {"Services": [{"Action": "create", "Sepc": {}}]},
                "unsupported field Services[0].Sepc",
            ),
            ({"Services": [{"Action": "vanish"}]}, "Services[0].Action"),
            ({"Services": [{"ID": "x"}]}, "Services[0]"),
        ):
            error = await post(client, PLAN, body, 400)
            assert words in error["message"]

    play(story)


def test_secrets_of_a_plan_are_made_first_and_move_who_follows() -> None:
    """`stack deploy --plan`: what a new secret replaces is foretold, and nothing is stored."""

    async def story(cluster: MemoryCluster, client: Client) -> None:
        old = {"Name": "key", "Data": "b25l"}
        await post(client, "/v1.50/secrets/create", old, 201)
        reference = {"SecretName": "key", "Follow": True, "File": {"Name": "key"}}
        using = spec()
        using["TaskTemplate"]["ContainerSpec"]["Secrets"] = [reference]
        await post(client, "/v1.50/services/create", using, 201)
        await cluster.settle()
        await cluster.run_tasks()
        new = {"Name": "key", "Data": "dHdv"}
        body = {**create(spec("other")), "Secrets": [new], "Configs": [{**new, "Name": "page"}]}
        plan = await post(client, PLAN, body)
        assert plan["Secrets"] == [{"Name": "key", "Action": "replace"}]
        assert plan["Configs"] == [{"Name": "page", "Action": "create"}]
        web, other = plan["Services"]
        assert (web["Name"], web["Action"], web["Replace"]) == ("web", "update", 2)
        assert (other["Name"], other["Create"]) == ("other", 2)
        assert "dHdv" not in str(plan)
        assert plan["Version"] == (await post(client, PLAN, body))["Version"]
        kept = await post(client, PLAN, {**body, "Secrets": [old]})
        assert kept["Secrets"] == [{"Name": "key", "Action": "keep"}]
        assert [s["Name"] for s in kept["Services"]] == ["other"]
        assert len(await get(client, "/v1.50/secrets")) == 1
        assert await get(client, "/v1.50/configs") == []
        error = await post(client, PLAN, {**body, "Secrets": [{"Nmae": "x"}]}, 400)
        assert "Secrets[0]." in error["message"]

    play(story)


def test_stories_and_the_table_over_rest() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(
            client, "/v1.50/services/create", spec(Mode={"Replicated": {"Replicas": 1}}), 201
        )
        await cluster.settle()
        await cluster.run_tasks()
        lines = await get(client, "/v1.50/swarm/v1/services/web/story")
        assert (lines[0]["What"], lines[0]["Reason"]) == ("created", "service created")
        (task,) = await get(client, "/v1.50/tasks")
        own = await get(client, f"/v1.50/swarm/v1/tasks/{task['ID']}/story")
        assert own[-1]["What"] == "running"
        assert [line for line in lines if line["TaskID"] == task["ID"]] == own
        explained = await get(client, f"/v1.50/swarm/v1/tasks/{task['ID']}/explain")
        (row,) = explained["Table"]
        assert (row["Node"], row["Here"], row["Fits"]) == ("host1", True, True)
        await get(client, "/v1.50/swarm/v1/tasks/none/story", 404)

    play(story)


def test_rebalancing_is_planned_begun_followed_and_stopped() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        path = "/v1.50/swarm/v1/rebalance"
        assert (await get(client, path))["State"] == "none"
        assert (await get(client, f"{path}/plan"))["Services"] == []
        await post(client, "/v1.50/services/create", spec(), 201)
        await cluster.settle()
        await cluster.run_tasks()
        ready = Node(id="w1", description=NodeDescription(hostname="w1"), state=NodeState.READY)
        await cluster.store.propose((PutNode(node=ready),))
        await cluster.settle()
        plan = await get(client, f"{path}/plan")
        (service,) = plan["Services"]
        assert (service["Action"], service["Replace"], service["Keep"]) == ("move", 1, 1)
        await post(client, f"{path}?planVersion={plan['Version'] + 1}", None, 409)
        begun = await post(client, f"{path}?planVersion={plan['Version']}", None, 202)
        assert begun["State"] == "running"
        await post(client, path, None, 400)
        for _ in range(4):
            await cluster.settle()
            await cluster.run_tasks()
        assert await get(client, path) == {"State": "done", "Moved": 1, "Skipped": []}
        assert (await client.delete(path)).status == 400
        assert (await get(client, f"{path}/plan"))["Services"] == []

    play(story)


def test_a_plan_is_made_in_pieces_and_anew_where_the_cluster_moves() -> None:
    """Beats and reports are served meanwhile; what they change is in the plan."""

    async def story(cluster: MemoryCluster, client: Client) -> None:
        wanted = decode_spec(msgspec.json.encode(spec()), ServiceSpec)
        second = Node(id="n2", description=NodeDescription(hostname="host2"), state=NodeState.READY)
        plan, _ = await asyncio.gather(
            make_plan(cluster.store, [Request(action="create", spec=wanted)]),
            cluster.store.propose((PutNode(node=second),)),
        )
        assert {task.node for task in plan.services[0].tasks} == {"m1", "n2"}

    play(story)
