"""A node's keys follow the cluster's autolock, at any order of log, disk and power."""

import asyncio
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from manager.bootstrap import load_founding, prepare_first
from manager.config import InitConfig, Paths
from manager.control.cluster import await_lock, leave_warning, update_cluster
from manager.keys import Locker, load_keyring, load_tls
from manager.store.changes import PutNode, SetNodeLock, SetNodeStatus
from swarmapi.errors import FailedPrecondition, Internal, Unauthenticated, Unavailable
from swarmapi.keyring import (
    Keyring,
    Locked,
    is_locked,
    new_unlock_key,
    open_key,
    pack_keyring,
    seal_key,
    unlock_secret,
    unpack_keyring,
)
from swarmapi.model.objects import Node as NodeObject
from swarmapi.model.objects import NodeState
from swarmapi.model.spec import ClusterSpec, EncryptionConfig, NodeRole, NodeSpec
from swarmapi.tlsfiles import TLSFiles
from tests.fakes.full_disk import no_room_above
from tests.unit.manager_shell.cluster import MemoryCluster

LOCKED = ClusterSpec(encryption_config=EncryptionConfig(auto_lock_managers=True))


async def founded() -> MemoryCluster:
    cluster = MemoryCluster()
    await cluster.found()
    return cluster


class Node:
    """A manager's directory, and a locker of one life of its process."""

    def __init__(self, path: Path, cluster: MemoryCluster) -> None:
        self.paths = Paths(path / "s", path / "r")
        prepare_first(InitConfig(self.paths, "127.0.0.1:2377", ("10.0.0.0/8",), 24), os.urandom)
        self.cluster = cluster
        self.resealed: list[tuple[bytes, ...]] = []
        self.start("")

    def start(self, unlock_key: str) -> None:
        self.keyring = load_keyring(self.paths, unlock_key)
        self.key_pem = load_tls(self.paths, self.keyring).key_pem
        store = self.cluster.store
        self.locker = Locker("m1", self.paths, self.keyring, unlock_key, store, self._reseal)

    async def _reseal(self) -> None:
        self.resealed.append(self.keyring.keys)

    @property
    def file(self) -> bytes:
        return self.paths.keys.read_bytes()

    async def set(self, spec: ClusterSpec, *, rotate: bool = False) -> str:
        """Change the cluster; return its unlock key."""
        store = self.cluster.store
        cluster = store.view.cluster
        assert cluster is not None
        await update_cluster(
            store, spec, cluster.meta.version, os.urandom, rotate_unlock_key=rotate
        )
        assert store.view.cluster is not None
        return store.view.cluster.unlock_key


def test_locking_takes_a_new_key_and_unlocking_needs_the_clusters(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, await founded())
        in_clear = unpack_keyring(node.file)
        unlock_key = await node.set(LOCKED)
        await node.locker.step()
        assert node.resealed[0][1:] == in_clear.keys, "what lay in clear still opens meanwhile"
        with pytest.raises(Locked):
            load_keyring(node.paths)
        with pytest.raises(Unauthenticated):
            load_keyring(node.paths, new_unlock_key(os.urandom))
        opened = load_keyring(node.paths, unlock_key)
        assert len(opened.keys) == 1
        assert opened.keys != in_clear.keys, "a key that lay in clear seals what is locked"
        with pytest.raises(Internal):
            open_key(node.paths.key.read_bytes(), in_clear)
        assert open_key(node.paths.key.read_bytes(), opened) == node.key_pem

        second = await node.set(LOCKED, rotate=True)
        await node.locker.step()
        assert second != unlock_key
        assert load_keyring(node.paths, second).keys == opened.keys
        assert len(node.resealed) == 1, "a new unlock key locks the same ring"
        assert await node.set(LOCKED) == second

        assert await node.set(ClusterSpec()) == ""
        await node.locker.step()
        assert load_keyring(node.paths).keys == opened.keys
        with pytest.raises(FailedPrecondition, match="autolock is not turned on"):
            await node.set(ClusterSpec(), rotate=True)

    asyncio.run(story())


def test_a_new_unlock_key_is_waited_for_until_the_disk_follows(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, await founded())
        store = node.cluster.store
        await node.locker.report()
        assert store.view.nodes["m1"].lock_index == 0, "nothing was ever locked"
        assert await await_lock(store) == []
        unlock_key = await node.set(LOCKED)
        await node.locker.report()
        waiting = asyncio.create_task(await_lock(store))
        await asyncio.sleep(0)
        assert not waiting.done(), "its disk is still in clear"
        await node.locker.step()
        await node.locker.report()
        assert await waiting == []
        assert load_keyring(node.paths, unlock_key)
        index = store.view.nodes["m1"].lock_index
        again = store.view.nodes["m1"]
        await store.propose((PutNode(node=replace(again, lock_index=0)),))
        await store.propose((SetNodeLock(node_id="m1", lock_index=1),))
        assert store.view.nodes["m1"].lock_index == index, "a session or an old word takes nothing"

    asyncio.run(story())


def test_a_manager_that_is_away_is_not_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, await founded())
        await node.set(LOCKED)
        away = SetNodeStatus(node_id="m1", state=NodeState.DOWN)
        await node.cluster.store.propose((away,))
        waiting = asyncio.create_task(await_lock(node.cluster.store))
        await asyncio.sleep(0)
        assert waiting.done()
        assert waiting.result() == ["manager host1 still wants the unlock key of before: keep it"]

    asyncio.run(story())


def test_a_manager_that_does_not_follow_in_time_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, await founded())
        await node.set(LOCKED)
        (warning,) = await await_lock(node.cluster.store, limit_s=0.01)
        assert warning == "manager host1 still wants the unlock key of before: keep it"

    asyncio.run(story())


def test_a_replayed_log_never_unlocks_the_disk(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, await founded())
        before = node.cluster.store.view.cluster
        unlock_key = await node.set(LOCKED)
        await node.locker.step()
        now = node.cluster.store.view.cluster
        node.start(unlock_key)
        node.cluster.store.view.cluster = before
        await node.locker.step()
        assert is_locked(node.file)
        assert now is not None
        node.cluster.store.view.cluster = replace(
            now, unlock_key="", meta=replace(now.meta, version=now.meta.version + 1)
        )
        await node.locker.step()
        assert not is_locked(node.file)

    asyncio.run(story())


def test_the_power_may_fail_before_the_new_key_seals_everything(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, await founded())

        async def power_cut() -> None:
            raise OSError

        unlock_key = await node.set(LOCKED)
        node.locker = Locker("m1", node.paths, node.keyring, "", node.cluster.store, power_cut)
        with pytest.raises(OSError):
            await node.locker.step()
        assert is_locked(node.file)
        node.start(unlock_key)
        assert len(node.keyring.keys) == 2
        await node.locker.finish()
        assert len(load_keyring(node.paths, unlock_key).keys) == 1
        assert node.resealed
        assert open_key(node.paths.key.read_bytes(), load_keyring(node.paths, unlock_key))

    asyncio.run(story())


def test_a_renewal_that_the_power_ended_halfway_is_settled_at_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, await founded())
        other = Node(tmp_path / "other", await founded())
        renewed = load_tls(other.paths, other.keyring)
        halfway = TLSFiles(node.paths.state_dir, move=lambda *_: None)
        halfway.save(renewed, lambda key: seal_key(key, node.keyring))
        assert load_tls(node.paths, node.keyring) == renewed
        assert open_key(node.paths.key.read_bytes(), node.keyring) == renewed.key_pem
        await node.set(LOCKED)
        await node.locker.step()
        assert load_tls(node.paths, node.keyring) == renewed, "and follows a new ring"

    asyncio.run(story())


def test_what_a_founding_left_opens_with_no_other_ring_and_is_removed(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "s", tmp_path / "r")
    made = prepare_first(InitConfig(paths, "127.0.0.1:2377", ("10.0.0.0/8",), 24), os.urandom)
    founding = load_founding(paths, load_keyring(paths))
    assert founding is not None
    assert founding.cluster_id == made["cluster_id"]
    with pytest.raises(Internal, match="found the cluster"):
        load_founding(paths, Keyring.fresh())
    paths.raft.mkdir()
    assert load_founding(paths, Keyring.fresh()) is None
    assert not paths.bootstrap.exists()


@pytest.mark.parametrize("text", ["", "SWMKEY-1-", "SWMKEY-1-short", "SWMKEY-2-" + "A" * 43])
def test_odd_unlock_keys_open_nothing(text: str) -> None:
    key = new_unlock_key(os.urandom)
    assert (len(key), len(unlock_secret(key))) == (52, 32)
    file = pack_keyring(Keyring.fresh(), key)
    with pytest.raises((Unauthenticated, Locked)):
        unpack_keyring(file, text)
    assert unpack_keyring(file, f" {key}\n").keys


def test_a_damaged_file_says_so() -> None:
    for file in (b"", b"\x81", pack_keyring(Keyring.fresh())[:-4]):
        with pytest.raises(Internal, match="restore the file"):
            unpack_keyring(file)


def test_a_manager_is_told_what_its_leaving_costs() -> None:
    def manager(number: int, state: str = NodeState.READY) -> NodeObject:
        return NodeObject(
            id=f"m{number}", spec=NodeSpec(role=NodeRole.MANAGER), state=NodeState(state)
        )

    three = [manager(1), manager(2), manager(3)]
    assert "may lose the consensus" in leave_warning(three[0], three)
    assert "leaves 1 managers out of 2. Without a Raft quorum" in leave_warning(three[0], three[:2])
    two_up = [manager(1), manager(2), manager(3, NodeState.DOWN)]
    assert "leaves 1 managers out of 3" in leave_warning(two_up[0], two_up)
    assert "erases all current state" in leave_warning(three[0], three[:1])


def test_a_full_disk_keeps_the_old_key_until_there_is_room(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, await founded())
        unlock_key = await node.set(LOCKED)

        async def no_room() -> None:
            raise Unavailable("no room")

        node.locker = Locker("m1", node.paths, node.keyring, "", node.cluster.store, no_room)
        with pytest.raises(Unavailable):
            await node.locker.step()
        assert is_locked(node.file), "what is locked does not lie in clear meanwhile"
        assert len(load_keyring(node.paths, unlock_key).keys) == 2
        node.locker._reseal = node._reseal
        await node.locker.finish()
        assert len(load_keyring(node.paths, unlock_key).keys) == 1

        rotated = await node.set(LOCKED, rotate=True)
        with no_room_above(10), pytest.raises(OSError, match="too large"):
            await node.locker.step()
        assert load_keyring(node.paths, unlock_key)
        await node.locker.step()
        assert load_keyring(node.paths, rotated)

    asyncio.run(story())


def test_a_key_that_is_not_on_the_disk_seals_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        node = Node(tmp_path, await founded())
        before = node.keyring.keys
        await node.set(LOCKED)
        with no_room_above(10), pytest.raises(OSError, match="too large"):
            await node.locker.step()
        assert node.keyring.keys == before

    asyncio.run(story())
