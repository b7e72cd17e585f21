"""Networks and volumes of the engine on fakes: what a record joins, and what stays of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarmapi.errors import Conflict, Forbidden, InvalidArgument, NotFound, SwarmError
from tests.unit.worker.test_engine import World, play
from worker.api.render import container_details
from worker.cluster.attached import held, let_go
from worker.engine.endpoints import EndpointSpec
from worker.engine.network_spec import decode_network
from worker.engine.ports import NetworkInfo
from worker.engine.spec import decode_create


async def network(world: World, name: str, **body: Any) -> str:
    return (await world.engine.networks.create(decode_network({"Name": name, **body}))).id


async def create(world: World, name: str, mode: str, endpoints: Any = None, **body: Any) -> str:
    host = {"NetworkMode": mode, **body.pop("HostConfig", {})}
    body |= {"Image": "img:1", "HostConfig": host}
    body["NetworkingConfig"] = {"EndpointsConfig": endpoints or {}}
    return await world.engine.create(decode_create(body, name))


def test_networks_outlive_the_daemon(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        kept, gone = await network(world, "n1", Labels={"q": "1"}), await network(world, "n2")
        await world.engine.networks.remove("n2")
        await world.engine.close()
        await world.boot().open()
        found = world.engine.networks.get(kept[:10])
        assert (found.id, found.name, found.labels) == (kept, "n1", {"q": "1"})
        assert found.subnet
        with pytest.raises(NotFound):
            world.engine.networks.get(gone)

    play(tmp_path, story)


def test_the_mode_and_its_endpoint_are_one_whatever_they_are_called(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        n1 = await network(world, "n1", IPAM={"Config": [{"Subnet": "10.3.0.0/24"}]})
        await network(world, "n2")
        wishes = {"n2": None, n1: {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.3.0.9"}}}
        record = world.engine.inspect(await create(world, "c1", "n1", wishes)).record
        assert list(record.endpoints) == ["n1", "n2"]
        assert record.endpoints["n1"].aliases == ["a"]
        assert record.endpoints["n1"].network_id == n1
        plain = world.engine.inspect(await create(world, "c2", "default", {"default": None})).record
        assert list(plain.endpoints) == ["bridge"]
        wish = {"n2": {"IPAMConfig": {"IPv4Address": "10.3.0.9"}}}
        with pytest.raises(InvalidArgument, match=r"10\.3\.0\.9 .* create n2 with --subnet"):
            await create(world, "c4", "n2", wish)
        mac = await create(world, "c3", "n2", MacAddress="02:00:00:00:00:07")
        assert world.engine.inspect(mac).record.endpoints["n2"].mac_address == "02:00:00:00:00:07"

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("mode", "endpoints", "body", "words"),
    [
        ("nosuch", {}, {}, "network nosuch not found"),
        ("container:nosuch", {}, {}, "No such container"),
        ("container:other", {}, {"Hostname": "h"}, "hostname and the network mode"),
        ("container:other", {}, {"HostConfig": {"Dns": ["1.1.1.1"]}}, "dns and the network"),
        ("container:other", {}, {"ExposedPorts": {"80/tcp": {}}}, "port exposing"),
        (
            "container:other",
            {},
            {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "1"}]}}},
            "port publishing",
        ),
        ("host", {"bridge": None}, {}, "user-defined and non-user-defined"),
        ("none", {"none": {"Aliases": ["a"]}}, {}, "an alias and the network mode none"),
        ("bridge", {"bridge": {"Aliases": ["a"]}}, {}, "network-scoped alias"),
        (
            "bridge",
            {"bridge": {"IPAMConfig": {"IPv4Address": "10.9.0.7"}}},
            {},
            "user specified IP",
        ),
        ("bridge", {"host": None}, {}, "in host mode"),
        ("bridge", {}, {"HostConfig": {"ExtraHosts": ["a:b"]}}, "add-host"),
    ],
)
def test_contradictions_are_refused_before_anything_is_made(
    tmp_path: Path, mode: str, endpoints: Any, body: Any, words: str
) -> None:
    async def story(world: World) -> None:
        await create(world, "other", "bridge")
        with pytest.raises(InvalidArgument, match=words):
            await create(world, "c1", mode, endpoints, Volumes={"/v": {}}, **body)
        assert world.engine.volumes.list() == []

    play(tmp_path, story)


def test_a_network_of_the_cluster_lets_others_in_where_it_is_attachable(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        closed = NetworkInfo("o1", "over", "overlay", "10.7.0.0/24", scope="swarm")
        world.network.enter(closed)
        world.network.enter(replace(closed, id="o2", name="open", attachable=True))
        with pytest.raises(Forbidden, match="network over not manually attachable"):
            await create(world, "c1", "over")
        plain = await create(world, "c1", "bridge")
        with pytest.raises(Forbidden, match="network over not manually attachable"):
            await world.engine.connections.connect("over", plain, EndpointSpec())
        with pytest.raises(InvalidArgument, match="network elsewhere not found"):
            await create(world, "c2", "elsewhere")
        wish = {"o2": {"IPAMConfig": {"IPv4Address": "10.7.0.9"}, "Aliases": ["a"]}}
        record = world.engine.inspect(await create(world, "c2", "open", wish)).record
        spec = record.endpoints["open"]
        assert (spec.network_id, spec.attached, spec.leased) == ("o2", True, False)
        await world.engine.start("c2")
        await world.engine.connections.connect("open", plain, EndpointSpec())
        assert [(h.container_id, h.names[0], h.is_up) for h in held(world.engine)] == [
            (record.id, "c2", True),
            (plain, "c1", False),
        ]
        await world.engine.stop("c2")
        assert not any(h.is_up for h in held(world.engine))
        await let_go(world.engine)
        assert not list(held(world.engine))

    play(tmp_path, story)


def test_a_task_has_the_address_that_it_was_given(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.network.enter(NetworkInfo("o1", "over", "overlay", "10.7.0.0/24", scope="swarm"))
        leased = decode_create({"Image": "img:1", "HostConfig": {"NetworkMode": "over"}}, "task")
        leased.endpoints = {"over": EndpointSpec(ipv4_address="10.7.0.9", leased=True)}
        await world.engine.start(await world.engine.create(leased))
        assert world.engine.inspect("task").record.joined["over"].address == "10.7.0.9"
        assert not list(held(world.engine))

    play(tmp_path, story)


def test_what_is_discarded_is_told(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await network(world, "in", Internal=True)
        ports = {"PortBindings": {"80/tcp": [{"HostPort": "1"}]}}
        for mode, words in (("host", "host network mode"), ("none", "none"), ("in", "internal")):
            made = await create(world, mode, mode, HostConfig=dict(ports))
            (warning,) = world.engine.inspect(made).record.warnings
            assert words in warning

    play(tmp_path, story)


def test_connections_of_a_stopped_and_of_a_running_container(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        engine = world.engine
        await network(world, "n1")
        await network(world, "n2")
        container_id = await create(world, "c1", "n1")
        await engine.connections.connect("n2", "c1", EndpointSpec(aliases=["a"]))
        await engine.start("c1")
        record = engine.inspect("c1").record
        assert set(record.joined) == {"n1", "n2"}
        with pytest.raises(Forbidden, match="already exists in network n2"):
            await engine.connections.connect("n2", "c1", EndpointSpec())
        with pytest.raises(Forbidden, match="active endpoints"):
            await engine.networks.remove("n2")
        await engine.connections.disconnect("n1", "c1", force=False)
        assert set(record.joined) == {"n2"}
        hosts = (engine.places.directory(container_id) / "hosts").read_text()
        assert record.joined["n2"].address in hosts
        await engine.rename("c1", "c2")
        assert world.network.requests[-1].name == "c2"
        shown = container_details(engine, record, [])["NetworkSettings"]["Networks"]
        assert list(shown) == ["n2"]
        assert shown["n2"]["DNSNames"][:2] == ["c2", "a"]
        await engine.connections.disconnect("n1", "nosuch", force=True)
        with pytest.raises(NotFound):
            await engine.connections.disconnect("n1", "nosuch", force=False)

    play(tmp_path, story)


def test_a_container_that_shares_another_ones_network_has_its_files(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        shared = await create(world, "owner", "bridge", Hostname="box")
        sharing = await create(world, "guest", "container:owner")
        with pytest.raises(Conflict, match="of a non running container"):
            await world.engine.start(sharing)
        await world.engine.start(shared)
        await world.engine.start(sharing)
        binds = world.supervisor.launches[-1].config["mounts"]
        hosts = next(m["source"] for m in binds if m["destination"] == "/etc/hosts")
        assert hosts == str(world.engine.places.directory(shared) / "hosts")
        assert world.supervisor.launches[-1].config["hostname"] == "box"

    play(tmp_path, story)


def test_anonymous_volumes_of_a_container_that_was_not_made_do_not_stay(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await create(world, "c1", "none")
        for body in ({}, {"HostConfig": {"Tmpfs": {"/t": "colour=red"}}}):
            with pytest.raises(SwarmError):
                await create(world, "c1", "none", Volumes={"/v": {}}, **body)
            assert world.engine.volumes.list() == []

    play(tmp_path, story)


def test_an_anonymous_volume_stays_while_another_container_has_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        engine = world.engine
        await create(world, "c1", "none", Volumes={"/v": {}})
        name = engine.inspect("c1").record.mounts[0].name
        await create(world, "c2", "none", HostConfig={"Binds": [f"{name}:/v"]})
        await engine.remove("c1", volumes=True)
        assert [volume.name for volume in engine.volumes.list()] == [name]
        with pytest.raises(Conflict, match="volume is in use"):
            engine.volumes.remove(name, engine.storage.users(name))

    play(tmp_path, story)
