"""The login of a service's image: kept with the spec version, given to agents, shown to nobody."""

import base64
import json
from typing import Any

import msgspec

from manager.dispatcher.assignments import Assigner
from manager.dispatcher.tables import TableCache
from swarmapi.model.objects import RegistryAuth, SpecVersion
from tests.unit.manager_shell.cluster import MemoryCluster
from tests.unit.manager_shell.test_rest import Client, get, play, spec


def login(password: str) -> dict[str, str]:
    raw = json.dumps({"username": "alice", "password": password}).encode()
    return {"X-Registry-Auth": base64.urlsafe_b64encode(raw).decode()}


def body(image: str = "reg:5000/web:1") -> dict[str, Any]:
    made = spec()
    made["TaskTemplate"]["ContainerSpec"]["Image"] = image
    return made


async def create(client: Client, auth: dict[str, str], status: int = 201) -> str:
    answer = await client.post("/services/create", json=body(), headers=auth)
    assert answer.status == status, await answer.text()
    return str((await answer.json()).get("ID"))


async def update(
    client: Client, query: str, auth: dict[str, str] | None = None, image: str = "reg:5000/web:2"
) -> tuple[int, Any]:
    version = (await get(client, "/services/web"))["Version"]["Index"]
    url = f"/services/web/update?version={version}{query}"
    answer = await client.post(url, json=body(image), headers=auth)
    return answer.status, await answer.json()


def kept(cluster: MemoryCluster) -> RegistryAuth | None:
    view = cluster.store.view
    [service] = view.services.values()
    return view.specs[service.id, service.spec_version].registry_auth


def sent(password: str) -> RegistryAuth:
    return RegistryAuth(encoded=login(password)["X-Registry-Auth"])


def test_an_update_keeps_the_login_or_takes_the_one_it_is_told() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await create(client, login("one"))
        assert kept(cluster) == sent("one")
        assert (await update(client, ""))[0] == 200
        assert kept(cluster) == sent("one")
        assert (await update(client, "&registryAuthFrom=spec", login("two")))[0] == 200
        assert kept(cluster) == sent("two")
        assert (await update(client, "&registryAuthFrom=previous-spec"))[0] == 200
        assert kept(cluster) == sent("one")
        assert (await update(client, "&rollback=previous"))[0] == 200
        assert kept(cluster) == sent("two")
        assert (await update(client, "&registryAuthFrom=nobody"))[0] == 400

    play(story)


def test_a_login_does_not_go_to_another_registry() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await create(client, login("one"))
        assert (await update(client, "", image="reg:5001/web:2"))[0] == 200
        assert kept(cluster) is None
        assert (await update(client, "&registryAuthFrom=previous-spec"))[0] == 200
        assert kept(cluster) == sent("one")
        assert (await update(client, "", image="web:2"))[0] == 200
        assert kept(cluster) is None

    play(story)


def test_what_is_no_login_is_refused_without_repeating_it() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        for wrong in ("!secret!", base64.b64encode(b"secret").decode()):
            answer = await client.post(
                "/services/create", json=body(), headers={"X-Registry-Auth": wrong}
            )
            assert answer.status == 400
            assert wrong not in await answer.text()
        await create(client, {})
        status, said = await update(client, "&registryAuthFrom=previous-spec")
        assert (status, said["message"]) == (400, "service web does not have a previous spec")

    play(story)


def test_the_agent_gets_it_and_no_answer_tells_it() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await create(client, login("one"))
        await update(client, "", login("two"))
        await cluster.settle()
        await cluster.run_tasks()
        view = cluster.store.view
        assert view.tasks
        records = [
            msgspec.msgpack.decode(task.spec, type=SpecVersion)
            for node in view.nodes
            for task in Assigner(node, TableCache(), {}).complete(view).tasks
        ]
        assert {record.registry_auth for record in records} == {sent("two")}
        shown = [repr(record) for record in records]
        paths = ["/services", "/services/web", "/tasks", "/services/web?insertDefaults=true"]
        paths += [f"/tasks/{task}" for task in view.tasks]
        shown += [json.dumps(await get(client, path)) for path in paths]
        for password in ("one", "two"):
            secret = login(password)["X-Registry-Auth"]
            assert not any(secret in text for text in shown)

    play(story)


def test_another_login_alone_replaces_no_task() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await create(client, login("one"))
        await cluster.settle()
        await cluster.run_tasks()
        before = set(cluster.store.view.tasks)
        assert (await update(client, "", login("two"), image="reg:5000/web:1"))[0] == 200
        await cluster.settle()
        assert set(cluster.store.view.tasks) == before
        assert kept(cluster) == sent("two")

    play(story)
