"""A manager whose keys are locked waits, says so in Docker's words, and goes on when unlocked."""

import asyncio
import os
import signal

import pytest

from swarmapi.errors import Conflict, NotSwarmManager, Unauthenticated, Unavailable
from swarmapi.keyring import Keyring, Locked, new_unlock_key, pack_keyring, seal_key
from tests.unit.cluster.bench import Machine
from worker.cluster.info import SwarmInfo, quorum_warnings
from worker.cluster.manager_process import ManagerProcess
from worker.cluster.requests import InitRequest

INIT = InitRequest(advertise_addr="127.0.0.1:1", listen_addr="127.0.0.1:2377")
UNLOCK_KEY = new_unlock_key(os.urandom)


async def locked_manager(machine: Machine) -> None:
    """Found a cluster, and lock its manager's keys as it would itself; it goes on running."""
    async with machine.daemon() as (member, _, _):
        await member.init(INIT)
    keyring = Keyring.fresh()
    key = machine.state_dir / "node.key"
    key.write_bytes(seal_key(key.read_bytes(), keyring))
    (machine.state_dir / "raft.keys").write_bytes(pack_keyring(keyring, UNLOCK_KEY))


async def end_manager(machine: Machine, manager: ManagerProcess) -> None:
    os.kill(pid := manager.pid(), signal.SIGKILL)
    await manager.ended(pid)


def test_a_locked_manager_waits_for_its_key(machine: Machine) -> None:
    async def run() -> None:
        await locked_manager(machine)
        async with machine.daemon() as (member, manager, proxy):
            assert member.locked
            await end_manager(machine, manager)
        async with machine.daemon() as (member, manager, proxy):
            info = SwarmInfo(member, proxy)
            await info.refresh()
            assert info.block()["LocalNodeState"] == "locked"
            assert info.ping_state() == "locked"
            assert info.block()["ControlAvailable"] is False
            with pytest.raises(Locked, match="needs to be unlocked before it can be used"):
                member.require_manager()
            with pytest.raises(NotSwarmManager, match="already part of a swarm"):
                await member.init(INIT)
            with pytest.raises(Locked):
                await member.leave(force=False)
            for wrong in ("", "nonsense", new_unlock_key(os.urandom)):
                with pytest.raises((Unauthenticated, Locked)):
                    await member.unlock(wrong)
            assert member.locked
            await member.unlock(UNLOCK_KEY)
            member.require_manager()
            assert machine.command("run")["unlocked with"] == UNLOCK_KEY
            with pytest.raises(Conflict, match="swarm is not locked"):
                await member.unlock(UNLOCK_KEY)
            while manager.pids.qsize():
                manager.pids.get_nowait()
            await end_manager(machine, manager)
            async with asyncio.timeout(20):
                await manager.pids.get()
            assert not member.locked, "the daemon remembers the key while it lives"

    asyncio.run(run())


def test_the_first_of_many_managers_is_unlocked_before_there_is_a_leader(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await locked_manager(machine)
        async with machine.daemon() as (_, manager, _):
            await end_manager(machine, manager)
        monkeypatch.setenv("FAKE_NO_LEADER", "1")
        async with machine.daemon() as (member, _, _):
            await member.unlock(UNLOCK_KEY)
            assert not member.locked

    asyncio.run(run())


def test_a_daemon_started_anew_asks_the_manager_that_runs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_UNLOCK_KEY", UNLOCK_KEY)

    async def run() -> None:
        await locked_manager(machine)
        async with machine.daemon() as (member, _, _):
            assert not member.locked
            member.require_manager()

    asyncio.run(run())


def test_a_locked_manager_leaves_by_force_and_nothing_remains(machine: Machine) -> None:
    async def run() -> None:
        await locked_manager(machine)
        async with machine.daemon() as (member, manager, _):
            await end_manager(machine, manager)
            await member.leave(force=True)
            assert not machine.state_dir.exists()
            assert not member.locked
            with pytest.raises(Unavailable, match="not part of a swarm"):
                await member.unlock(UNLOCK_KEY)

    asyncio.run(run())


def test_two_managers_are_warned_of_and_no_other_number() -> None:
    assert [len(quorum_warnings(count)) for count in range(5)] == [0, 0, 1, 0, 0]
    assert "tolerate the loss of none" in quorum_warnings(2)[0]
