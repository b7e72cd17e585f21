"""Links and inherited volumes: what one container is told and given of another."""

import json
from pathlib import Path

import pytest

from swarmapi.errors import Conflict, InvalidArgument, NotFound
from tests.unit.worker.test_engine import World, play
from worker.api.render import container_details, container_summary, image_ids
from worker.engine.endpoints import parse_link
from worker.engine.links import Linked, environment
from worker.engine.spec import decode_create

PORTS = ((80, "tcp"), (81, "tcp"), (82, "tcp"), (90, "udp"))
DATABASE = Linked("the-db", "db", "host", "10.0.0.2", ("HOME=/", "USER=bob", "odd"), PORTS)


def hosts_of(world: World, container_id: str) -> str:
    return (world.engine.places.directory(container_id) / "hosts").read_text()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("db", ("db", "db")),
        ("db:data", ("db", "data")),
        ("/db:/web/data", ("db", "data")),
    ],
)
def test_a_link_is_a_container_and_what_it_is_called(text: str, parsed: tuple[str, str]) -> None:
    assert parse_link(text) == parsed


@pytest.mark.parametrize("text", ["", ":a", "a:", "a:b:c", "a:b\n10.0.0.9 c"])
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="links"):
        parse_link(text)


def test_the_variables_name_ports_ranges_and_what_the_other_was_told() -> None:
    found = environment("web", [DATABASE])
    assert found[0] == "THE_DB_PORT=tcp://10.0.0.2:80"
    assert found[1:5] == [
        "THE_DB_PORT_80_TCP_START=tcp://10.0.0.2:80",
        "THE_DB_PORT_80_TCP_PORT_START=80",
        "THE_DB_PORT_80_TCP_END=tcp://10.0.0.2:82",
        "THE_DB_PORT_80_TCP_PORT_END=82",
    ]
    assert "THE_DB_PORT_90_UDP_PROTO=udp" in found
    assert "THE_DB_PORT_90_UDP_ADDR=10.0.0.2" in found
    assert found[-2:] == ["THE_DB_NAME=/web/the-db", "THE_DB_ENV_USER=bob"]
    assert not any("START" in entry for entry in environment("web", [Linked("a", "b", "c", "d")]))


def test_a_link_on_the_default_bridge_follows_the_other_container(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        db = await world.run("db", Env=["USER=bob"], ExposedPorts={"80/tcp": {}})
        world.engine.inspect("db").record.image_config["ExposedPorts"] = {"x": {}, "90-91/udp": {}}
        web = await world.run("web", {"Links": ["db:data"]}, Env=["DATA_ENV_A=own"])
        assert f"10.9.0.2\tdata {db[:12]} db\n" in hosts_of(world, web)
        env = world.supervisor.launches[-1].config["process"]["env"]
        assert {"DATA_PORT=tcp://10.9.0.2:80", "DATA_ENV_USER=bob"} <= set(env)
        assert [entry for entry in env if entry.startswith("DATA_ENV_A=")] == ["DATA_ENV_A=own"]
        await world.engine.rename("db", "store")
        record = world.engine.inspect("web").record
        assert container_details(world.engine, record, [])["HostConfig"]["Links"] == [
            "/store:/web/data"
        ]
        await world.engine.stop("store", 0)
        await world.engine.start("store")
        address = world.network.members[db]
        assert address != "10.9.0.2"
        assert f"{address}\tdata {db[:12]} store\n" in hosts_of(world, web)
        await world.engine.stop("store", 0)
        with pytest.raises(InvalidArgument, match="Cannot link to a non running container"):
            await world.run("late", {"Links": ["store"]})
        await world.engine.remove("store")
        await world.engine.restart("web", 0)
        assert "data" not in hosts_of(world, web)
        assert container_details(world.engine, record, [])["HostConfig"]["Links"] is None

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"Links": ["nobody"]}, "could not get container for nobody"),
        ({"Links": ["db"], "NetworkMode": "host"}, "host networking can't be used with links"),
        ({"Links": ["db"], "NetworkMode": "container:db"}, "container type network can't be"),
        ({"Links": ["alone"]}, "does not belong to the default network"),
        ({"Links": ["shown"]}, "host networking can't be used with links"),
    ],
)
def test_links_that_cannot_be_are_refused(
    tmp_path: Path, host: dict[str, object], words: str
) -> None:
    async def story(world: World) -> None:
        await world.run("db")
        await world.run("alone", {"NetworkMode": "none"})
        await world.run("shown", {"NetworkMode": "host"})
        with pytest.raises(InvalidArgument, match=words):
            await world.run("web", host)

    play(tmp_path, story)


def test_a_link_into_a_circle_of_shared_networks_is_refused(tmp_path: Path) -> None:
    async def create(world: World, name: str, **host: object) -> None:
        await world.engine.create(decode_create({"Image": "img:1", "HostConfig": host}, name))

    async def story(world: World) -> None:
        await create(world, "bb")
        await create(world, "aa", NetworkMode="container:bb")
        await world.engine.remove("bb")
        await create(world, "bb", NetworkMode="container:aa")
        with pytest.raises(InvalidArgument, match="cannot link to aa: it shares"):
            await create(world, "web", Links=["aa"])

    play(tmp_path, story)


def test_what_nobody_asked_for_is_shown_as_moby_does(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        asked = {"Mounts": [{"Type": "tmpfs", "Target": "/t"}], "Binds": [], "PidsLimit": 0}
        own = await world.run("own", asked | {"MemorySwappiness": -1, "CapAdd": ["NET_ADMIN"]})
        details = container_details(world.engine, world.engine.inspect(own).record, [])
        host = details["HostConfig"]
        assert host["Mounts"] == [{"Type": "tmpfs", "Target": "/t"}]
        nothing = ("Binds", "CapDrop", "MemorySwappiness", "PidsLimit", "DeviceRequests")
        assert [host[name] for name in nothing] == [None] * len(nothing)
        assert host["CapAdd"] == ["NET_ADMIN"]
        left_out = {"Annotations", "Init", "StorageOpt", "Sysctls", "Tmpfs"}
        assert not left_out & host.keys()
        assert not {"MacAddress", "ExposedPorts", "StopSignal"} & details["Config"].keys()
        # every process has a PATH, which is nobody's setting
        assert not any(entry.startswith("PATH=") for entry in details["Config"]["Env"])
        env = world.supervisor.launches[-1].config["process"]["env"]
        assert sum(entry.startswith("PATH=") for entry in env) == 1

    play(tmp_path, story)


def test_a_link_is_a_name_until_it_is_removed(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        db = await world.run("db", Env=["USER=bob"])
        other = await world.run("other")
        web = await world.run("web", {"Links": ["db:data", "db", "other:data"]})
        engine = world.engine
        assert engine.link_names() == {db: ["web/data", "web/db"]}
        assert engine.inspect("/web/data").record.id == db
        record, links = engine.inspect(db).record, engine.link_names()[db]
        shown = container_summary(record, links, image_ids(engine))
        assert shown["Names"] == ["/db", "/web/data", "/web/db"]
        assert shown["Image"] == record.config.image
        assert container_summary(record, links, lambda name: "another")["Image"] == record.image_id
        for name, kind in (("db", Conflict), ("web/none", NotFound), ("none/data", NotFound)):
            with pytest.raises(kind):
                await engine.connections.unlink(name)
        await engine.connections.unlink("web/data")
        assert engine.link_names() == {db: ["web/db"]}
        assert "data" not in hosts_of(world, web)
        assert "db" in hosts_of(world, web)
        with pytest.raises(NotFound):
            engine.inspect("web/data")
        await engine.stop("db", 0)
        with pytest.raises(InvalidArgument, match="Cannot restart container web: Cannot") as told:
            await engine.restart("web", 0)
        assert told.value.message.endswith("link to a non running container: /db AS /web/db")
        assert engine.inspect(web).record.error.startswith("Cannot link")
        assert engine.inspect(other).record.running

    play(tmp_path, story)


async def mounts(world: World, name: str, **host: object) -> dict[str, dict[str, object]]:
    await world.engine.create(decode_create({"Image": "img:1", "HostConfig": host}, name))
    record = world.engine.inspect(name).record
    details = json.loads(json.dumps(container_details(world.engine, record, [])))
    assert details["HostConfig"]["VolumesFrom"] == host.get("VolumesFrom")
    return {mount["Destination"]: mount for mount in details["Mounts"]}


def test_volumes_of_another_container(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        own = await mounts(
            world, "aa", Binds=["data:/data", f"{tmp_path}:/host:ro", "old:/x"], Tmpfs={"/t": ""}
        )
        got = await mounts(world, "bb", VolumesFrom=["aa"], Binds=["mine:/x"])
        assert set(got) == {"/data", "/host", "/x"}
        assert got["/data"]["Source"] == own["/data"]["Source"]
        assert [got[at]["RW"] for at in ("/data", "/host", "/x")] == [True, False, True]
        assert got["/x"]["Name"] == "mine"
        read = await mounts(world, "cc", VolumesFrom=["bb:ro"])
        assert not any(mount["RW"] for mount in read.values())
        for wish in ("nobody", "aa:rx", "aa:ro,rw", ":ro"):
            with pytest.raises(InvalidArgument):
                await mounts(world, "dd", VolumesFrom=[wish])

    play(tmp_path, story)


def test_a_volume_that_another_inherited_outlives_its_first_container(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        body = {"Image": "img:1", "Volumes": {"/v": {}}}
        await world.engine.create(decode_create(body, "first"))
        got = await mounts(world, "second", VolumesFrom=["first"])
        await world.engine.remove("first", volumes=True)
        assert Path(str(got["/v"]["Source"])).exists()
        await world.engine.remove("second", volumes=True)
        assert not Path(str(got["/v"]["Source"])).exists()

    play(tmp_path, story)


def test_who_cannot_be_told_of_a_link_fails_no_start(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.run("db")
        web = await world.run("web", {"Links": ["db:data"]})
        await world.engine.stop("db", 0)
        (world.engine.places.directory(web) / "hosts").unlink()
        (world.engine.places.directory(web) / "hosts").mkdir()
        await world.engine.start("db")
        assert world.engine.inspect("db").record.running

    play(tmp_path, story)
