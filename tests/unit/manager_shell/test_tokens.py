"""API tokens: told once, kept as digests, recognised while they hold."""

import asyncio
import json
import os
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from manager.control.tokens import create_token, recognise, remove_token
from manager.store.changes import PutApiToken
from swarmapi.access import TOKEN_PATH
from swarmapi.errors import AlreadyExists, FailedPrecondition, Unauthenticated
from swarmapi.model.objects import ApiToken
from swarmapi.model.spec import ApiTokenSpec
from tests.unit.manager_shell.cluster import MemoryCluster
from tests.unit.manager_shell.test_rest import Client, play

PATH = "/swarm/v1/api-tokens"


async def make(client: Client, status: int = 201, **body: Any) -> Any:
    async with client.post(PATH, data=json.dumps(body)) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


async def ask(client: Client, text: object) -> tuple[int, Any]:
    async with client.post(TOKEN_PATH, json={"Token": text}) as answer:
        return answer.status, await answer.json()


def test_a_token_is_told_once_and_recognised_until_it_is_removed() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        made = await make(client, Name="build-pipeline", Role="deployer")
        text = made["Token"]
        assert text.startswith(f"SWMAPI-1-{made['ID']}-")
        assert await ask(client, text) == (200, {"Name": "build-pipeline", "Role": "deployer"})
        async with client.get(PATH) as answer:
            (listed,) = await answer.json()
        assert (listed["Name"], listed["Role"], listed["ExpiresAt"]) == (
            "build-pipeline",
            "deployer",
            "",
        )
        secret = text.rpartition("-")[2]
        assert secret not in str(msgspec.to_builtins(cluster.store.view.cluster))
        async with client.get("/swarm") as answer:
            shown = await answer.text()
        assert "build-pipeline" not in shown  # a short name may be a part of random text
        assert cluster.store.view.cluster is not None
        assert cluster.store.view.cluster.api_tokens[0].digest not in shown
        for wrong in (text[:-1] + ("a" if text[-1] != "a" else "b"), text + "x", text[:40],
                      "SWMAPI-1--", "", f"SWMAPI-1-build-pipeline-{secret}"):  # fmt: skip
            status, told = await ask(client, wrong)
            assert (status, "not known" in told["message"]) == (401, True), wrong
        assert (await ask(client, "\ud800"))[0] == 400
        async with client.delete(f"{PATH}/build-pipeline") as answer:
            assert answer.status == 204
        assert (await ask(client, text))[0] == 401
        async with client.delete(f"{PATH}/build-pipeline") as answer:
            assert answer.status == 404

    play(story)


def test_what_cannot_be_a_token_is_refused() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await make(client, Name="ci", Role="viewer")
        await make(client, 409, Name="ci", Role="viewer")
        told = await make(client, 400, Name="x", Role="root")
        assert told["message"] == "role 'root' is not known: use viewer, deployer, operator"
        await make(client, 400, Name="a b", Role="viewer")
        await make(client, 400, Name="x", Role="viewer", ExpiresIn=-1)
        await make(client, 400, Name="x", Role="viewer", Token="mine")

    play(story)


def test_a_token_opens_nothing_when_its_time_is_over() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        text = (await make(client, Name="ci", Role="viewer", ExpiresIn=10**9))["Token"]
        view = cluster.store.view
        (token,) = view.cluster.api_tokens if view.cluster else ()
        assert recognise(view, text, token.expires_ns - 1).role == "viewer"
        with pytest.raises(Unauthenticated, match="ci has expired"):
            recognise(view, text, token.expires_ns)

    play(story)


def test_of_two_tokens_made_at_once_one_has_the_name() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        token = ApiToken(id="one", name="ci", role="viewer", digest="d1")
        await cluster.store.propose((PutApiToken(token=token),))
        for other in (replace(token, id="two"), replace(token, name="cd")):
            with pytest.raises(AlreadyExists):
                await cluster.store.propose((PutApiToken(token=other),))
        assert cluster.store.view.cluster is not None
        assert cluster.store.view.cluster.api_tokens == (token,)

    play(story)


def test_a_request_used_before_makes_no_token_that_opens_nothing() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        store, spec = cluster.store, ApiTokenSpec(name="one", role="viewer")
        token, text = await create_token(store, spec, os.urandom, "r1")
        assert recognise(store.view, text, store.now_ns()) == token
        for name in ("two", "one"):
            with pytest.raises(FailedPrecondition, match="used before"):
                await create_token(store, replace(spec, name=name), os.urandom, "r1")
            if name == "two":
                await remove_token(store, "one")

    asyncio.run(story())


def test_a_token_named_as_another_ones_id_hides_it_not() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        store = cluster.store
        later = store.object_id("later")
        named = ApiTokenSpec(name=later, role="viewer")
        await create_token(store, named, os.urandom, "earlier")
        token, text = await create_token(
            store, ApiTokenSpec(name="mine", role="operator"), os.urandom, "later"
        )
        assert recognise(store.view, text, store.now_ns()) == token

    asyncio.run(story())
