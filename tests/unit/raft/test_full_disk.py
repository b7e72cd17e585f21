"""A member whose disk is full takes no changes, says so, and goes on when there is room."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from manager.raft.disk import FileDisk, Reserve, is_full
from manager.raft.journal import Journal, SyncFailed
from manager.raft.replication import RaftConfig
from swarmapi.errors import Unavailable
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
