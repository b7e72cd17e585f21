"""A manager's log on a small disk that fills up, and empties again."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from manager.raft.replication import RaftConfig
from swarmapi.errors import NotLeader, OutcomeUnknown, Unavailable
from tests.fakes.raft_cluster import RaftCluster

SIZE_BYTES = 2 << 20
CONFIG = RaftConfig(reserve_bytes=128 << 10, snapshot_entries=50)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of two megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "swarm-test-disk", path)
    subprocess.run(mount, check=True)
    yield path
    subprocess.run(("umount", path), check=True)


def fill(path: Path) -> Path:
    """Leave no room at all on the disk of `path`."""
    ballast = path / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(path).f_bavail == 0
    return ballast


def test_a_full_disk_makes_a_manager_read_only_until_there_is_room(disk: Path) -> None:
    cluster = RaftCluster(disk, CONFIG)
    acknowledged: list[bytes] = []

    async def propose_until(refusal: str) -> None:
        for number in range(10_000):
            command = f"{len(acknowledged)}-{number}".encode() + bytes(1000)
            try:
                await cluster.nodes["m1"].propose(command)
            except Unavailable as error:
                if refusal in error.message:
                    return
                raise
            acknowledged.append(command)
        raise AssertionError("the disk is not full")

    async def until(holds: Callable[[], bool]) -> None:
        while not holds():  # noqa: ASYNC110 - the status is polled: callbacks tell of leaders
            await asyncio.sleep(0.01)

    async def work() -> None:
        await cluster.start("m1", bootstrap=True)
        await cluster.leader()
        await cluster.nodes["m1"].propose(b"first")
        acknowledged.append(b"first")
        ballast = fill(disk)
        await propose_until(f"{disk}/m1")
        assert await cluster.nodes["m1"].read_index(), "reads are answered"
        await cluster.stop()
        await cluster.start("m1")
        await cluster.leader()
        await propose_until("is full")
        assert cluster.machines["m1"].commands == acknowledged
        ballast.unlink()
        await until(lambda: not cluster.nodes["m1"].status.disk_full)
        await cluster.nodes["m1"].propose(b"last")
        assert cluster.machines["m1"].commands == [*acknowledged, b"last"]
        await cluster.stop()
        assert not cluster.halts

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(bounded())


def test_a_leader_without_any_room_is_replaced_and_comes_back(disk: Path) -> None:
    (disk / "m1").mkdir()
    ballast = fill(disk)
    room = ballast.stat().st_size
    os.truncate(ballast, room - (1 << 20))
    cluster = RaftCluster(disk.parent, CONFIG)
    (disk.parent / "m1").symlink_to(disk / "m1")

    async def work() -> None:
        await cluster.start("m1", bootstrap=True)
        await cluster.leader()
        for name in ("m2", "m3"):
            await cluster.start(name)
            await cluster.nodes["m1"].add_member(name, cluster.address(name))
        await cluster.nodes["m1"].propose(b"first")
        (disk / "m1" / "reserve").unlink()  # as if it had been spent
        fill_up = disk / "more"
        fill_up.write_bytes(b"")
        with fill_up.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        with suppress(OutcomeUnknown, NotLeader):
            await cluster.nodes["m1"].propose(bytes(9000))
        await cluster.until(cluster.nodes["m1"], lambda status: not status.is_leader)
        assert cluster.nodes["m1"].status.disk_full
        others = [cluster.nodes[name] for name in ("m2", "m3")]
        waits = [asyncio.ensure_future(cluster.until(o, lambda s: s.ready)) for o in others]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        leader = next(other for other in others if other.status.ready)
        await leader.propose(b"second")
        with pytest.raises(NotLeader):
            await cluster.nodes["m1"].read_index()
        fill_up.unlink()
        index = leader.status.commit_index
        while cluster.nodes["m1"].status.applied_index < index:  # noqa: ASYNC110 - no callback
            await asyncio.sleep(0.01)
        assert b"second" in cluster.machines["m1"].commands
        await cluster.stop()
        assert not cluster.halts

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(bounded())
