"""One manager's log, or a backup, becomes a cluster of one with all its services."""

import asyncio
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from manager.bootstrap import prepare_first
from manager.config import InitConfig, RecoverConfig
from manager.keys import load_keyring
from manager.raft.snapshot import read_snapshot, write_snapshot
from manager.recovery import Recovered, backup, certify_again, recover, restore
from manager.returning import Aside
from manager.store import snapshot
from manager.store.level import LEVEL
from manager.store.view import View
from swarmapi.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from swarmapi.identity import validity
from swarmapi.keyring import new_unlock_key
from tests.unit.manager_shell.test_three_managers import Place, free_address, members

SPEC = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}


def config_of(place: Place, unlock_key: str = "", backup: str = "") -> RecoverConfig:
    return RecoverConfig(place.paths, place.address, unlock_key, backup)


async def two_managers(places: list[Place]) -> tuple[Place, Place]:
    """Found a cluster of two with a service."""
    first, second = places[:2]
    prepare_first(InitConfig(first.paths, first.address, ("10.0.0.0/8",), 24), os.urandom)
    await first.start()
    cluster = await first.until("/swarm", lambda body: "JoinTokens" in body)
    await second.enter(first, cluster["JoinTokens"]["Manager"])
    await second.start()
    await first.until("/nodes", members(2))
    assert (await first.rest("POST", "/services/create", SPEC))[0] == 201
    return first, second


async def check_alone(place: Place, recovered: Recovered, gone: list[str]) -> None:
    """It is the one manager, has what was acknowledged, and takes more."""
    assert recovered.removed == tuple(sorted(gone))
    place.join = ""
    await place.start()
    (service,) = await place.until("/services", lambda body: True)
    assert service["Spec"]["Name"] == "web"
    (node,) = await place.until("/nodes", lambda body: True)
    assert node["ID"] == recovered.node_id
    assert node["ManagerStatus"]["Leader"]
    assert node["ManagerStatus"]["Addr"] == place.address
    assert (await place.rest("POST", "/services/create", {**SPEC, "Name": "two"}))[0] == 201
    assert place.manager is not None
    cluster = place.manager.store.view.cluster
    assert cluster is not None
    assert set(gone) <= set(cluster.removed_nodes)


def run(tmp_path: Path, story: object) -> None:
    async def main() -> None:
        places = [Place(tmp_path / name) for name in "abc"]
        try:
            await asyncio.wait_for(story(places), 50)  # type: ignore[operator]
        finally:
            for place in places:
                await place.stop()

    asyncio.run(main())


def test_a_manager_without_quorum_goes_on_alone_at_another_address(tmp_path: Path) -> None:
    async def story(places: list[Place]) -> None:
        first, second = await two_managers(places)
        ids = first.node_id, second.node_id
        await second.until("/services", lambda body: len(body) == 1)
        await first.stop()
        await second.stop()
        second.address = free_address()
        recovered = recover(config_of(second))
        assert recovered.node_id == ids[1]
        await check_alone(second, recovered, [ids[0]])
        await second.stop()
        await second.start()
        await second.until("/services", lambda body: len(body) == 2)

    run(tmp_path, story)


def test_a_backup_is_restored_as_another_manager_elsewhere(tmp_path: Path) -> None:
    async def story(places: list[Place]) -> None:
        first, second = await two_managers(places)
        third = places[2]
        assert first.manager is not None
        view = first.manager.store.view
        file = tmp_path / "backup"
        file.write_bytes(b"".join(backup(view, 1, first.manager.store.log.members())))
        ids = [first.node_id, second.node_id]
        with pytest.raises(AlreadyExists, match="belongs to a cluster already"):
            restore(config_of(first, backup=str(file)), os.urandom)
        for place in (first, second):
            await place.stop()
        recovered = restore(config_of(third, backup=str(file)), os.urandom)
        assert recovered.node_id not in ids
        await check_alone(third, recovered, ids)
        assert third.manager is not None
        assert view.cluster is not None
        restored = third.manager.store.view.cluster
        assert restored is not None
        assert restored.root_ca == view.cluster.root_ca, "the tokens and the CA are the same"

    run(tmp_path, story)


def test_a_backup_of_a_locked_cluster_opens_with_its_unlock_key_alone(tmp_path: Path) -> None:
    async def story(places: list[Place]) -> None:
        first, _ = await two_managers(places)
        _, swarm = await first.rest("GET", "/swarm")
        spec = {**swarm["Spec"], "EncryptionConfig": {"AutoLockManagers": True}}
        path = f"/swarm/update?version={swarm['Version']['Index']}"
        assert (await first.rest("POST", path, spec))[0] == 200
        _, body = await first.rest("GET", "/swarm/unlockkey")
        assert first.manager is not None
        sealed = b"".join(backup(first.manager.store.view, 1, {}))
        assert b"BEGIN" not in sealed
        file, third = tmp_path / "backup", places[2]
        file.write_bytes(sealed)
        for wrong in ("", new_unlock_key(os.urandom)):
            with pytest.raises(InvalidArgument, match="give the unlock key"):
                restore(config_of(third, wrong, str(file)), os.urandom)
        assert not third.paths.raft.exists()
        file.write_bytes(sealed[:-9])
        with pytest.raises(InvalidArgument, match="cannot be restored"):
            restore(config_of(third, body["UnlockKey"], str(file)), os.urandom)
        file.write_bytes(sealed)
        assert len(restore(config_of(third, body["UnlockKey"], str(file)), os.urandom).removed) == 2

    run(tmp_path, story)


def test_nothing_is_recovered_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="nothing to recover"):
        recover(config_of(Place(tmp_path)))


def test_a_manager_that_lost_its_log_is_no_one_to_go_on_with(tmp_path: Path) -> None:
    place = Place(tmp_path / "a")
    place.paths.raft.mkdir(parents=True)
    Aside(place.paths.state_dir, place.paths.raft).set_aside()
    with pytest.raises(FailedPrecondition, match="recover another manager"):
        recover(config_of(place))


def raise_level(view: View) -> None:
    """Make it the state of a newer program."""
    assert view.cluster is not None
    view.cluster = replace(view.cluster, level=LEVEL + 1)


def test_what_a_newer_program_wrote_is_refused_whole(tmp_path: Path) -> None:
    async def story(places: list[Place]) -> None:
        first, second = places[:2]
        prepare_first(InitConfig(first.paths, first.address, ("10.0.0.0/8",), 24), os.urandom)
        await first.start()
        await first.until("/swarm", lambda body: "JoinTokens" in body)
        assert first.manager is not None
        view = snapshot.restore(snapshot.dump(first.manager.store.view))
        raise_level(view)
        await first.stop()
        file = tmp_path / "backup"
        file.write_bytes(b"".join(backup(view, 1, {})))
        with pytest.raises(InvalidArgument, match="this manager knows 1: upgrade it"):
            restore(config_of(second, backup=str(file)), os.urandom)
        assert not second.paths.raft.exists()
        keyring, path = load_keyring(first.paths), first.paths.raft / "snapshot"
        header, _ = read_snapshot(file.read_bytes(), None)
        write_snapshot(path, header, snapshot.dump(view), keyring)
        before = first.tls
        with pytest.raises(FailedPrecondition, match="upgrade it"):
            recover(config_of(first))
        with pytest.raises(FailedPrecondition, match="upgrade it"):
            certify_again(first.paths, keyring, validity(before.cert_pem)[1] + 1)
        assert first.tls == before

    run(tmp_path, story)
