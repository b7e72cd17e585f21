"""Secrets and configs over REST: kept, replaced, labelled, in use, and never shown."""

import asyncio
import base64
import logging
from typing import Any

import msgspec
import pytest

from manager.control.secrets import create_secret
from manager.dispatcher.assignments import Assigner
from manager.dispatcher.tables import TableCache
from manager.store import snapshot
from manager.store.changes import PutSecret, SetTaskStatus, Transaction, decode, encode
from manager.store.events import events_of
from manager.store.view import View
from swarmapi.errors import InvalidArgument
from swarmapi.model import defaults
from swarmapi.model.decode import decode_spec
from swarmapi.model.objects import Config, Secret, SpecVersion, TaskState, TaskStatus
from swarmapi.model.spec import SecretSpec
from swarmapi.v1 import dispatcher_pb2 as pb
from tests.unit.manager_shell.cluster import MemoryCluster
from tests.unit.manager_shell.test_rest import Client, get, play, post, spec

VALUE = b"hunter2-hunter2"
KINDS = pytest.mark.parametrize("kind", ["secret", "config"])


def made(name: str, data: bytes = VALUE, **labels: str) -> dict[str, Any]:
    return {"Name": name, "Labels": labels, "Data": base64.b64encode(data).decode()}


def using(kind: str, *references: dict[str, Any], name: str = "web") -> dict[str, Any]:
    body = spec(name)
    word = kind.title()
    body["TaskTemplate"]["ContainerSpec"][word + "s"] = [
        {
            "File": {"Name": one.get("target", "t"), "UID": "0", "GID": "0", "Mode": 0o444},
            word + "ID": one.get("id", ""),
            word + "Name": one.get("name", ""),
            "Follow": one.get("follow", False),
            **one.get("more", {}),
        }
        for one in references
    ]
    return body


async def references_of(client: Client, kind: str, service: str = "web") -> list[dict[str, Any]]:
    container = (await get(client, f"/services/{service}"))["Spec"]["TaskTemplate"]["ContainerSpec"]
    found: list[dict[str, Any]] = container[kind.title() + "s"]
    return found


@KINDS
def test_created_listed_labelled_and_removed(kind: str) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        path = f"/{kind}s"
        first = await post(client, path + "/create", made("db.pass", a="b"), 201)
        await post(client, path + "/create", made("db2"), 201)
        taken = await post(client, path + "/create", made("db2"), 409)
        assert taken["message"] == f"{kind} db2 already exists"
        for filters, names in (
            ({"name": ["db"]}, ["db.pass", "db2"]),
            ({"names": ["db2"]}, ["db2"]),
            ({"id": [first["ID"][:9]]}, ["db.pass"]),
            ({"label": ["a=b"]}, ["db.pass"]),
            ({"label": ["a=c"]}, []),
        ):
            listed = await get(client, path, filters=filters)
            assert [one["Spec"]["Name"] for one in listed] == names, filters
        shown = await get(client, path + "/db.pass")
        assert shown == await get(client, f"{path}/{first['ID']}")
        assert shown["Spec"]["Labels"] == {"a": "b"}
        assert ("Data" in shown["Spec"]) is (kind == "config")
        update = f"{path}/db.pass/update?version="
        index = shown["Version"]["Index"]
        stale = await post(client, update + "1", made("", b""), 500)
        assert "out of sequence" in stale["message"]
        refused = await post(client, f"{update}{index}", made("db.pass", b"new"), 400)
        assert "only updates to Labels are allowed" in refused["message"]
        await post(client, f"{update}{index}", made("db.pass", c="d"), 200)
        assert (await get(client, path + "/db.pass"))["Spec"]["Labels"] == {"c": "d"}
        assert (await client.delete(path + "/db.pass")).status == 204
        gone = await get(client, path + "/db.pass", 404)
        assert gone["message"] == f"{kind} db.pass not found"

    play(story)


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("secret", made("x" * 65), "Name: "),
        ("secret", made("-a"), "Name: "),
        ("secret", made("s", b""), "less than 512000 bytes"),
        ("secret", made("s", b"x" * (500 << 10)), "less than 512000 bytes"),
        ("secret", made("s") | {"Data": "hunter2 is no base64!"}, "Data: "),
        ("secret", made("s") | {"Driver": {"Name": "vault"}}, "unsupported field Driver"),
    ],
)
def test_what_cannot_be_kept_is_refused(kind: str, body: dict[str, Any], words: str) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        message = (await post(client, f"/{kind}s/create", body, 400))["message"]
        assert words in message
        assert "hunter2" not in message

    play(story)


def test_a_config_is_kept_up_to_its_limit() -> None:
    async def main() -> None:
        cluster = MemoryCluster()
        data = b"x" * ((1000 << 10) - 1)
        made = await create_secret(cluster.store, SecretSpec(name="big", data=data), Config)
        assert cluster.store.view.configs[made.id].spec.data == data
        with pytest.raises(InvalidArgument, match="less than 1024000 bytes"):
            await create_secret(cluster.store, SecretSpec(name="more", data=data + b"x"), Config)

    asyncio.run(main())


@KINDS
def test_references_are_checked_and_keep_it_from_removal(kind: str) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        path = f"/{kind}s"
        one = await post(client, path + "/create", made("one"), 201)
        two = await post(client, path + "/create", made("two"), 201)
        for references, status, words in (
            ([{"name": "nope"}], 404, f"{kind} nope not found"),
            ([{"id": one["ID"], "name": "two"}], 400, "has the name one, not two"),
            ([{"name": "one"}, {"name": "two", "target": "./t"}], 400, "same target"),
            ([{"name": "one", "target": ""}], 400, "no File.Name"),
            ([{"name": "one", "target": "../x"}], 400, "is no file"),
        ):
            body = using(kind, *references)
            refused = await post(client, "/services/create", body, status)
            assert words in refused["message"], references
        odd = using(kind, {"name": "one"})
        for uid in ("root", "²", "4294967296"):
            odd["TaskTemplate"]["ContainerSpec"][kind.title() + "s"][0]["File"]["UID"] = uid
            assert f"UID '{uid}'" in (await post(client, "/services/create", odd, 400))["message"]
        await post(client, "/services/create", using(kind, {"name": "one"}), 201)
        await post(client, "/services/create", using(kind, {"name": "one"}, name="api"), 201)
        assert (await references_of(client, kind))[0][kind.title() + "ID"] == one["ID"]
        response = await client.delete(path + "/one")
        assert response.status == 400
        assert (await response.json())["message"] == (
            f"{kind} 'one' is in use by the following services: api, web"
        )
        assert (await client.delete(path + "/two")).status == 204
        for service in ("web", "api"):
            await client.delete(f"/services/{service}")
        assert (await client.delete(path + "/one")).status == 204
        assert two["ID"]

    play(story)


@KINDS
def test_a_replacement_moves_who_follows_and_spares_who_pins(kind: str) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        create, word = f"/{kind}s/create", kind.title()
        first = (await post(client, create, made("pw", b"1"), 201))["ID"]
        await post(client, "/services/create", using(kind, {"name": "pw"}, name="pins"), 201)
        follower = using(kind, {"name": "pw", "follow": True}, name="follows")
        await post(client, "/services/create", follower, 201)
        second = (await post(client, create + "?replace=1", made("pw", b"2"), 201))["ID"]
        assert [r[word + "ID"] for r in await references_of(client, kind, "pins")] == [first]
        assert [r[word + "ID"] for r in await references_of(client, kind, "follows")] == [second]
        assert (await get(client, f"/{kind}s/pw"))["ID"] == second
        listed = await get(client, f"/{kind}s", filters={"name": ["pw"]})
        assert [(one["ID"], one["Revision"]) for one in listed] == [(first, 1), (second, 2)]
        assert (await client.delete(f"/{kind}s/pw")).status == 400
        # A rollback goes to what that spec had; no update but a replacement undoes that.
        index = (await get(client, "/services/follows"))["Version"]["Index"]
        path = "/services/follows/update?version="
        await post(client, f"{path}{index}&rollback=previous", {})
        service = await get(client, "/services/follows")
        echoed = service["Spec"]  # of Docker's clients, who know nothing of following
        del echoed["TaskTemplate"]["ContainerSpec"][word + "s"][0]["Follow"]
        await post(client, f"{path}{service['Version']['Index']}", echoed)
        (reference,) = await references_of(client, kind, "follows")
        assert (reference[word + "ID"], reference["Follow"]) == (first, True)
        third = (await post(client, create + "?replace=1", made("pw", b"3"), 201))["ID"]
        assert [r[word + "ID"] for r in await references_of(client, kind, "follows")] == [third]
        listed = await get(client, f"/{kind}s")  # of `second`, for `rollback --to`
        assert [one["ID"] for one in listed] == [first, second, third]
        # What no spec names that a rollback can return to goes with the next replacement.
        await client.delete("/services/follows")
        await client.delete("/services/pins")
        await post(client, "/services/create", using(kind, {"name": "pw"}, name="follows"), 201)
        fourth = (await post(client, create + "?replace=1", made("pw", b"4"), 201))["ID"]
        listed = await get(client, f"/{kind}s")
        assert [one["ID"] for one in listed] == [third, fourth]
        await client.delete("/services/follows")
        assert (await client.delete(f"/{kind}s/pw")).status == 204
        assert await get(client, f"/{kind}s") == []

    play(story)


def test_a_secret_is_in_no_answer_no_event_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[object] = []
    encoded = base64.b64encode(VALUE).decode()

    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/secrets/create", made("s"), 201)
        await post(client, "/services/create", using("secret", {"name": "s"}), 201)
        await cluster.settle()
        paths = ("/secrets", "/secrets/s", "/services", "/services/web", "/tasks")
        told.extend([await get(client, path) for path in paths])
        told.append(cluster.store.view.secrets)

    play(story)
    text = f"{told} {caplog.text}"
    assert VALUE.decode() not in text
    assert encoded not in text
    assert "'s'" in text


def test_log_and_snapshot_hold_them() -> None:
    kept = SecretSpec(name="s", data=VALUE)
    change = PutSecret(secret=Secret(id="i", spec=kept))
    (back,) = decode(encode(Transaction(request_id="r", changes=(change,)))).changes
    assert isinstance(back, PutSecret)
    assert back.secret.spec.data == VALUE
    kept_view = asyncio.run(_with_both())
    view = snapshot.restore(snapshot.dump(kept_view))
    assert view.secrets == kept_view.secrets
    assert view.configs == kept_view.configs
    assert isinstance(next(iter(view.configs.values())), Config)
    assert view.by_name("config", "c") in view.configs


def test_the_last_revision_has_the_name_whatever_the_order_of_ids() -> None:
    view = View()
    for secret_id, revision in (("b", 1), ("c", 2), ("a", 3)):
        view.put_secret(Secret(id=secret_id, spec=SecretSpec(name="s"), revision=revision))
    for here in (view, snapshot.restore(snapshot.dump(view))):
        assert here.by_name("secret", "s") == "a"
        here.drop_secret("secret", "a")
        assert here.by_name("secret", "s") == "c"


async def _with_both() -> View:
    cluster = MemoryCluster()
    for name, kind in (("s", Secret), ("c", Config)):
        await create_secret(cluster.store, SecretSpec(name=name, data=VALUE), kind)
    return cluster.store.view


def test_base64_becomes_bytes() -> None:
    assert decode_spec(b'{"Name":"s","Data":"aGk="}', SecretSpec).data == b"hi"


@KINDS
def test_b59_nodes_get_what_their_live_tasks_use_and_nothing_else(kind: str) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, f"/{kind}s/create", made("used"), 201)
        await post(client, f"/{kind}s/create", made("other", b"elsewhere"), 201)
        await post(client, "/services/create", using(kind, {"name": "used"}), 201)
        await cluster.settle()
        view = cluster.store.view

        def sent(message: pb.Assignments) -> list[str]:
            kinds = [(raw, Secret) for raw in message.secrets]
            kinds += [(raw, Config) for raw in message.configs]
            assert bool(message.configs) is (bool(kinds) and kind == "config")
            return [msgspec.msgpack.decode(raw, type=one).spec.name for raw, one in kinds]

        idle = Assigner("m2", TableCache(), {})
        assert sent(idle.complete(view)) == []
        assigner = Assigner("m1", TableCache(), {})
        assert sent(assigner.complete(view)) == ["used"]
        ids = [t.id for t in view.tasks_of_node("m1")]
        assert len(ids) == 2
        assert assigner.incremental(view, set(ids)) is None
        for task_id, last in zip(ids, (False, True), strict=True):
            ended = TaskStatus(state=TaskState.COMPLETE)
            await cluster.store.propose((SetTaskStatus(task_id=task_id, status=ended),))
            message = assigner.incremental(view, {task_id})
            gone = list(message.removed_secrets) if message else []
            assert gone == ([view.by_name(kind, "used")] if last else [])

    play(story)


def templated(name: str, text: str) -> dict[str, Any]:
    return {**made(name, text.encode()), "Templating": {"Name": "golang"}}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (templated("t", "a\n{{.Task.Nope}}"), 400, "Data: template: 2:3: field .Task.Nope"),
        (templated("t", "{{shout}}"), 400, "Data: template: 1:3: function 'shout'"),
        (made("t") | {"Templating": {"Name": "jinja"}}, 501, "'jinja' is not supported"),
        (made("t", b"\xff\xfe") | {"Templating": {"Name": "golang"}}, 400, "text in UTF-8"),
    ],
)
def test_a_template_that_cannot_be_read_is_no_config(
    body: dict[str, Any], status: int, words: str
) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        assert words in (await post(client, "/configs/create", body, status))["message"]

    play(story)


def test_a_service_is_checked_with_its_templates() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/configs/create", templated("t", 'x {{secret "pw"}} {{env "A"}}'), 201)
        await post(client, "/secrets/create", made("pw"), 201)
        body = using("config", {"name": "t"})
        missing = (await post(client, "/services/create", body, 400))["message"]
        assert missing == "config t: template: 1:5: the service has no secret pw"
        container = body["TaskTemplate"]["ContainerSpec"]
        secret = using("secret", {"name": "pw", "target": "pw"})
        container["Secrets"] = secret["TaskTemplate"]["ContainerSpec"]["Secrets"]
        container["Env"] = ["A={{.Task.Slot}}"]
        container["Mounts"] = [{"Type": "tmpfs", "Target": "/run/secrets/pw"}]
        double = (await post(client, "/services/create", body, 400))["message"]
        assert "secret pw and a mount have the same target /run/secrets/pw" in double
        del container["Mounts"]
        await post(client, "/services/create", body, 201)
        shown = (await get(client, "/configs/t"))["Spec"]
        assert shown["Templating"] == {"Name": "golang"}

    play(story)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("Env", ["A=1", "B={{.Nope}}"], "TaskTemplate.ContainerSpec.Env[1]: template: 1:3: field"),
        ("Env", ['A={{secret "s"}}'], "Env[0]: template: 1:3: function 'secret' is for templated"),
        ("Hostname", "{{.Service.Labels.no}}", "Hostname: template: 1:3: .Service.Labels.no is"),
        (
            "Mounts",
            [{"Type": "volume", "Source": "v{{nope}}", "Target": "/v"}],
            "Mounts[0].Source: template: 1:4: function 'nope'",
        ),
    ],
)
def test_a_wrong_template_is_refused_with_its_field_and_place(
    field: str, value: Any, words: str
) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        body = spec()
        body["TaskTemplate"]["ContainerSpec"][field] = value
        assert words in (await post(client, "/services/create", body, 400))["message"]

    play(story)


def test_a_service_that_cannot_follow_is_named() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/configs/create", made("c"), 201)
        body = using("config", {"name": "c", "follow": True})
        await post(client, "/services/create", body, 201)
        text = base64.b64encode(b'{{env "A"}}').decode()
        new = {"Name": "c", "Data": text, "Templating": {"Name": "golang"}}
        refused = (await post(client, "/configs/create?replace=1", new, 400))["message"]
        assert refused == (
            "config c is replaced, but not every service follows: "
            "web: config c: template: 1:3: the service has no variable A"
        )

    play(story)


def test_a_rollback_to_what_was_removed_is_refused_by_its_name() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/secrets/create", made("old"), 201)
        await post(client, "/secrets/create", made("new"), 201)
        created = await post(client, "/services/create", using("secret", {"name": "old"}), 201)
        path, view = f"/services/{created['ID']}", cluster.store.view
        index = (await get(client, path))["Version"]["Index"]
        body = using("secret", {"name": "new"})
        await post(client, f"{path}/update?version={index}", body, 200)
        assert (await client.delete("/secrets/old")).status == 204
        index = (await get(client, path))["Version"]["Index"]
        refused = await post(client, f"{path}/update?version={index}&rollback=previous", body, 400)
        assert "cannot go back to spec version" in refused["message"]
        assert "secret old was removed" in refused["message"]
        assert view.services[created["ID"]].update_status is None

    play(story)


def test_a_job_gets_its_secrets_too() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/secrets/create", made("s"), 201)
        body = using("secret", {"name": "s"})
        body["Mode"] = {"ReplicatedJob": {"TotalCompletions": 1, "MaxConcurrent": 1}}
        await post(client, "/services/create", body, 201)
        await cluster.settle()
        message = Assigner("m1", TableCache(), {}).complete(cluster.store.view)
        assert len(message.secrets) == len(message.tasks) == 1

    play(story)


def test_more_secrets_than_a_message_holds_go_ahead_of_it() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        names = [f"s{number}" for number in range(5)]
        for name in names:
            await post(client, "/secrets/create", made(name, b"x" * 100), 201)
        body = using("secret", *({"name": name, "target": name} for name in names))
        await post(client, "/services/create", body, 201)
        await cluster.settle()
        assigner = Assigner("m1", TableCache(), {}, secrets_bytes=250)
        last = assigner.complete(cluster.store.view)
        parts = [*assigner.take_ahead(), last]
        assert [part.chain for part in parts] == [1, 2, 3]
        kinds = [pb.Assignments.INCREMENTAL] * 2 + [pb.Assignments.COMPLETE]
        assert [part.kind for part in parts] == kinds
        sent = [len(part.secrets) for part in parts]
        assert sum(sent) == 5
        assert max(sent) <= 2
        assert assigner.take_ahead() == []

    play(story)


def test_their_events_are_told() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        told: list[tuple[str, str, str]] = []
        cluster.replica.subscribe(
            lambda applied: told.extend(
                (event.kind, event.action, event.attributes["name"])
                for event in events_of(applied.changed, 0)
            )
        )
        await post(client, "/secrets/create", made("s"), 201)
        index = (await get(client, "/secrets/s"))["Version"]["Index"]
        await post(client, f"/secrets/s/update?version={index}", made("s", a="b"))
        await client.delete("/secrets/s")
        await post(client, "/configs/create", made("c"), 201)
        assert told == [
            ("secret", "create", "s"),
            ("secret", "update", "s"),
            ("secret", "remove", "s"),
            ("config", "create", "c"),
        ]

    play(story)


@KINDS
def test_replacing_by_the_same_data_changes_labels_alone(kind: str) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        path = f"/{kind}s/create"
        first = await post(client, path, made("s", a="1"), 201)
        same = await post(client, f"{path}?replace=true", made("s", b="2"), 201)
        assert same == first
        found = await get(client, f"/{kind}s/s")
        assert (found["ID"], found["Spec"]["Labels"]) == (first["ID"], {"b": "2"})
        version = found["Version"]
        assert await post(client, f"{path}?replace=true", made("s", b="2"), 201) == first
        assert (await get(client, f"/{kind}s/s"))["Version"] == version
        other = await post(client, f"{path}?replace=true", made("s", b"new", b="2"), 201)
        assert other != first

    play(story)


@KINDS
def test_what_is_swapped_replaces_no_task_and_goes_to_the_ones_that_run(kind: str) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        create, word = f"/{kind}s/create", kind.title()
        await post(client, create, made("pw", b"1"), 201)
        more = {"Swap": True, "Signal": "HUP"}
        one = {"name": "pw", "target": "/etc/app/pw", "follow": True, "more": more}
        body = using(kind, one) | {"Mode": {"Replicated": {"Replicas": 1}}}
        await post(client, "/services/create", body, 201)
        await cluster.settle()
        (task,) = await cluster.run_tasks()
        assigner = Assigner("m1", TableCache(), {})
        assigner.complete(cluster.store.view)
        for data in (b"2", b"3"):
            now = (await post(client, create + "?replace=1", made("pw", data), 201))["ID"]
            await cluster.settle()
            assert list(cluster.store.view.tasks) == [task.id]
            message = assigner.incremental(cluster.store.view, {task.id})
            assert message is not None
            (sent,) = message.tasks
            record = msgspec.msgpack.decode(sent.spec, type=SpecVersion)
            ((_, used),) = defaults.references(record.spec)
            assert (used.id, record.version) == (now, task.spec_version)
            assert len(message.secrets) + len(message.configs) == 1
            assert len(message.removed_secrets) == 1
            assert assigner.incremental(cluster.store.view, {task.id}) is None
        # A client of Docker's knows nothing of it, and another image is an update as ever.
        service = await get(client, "/services/web")
        echoed = service["Spec"]
        for key in ("Follow", *more):
            del echoed["TaskTemplate"]["ContainerSpec"][word + "s"][0][key]
        echoed["TaskTemplate"]["ContainerSpec"]["Image"] = "other"
        await post(client, f"/services/web/update?version={service['Version']['Index']}", echoed)
        (reference,) = await references_of(client, kind)
        assert {**reference, **more} == reference
        await cluster.settle()
        assert len(cluster.store.view.tasks) == 2

    play(story)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"more": {"Swap": True}}, "Swap of config pw needs Follow"),
        ({"follow": True, "more": {"Signal": "HUP"}}, "Signal of config pw needs Swap"),
        (
            {"follow": True, "more": {"Swap": True, "Signal": "?"}},
            "Signal '?' of config pw is none",
        ),
        ({"follow": True, "target": "/t", "more": {"Swap": True}}, "a directory of its own, not /"),
    ],
)
def test_a_swap_that_cannot_be_is_refused(more: dict[str, Any], words: str) -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/configs/create", made("pw"), 201)
        body = using("config", {"name": "pw", "target": "/etc/app/pw", **more})
        assert words in (await post(client, "/services/create", body, 400))["message"]

    play(story)


def test_a_directory_that_is_swapped_has_no_room_for_mounts() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/configs/create", made("pw"), 201)
        one = {"name": "pw", "target": "/etc/app/pw", "follow": True, "more": {"Swap": True}}
        for target in ("/etc/app", "/etc/app/more", "/etc/app/more/deep"):
            body = using("config", one)
            mount = {"Type": "tmpfs", "Target": target}
            body["TaskTemplate"]["ContainerSpec"]["Mounts"] = [mount]
            told = (await post(client, "/services/create", body, 400))["message"]
            assert f"{target} (a mount) has no place in /etc/app" in told

    play(story)
