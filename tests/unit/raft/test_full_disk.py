"""A member whose disk is full takes no changes, says so, and goes on when there is room."""

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from manager.raft.disk import FileDisk, Reserve, is_full
from manager.raft.journal import Journal, SyncFailed
from manager.raft.replication import RaftConfig
from manager.raft.snapshot import SnapshotHeader, write_snapshot
from manager.raft.snapshots import FileSnapshots
from swarmapi.durable import write_durably
from swarmapi.errors import Unavailable
from swarmapi.keyring import Keyring
from swarmapi.override import override
from tests.fakes.full_disk import no_room_above
from tests.fakes.raft_cluster import RaftCluster

CONFIG = RaftConfig(reserve_bytes=8192)


def test_an_append_without_room_leaves_nothing_behind(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path / "log")
    disk.append("a", b"x" * 100)
    with no_room_above(150), pytest.raises(OSError, match="too large") as refused:
        disk.append("a", b"y" * 100)
    assert is_full(refused.value)
    assert disk.read("a") == b"x" * 100
    disk.append("a", b"z")
    assert disk.read("a") == b"x" * 100 + b"z"


def test_the_reserve_is_given_up_once_and_taken_again(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "state" / "reserve", 4096)
    disk = FileDisk(tmp_path / "log", reserve)
    assert reserve.path.exists()
    with no_room_above(10):
        with pytest.raises(OSError, match="too large"):
            disk.append("a", b"x" * 100)
        assert not reserve.held
        assert not reserve.path.exists()
        assert not reserve.hold()
    assert reserve.hold()
    assert reserve.path.stat().st_size == 4096


def test_a_journal_goes_on_with_the_frame_that_found_no_room(tmp_path: Path) -> None:
    journal = Journal(FileDisk(tmp_path / "log"))
    journal.add(b"a", 1, 1)
    journal.sync()
    journal.add(b"b" * 500, 2, 1)
    write = journal.take()
    with no_room_above(300), pytest.raises(OSError, match="too large"):
        journal.write(write)
    journal.write(write)
    journal.synced(write)
    assert [entry[0] for entry in Journal(FileDisk(tmp_path / "log")).entries] == [
        b"a",
        b"b" * 500,
    ]


def test_a_sync_that_failed_is_never_tried_again(tmp_path: Path) -> None:
    """Also one for want of room: the pages may be dropped, and the next one would succeed."""

    class Delayed(FileDisk):
        @override
        def sync(self, name: str) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

    journal = Journal(Delayed(tmp_path / "log"))
    journal.add(b"a", 1, 1)
    with pytest.raises(SyncFailed, match="no space left"):
        journal.write(journal.take())


def test_a_lone_manager_is_read_only_and_recovers(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path, CONFIG)

    async def until(holds: Callable[[], bool]) -> None:
        while not holds():  # noqa: ASYNC110 - the status is polled: callbacks tell of leaders
            await asyncio.sleep(0.01)

    async def work() -> None:
        node = await cluster.start("m1", bootstrap=True)
        await cluster.leader()
        await node.propose(b"before")
        reserve = tmp_path / "m1" / "reserve"
        with no_room_above(4096):
            tried = asyncio.ensure_future(node.propose(b"x" * 6000))
            await until(lambda: bool(node.status.disk_full))
            assert not reserve.exists()
            with pytest.raises(Unavailable, match=f"full \\({tmp_path}/m1\\): make room"):
                await node.propose(b"refused")
        await until(lambda: not node.status.disk_full)
        assert reserve.exists()
        await tried
        await node.propose(b"after")
        assert cluster.machines["m1"].commands == [b"before", b"x" * 6000, b"after"]
        assert await node.read_index()
        await cluster.stop()
        assert not cluster.halts

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(bounded())


def test_the_reserve_is_spent_in_slices(tmp_path: Path) -> None:
    """Who fills the disk would have all of it at once."""
    reserve = Reserve(tmp_path / "reserve", 1 << 20)
    assert reserve.spend(100)
    assert not reserve.held
    assert reserve.left_bytes == (1 << 20) - (64 << 10)
    assert not reserve.spend(1 << 20), "a frame that it cannot hold gets nothing of it"
    assert reserve.left_bytes == (1 << 20) - (64 << 10)
    with no_room_above(1 << 19):
        assert not Reserve(tmp_path / "reserve", 1 << 20).held
    assert reserve.left_bytes == (1 << 20) - (64 << 10), "what is left survives a restart"
    assert reserve.hold()
    assert reserve.left_bytes == 1 << 20


def test_without_room_to_seal_it_anew_a_log_stays_as_it_was(tmp_path: Path) -> None:
    old, new = Keyring.fresh(), Keyring.fresh()
    path = tmp_path / "log"
    journal = Journal(FileDisk(path), keyring=old)
    for index in range(1, 6):
        journal.add(bytes(200), index, 1)
        journal.sync()
    names = sorted(file.name for file in path.iterdir())
    turning = Keyring([*new.keys, *old.keys])
    with no_room_above(500):
        again = Journal(FileDisk(path), keyring=turning)  # it starts
        with pytest.raises(OSError, match="too large"):
            again.rewrite()
    assert sorted(file.name for file in path.iterdir()) == names
    again.add(b"more", 6, 1)
    again.sync()
    assert Journal(FileDisk(path), keyring=turning).last_index == 6
    assert Journal(FileDisk(path), keyring=new).last_index == 6, "with room it is turned"


def test_what_waits_to_be_written_survives_a_seal_for_which_there_was_no_room(
    tmp_path: Path,
) -> None:
    journal = Journal(FileDisk(tmp_path / "log"))
    journal.add(bytes(600), 1, 1)
    journal.sync()
    journal.add(b"waiting", 2, 1)
    journal.set_hard_state(7, "n2")
    with no_room_above(400), pytest.raises(OSError, match="too large"):
        journal.rewrite()
    journal.sync()
    again = Journal(FileDisk(tmp_path / "log"))
    assert (again.last_index, again.term, again.vote) == (2, 7, "n2")


def test_a_snapshot_that_cannot_be_sealed_anew_is_loaded(tmp_path: Path) -> None:
    path, old, new = tmp_path / "snapshot", Keyring.fresh(), Keyring.fresh()
    write_snapshot(path, SnapshotHeader(5, 1, (("m1", "a"),)), [bytes(900)], old)
    turning = Keyring([*new.keys, *old.keys])
    with ThreadPoolExecutor(1) as worker, no_room_above(500):
        found = FileSnapshots(path, worker, lambda: None, turning).load()
    assert found is not None
    assert found[0].index == 5
    assert [file.name for file in tmp_path.iterdir()] == ["snapshot"]


def test_a_small_file_without_room_leaves_no_part_behind(tmp_path: Path) -> None:
    write_durably(tmp_path / "keys", b"old")
    with no_room_above(10), pytest.raises(OSError, match="too large"):
        write_durably(tmp_path / "keys", bytes(100))
    assert [file.name for file in tmp_path.iterdir()] == ["keys"]
    assert (tmp_path / "keys").read_bytes() == b"old"
