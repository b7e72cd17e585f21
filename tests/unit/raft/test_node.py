"""Members over real TLS, files and loopback."""

import asyncio
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from manager.raft.journal import Corrupt
from manager.raft.replication import RaftConfig
from swarmapi.errors import FailedPrecondition, InvalidArgument, NotLeader, Unavailable
from tests.fakes.pki import CertificateAuthority
from tests.fakes.raft_cluster import RaftCluster

_GUARD_S = 60


def run(cluster: RaftCluster, work: Coroutine[Any, Any, None]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(_GUARD_S):
            try:
                await work
            finally:
                await cluster.stop()

    asyncio.run(guarded())
    assert cluster.halts == []


async def three(cluster: RaftCluster) -> None:
    first = await cluster.start("m1", bootstrap=True)
    await cluster.until(first, lambda status: status.ready)
    for name in ("m2", "m3"):
        await cluster.start(name)
        await first.add_member(name, cluster.address(name))


async def propose(cluster: RaftCluster, commands: list[bytes]) -> None:
    leader = cluster.nodes[await cluster.leader()]
    await asyncio.gather(*(leader.propose(command) for command in commands))


async def same_everywhere(cluster: RaftCluster) -> list[bytes]:
    """Return the commands once every member has applied what the leader has."""
    leader = await cluster.leader()
    await cluster.nodes[leader].propose(b"last")
    commands = cluster.machines[leader].commands
    for name in cluster.nodes:
        await cluster.machines[name].until(commands)
    return commands


def test_a_leader_dies_and_nothing_is_lost(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path)

    async def work() -> None:
        await three(cluster)
        written = [f"a{number}".encode() for number in range(200)]
        await propose(cluster, written)
        killed = await cluster.leader()
        await cluster.stop(killed)
        await propose(cluster, [b"after"])
        await cluster.stop()
        for name in ("m1", "m2", "m3"):
            await cluster.start(name)
        assert [*written, b"after", b"last"] == await same_everywhere(cluster)
        assert set(cluster.nodes[killed].members()) == {"m1", "m2", "m3"}

    run(cluster, work())


def test_members_come_and_go(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path, RaftConfig(reach_timeout_s=0.5))

    async def work() -> None:
        await three(cluster)
        leader = cluster.nodes[await cluster.leader()]
        await cluster.start("m0")
        await leader.add_member("m0", cluster.address("m0"))
        await leader.add_member("m0", cluster.address("m0"))
        assert set(leader.members()) == {"m0", "m1", "m2", "m3"}
        with pytest.raises(FailedPrecondition, match="remove it first"):
            await leader.add_member("m0", "127.0.0.1:1")
        await leader.remove_member("m0")
        await leader.remove_member("m0")
        assert set(leader.members()) == {"m1", "m2", "m3"}
        with pytest.raises(FailedPrecondition, match="transfer the leadership"):
            await leader.remove_member(leader.status.leader_id)
        await cluster.stop("m0")
        with pytest.raises(Unavailable, match="does not answer"):
            await leader.add_member("m9", cluster.address("m9"))
        assert await same_everywhere(cluster) == [b"last"]

    run(cluster, work())


def test_a_follower_names_the_leader_and_takes_over_when_asked(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path)

    async def work() -> None:
        await three(cluster)
        old = cluster.nodes[await cluster.leader()]
        target = next(name for name in cluster.nodes if name != old.status.leader_id)
        follower = cluster.nodes[target]
        await cluster.until(follower, lambda status: bool(status.leader_address))
        with pytest.raises(NotLeader) as refused:
            await follower.propose(b"x")
        assert refused.value.leader == cluster.address(old.status.leader_id)
        with pytest.raises(NotLeader):
            await follower.read_index()
        await old.transfer_leadership(target)
        await cluster.until(follower, lambda status: status.ready)
        assert await follower.propose(b"mine") <= await follower.read_index()
        with pytest.raises(InvalidArgument, match="not another member"):
            await follower.transfer_leadership("m9")

    run(cluster, work())


def test_a_joiner_gets_a_snapshot(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path, RaftConfig(snapshot_entries=50, keep_entries=5))

    async def work() -> None:
        first = await cluster.start("m1", bootstrap=True)
        for round_ in range(5):
            await propose(cluster, [f"{round_}-{number}".encode() for number in range(40)])
        await cluster.start("m2")
        await first.add_member("m2", cluster.address("m2"))
        commands = await same_everywhere(cluster)
        assert len(commands) == 201
        assert cluster.machines["m2"].restored
        await cluster.stop()
        await cluster.start("m1")
        await cluster.start("m2")
        assert await same_everywhere(cluster) == [*commands, b"last"]

    run(cluster, work())


def test_the_settings_of_the_log_take_effect_while_it_runs(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path)

    async def work() -> None:
        node = await cluster.start("m1", bootstrap=True)
        await cluster.leader()
        node.tune(snapshot_entries=20, keep_entries=3, keep_old=1)
        async with asyncio.timeout(20):
            while not list((tmp_path / "m1").glob("snapshot.*")):
                await propose(cluster, [b"%d" % number for number in range(10)])
        assert node.status.snapshot_index - node.status.first_index <= 3

    run(cluster, work())


@pytest.mark.parametrize("config", [RaftConfig(pending_max=3), RaftConfig(pending_max_bytes=3)])
def test_more_than_fits_in_flight_is_refused(tmp_path: Path, config: RaftConfig) -> None:
    cluster = RaftCluster(tmp_path, config)

    async def work() -> None:
        node = await cluster.start("m1", bootstrap=True)
        await cluster.leader()
        proposals = [node.propose(b"%d" % number) for number in range(5)]
        results = await asyncio.gather(*proposals, return_exceptions=True)
        assert [isinstance(result, int) for result in results] == [True] * 3 + [False] * 2
        assert all(isinstance(result, Unavailable) for result in results[3:])
        assert await node.propose(b"now")

    run(cluster, work())


def test_refusals(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path, RaftConfig(command_max_bytes=100, reach_timeout_s=0.5))

    async def work() -> None:
        node = await cluster.start("m1", bootstrap=True)
        await cluster.leader()
        with pytest.raises(InvalidArgument, match="101 bytes"):
            await node.propose(b"x" * 101)
        with pytest.raises(InvalidArgument, match="empty"):
            await node.propose(b"")
        await cluster.start("m2", authority=CertificateAuthority())
        with pytest.raises(Unavailable, match="does not answer"):
            await node.add_member("m2", cluster.address("m2"))
        await cluster.stop("m1")
        with pytest.raises(Unavailable, match="not running"):
            await node.propose(b"x")

    run(cluster, work())


def test_damaged_state_does_not_start(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path)
    (tmp_path / "m1").mkdir()
    (tmp_path / "m1" / "snapshot").write_bytes(b"not a snapshot")

    async def work() -> None:
        with pytest.raises(Corrupt, match="restore this member"):
            await cluster.start("m1", bootstrap=True)

    run(cluster, work())


def test_a_state_machine_that_fails_halts_the_member(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path)

    async def work() -> None:
        node = await cluster.start("m1", bootstrap=True)
        await cluster.leader()
        cluster.machines["m1"].commands = None  # type: ignore[assignment]  # makes apply fail
        waiting = asyncio.ensure_future(node.propose(b"x"))
        while not cluster.halts:
            await asyncio.wait([waiting], timeout=0.01)
        assert not waiting.done()
        await cluster.stop()
        with pytest.raises(Unavailable, match="stopped"):
            await waiting
        assert isinstance(cluster.halts.pop(), TypeError)

    run(cluster, work())


def test_a_member_that_lost_its_log_comes_back(tmp_path: Path) -> None:
    cluster = RaftCluster(tmp_path)

    async def work() -> None:
        await three(cluster)
        await propose(cluster, [b"a", b"b"])
        leader = await cluster.leader()
        lost = next(name for name in cluster.nodes if name != leader)
        await cluster.stop(lost)
        shutil.rmtree(tmp_path / lost)
        node = await cluster.start(lost, mute=True)
        index = await cluster.nodes[leader].release(lost)
        assert lost not in cluster.nodes[leader].members()
        whole = asyncio.create_task(node.speak_from(index))
        await cluster.nodes[leader].add_member(lost, cluster.address(lost))
        await whole
        assert cluster.machines[lost].commands == cluster.machines[leader].commands
        await cluster.nodes[leader].transfer_leadership(lost)
        await cluster.until(node, lambda status: status.ready)
        await propose(cluster, [b"c"])

    run(cluster, work())
