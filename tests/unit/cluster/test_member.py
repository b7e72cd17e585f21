"""Founding, joining, leaving, and the manager that outlives the daemon."""

import asyncio
import os
import signal
import stat
from typing import Any

import pytest

from manager.ca.certificates import new_token
from swarmapi.errors import (
    Forbidden,
    Internal,
    InvalidArgument,
    NotSwarmManager,
    Unavailable,
    Unsupported,
)
from tests.fakes.authority import FakeAuthority
from tests.fakes.pki import CertificateAuthority
from tests.unit.cluster.bench import Machine
from worker.cluster.requests import InitRequest, JoinRequest, decode_init

INIT = InitRequest(advertise_addr="127.0.0.1:1", listen_addr="127.0.0.1:2377")
TIMEOUT_S = 20


def token_for(ca: CertificateAuthority) -> str:
    return new_token(ca.ca_pem, lambda count: bytes(count))


def test_init_makes_a_manager_and_remembers_it(machine: Machine) -> None:
    async def run() -> None:
        async with machine.daemon() as (member, _, _):
            assert await member.init(INIT) == "n1"
            member.require_manager()
        stored = machine.files.load()
        assert stored is not None
        assert (stored.node_id, stored.role, stored.managers) == ("n1", "manager", ["127.0.0.1:1"])
        assert machine.command("run")["--advertise-addr"] == "127.0.0.1:1"
        assert machine.network.identities == [("n1", "127.0.0.1")]
        mode = (machine.state_dir / "node.key").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
        assert not (machine.files.directory / "node.key").exists(), "the manager has it, sealed"

    asyncio.run(run())


def test_a_second_init_is_refused(machine: Machine) -> None:
    async def run() -> None:
        async with machine.daemon() as (member, _, _):
            await member.init(INIT)
            with pytest.raises(NotSwarmManager, match="already part of a swarm"):
                await member.init(INIT)

    asyncio.run(run())


def test_a_refused_init_says_why_and_leaves_nothing(machine: Machine) -> None:
    async def run() -> None:
        async with machine.daemon() as (member, _, _):
            bad = InitRequest(advertise_addr="127.0.0.1:1", default_addr_pool=["nonsense"])
            with pytest.raises(Internal, match="--default-addr-pool: nonsense"):
                await member.init(bad)
            assert member.membership is None
            assert not machine.state_dir.exists()
            assert await member.init(INIT) == "n1"

    asyncio.run(run())


def test_the_manager_outlives_the_daemon_and_is_adopted(machine: Machine) -> None:
    async def run() -> None:
        async with machine.daemon() as (member, manager, _):
            await member.init(INIT)
            first = manager.pid()
        async with machine.daemon() as (member, manager, _), asyncio.timeout(TIMEOUT_S):
            assert await manager.pids.get() == first
            assert member.membership is not None

    asyncio.run(run())


def test_a_killed_manager_is_launched_again(machine: Machine) -> None:
    async def run() -> None:
        async with machine.daemon() as (member, manager, _), asyncio.timeout(TIMEOUT_S):
            await member.init(INIT)
            first = await manager.pids.get()
            assert await manager.pids.get() == first, "the keeper adopts what init launched"
            os.kill(first, signal.SIGKILL)
            second = await manager.pids.get()
            assert second not in (0, first)
            assert manager.pid() == second

    asyncio.run(run())


def test_a_manager_leaves_by_force_alone_and_then_forgets_all(machine: Machine) -> None:
    async def run() -> None:
        async with machine.daemon() as (member, manager, _):
            await member.init(INIT)
            machine.executor.containers["t1"] = asyncio.get_running_loop().create_future()
            with pytest.raises(Unavailable, match="attempting to leave the swarm"):
                await member.leave(force=False)
            assert member.membership is not None
            await member.leave(force=True)
            assert manager.pid() == 0
            assert not machine.files.directory.exists()
            assert not machine.state_dir.exists()
            assert machine.executor.containers == {}
            assert machine.network.tables == [{}]
            with pytest.raises(NotSwarmManager, match="swarm init"):
                member.require_manager()

    asyncio.run(run())


ZEROS: dict[str, Any] = {
    "Labels": None,
    "Orchestration": {},
    "Raft": {"ElectionTick": 0, "HeartbeatTick": 0},
    "Dispatcher": {"HeartbeatPeriod": 0},
    "EncryptionConfig": {"AutoLockManagers": False},
}
"""What the docker CLI sends of settings that nobody named."""


def test_a_manager_goes_on_alone_with_the_settings_it_is_told(machine: Machine) -> None:
    async def run() -> None:
        async with machine.daemon() as (member, _, _):
            await member.init(INIT)
            alone = InitRequest(
                listen_addr="0.0.0.0:2377",
                force_new_cluster=True,
                availability="drain",
                auto_lock_managers=True,
                spec={**ZEROS, "Orchestration": {"TaskHistoryRetentionLimit": 0}},
            )
            assert await member.init(alone) == "n1"
            assert machine.command("recover")["--advertise-addr"] == "127.0.0.1:1", "as before"
        (path, cluster), (node_path, node) = machine.updates()
        assert (path, node_path) == ("/swarm/update?version=7", "/nodes/n1/update?version=7")
        assert cluster["Orchestration"] == {"TaskHistoryRetentionLimit": 0}
        assert cluster["Dispatcher"] == {"HeartbeatPeriod": 3}, "not named: as it was"
        assert cluster["EncryptionConfig"] == {"AutoLockManagers": True}
        assert node == {"Role": "manager", "Availability": "drain"}

    asyncio.run(run())


def test_a_setting_that_is_refused_is_the_requests_fault_and_leaves_nothing(
    machine: Machine,
) -> None:
    async def run() -> None:
        async with machine.daemon() as (member, _, _):
            refused = InitRequest(advertise_addr="127.0.0.1:1", spec={"Name": "wrong"})
            with pytest.raises(InvalidArgument, match="Name: wrong"):
                await member.init(refused)
            assert member.membership is None
            assert not machine.state_dir.exists()

    asyncio.run(run())


def test_going_on_alone_leaves_what_no_request_names(machine: Machine) -> None:
    async def run() -> None:
        async with machine.daemon() as (member, _, _):
            await member.init(INIT)
            await member.init(InitRequest(force_new_cluster=True, spec=ZEROS))
        assert all(not body.get("Raft") for _, body in machine.updates())
        assert all(body["Orchestration"] for _, body in machine.updates())

    asyncio.run(run())


@pytest.mark.parametrize(
    "body", [{"DefaultAddrPool": ["10.9.0.0/16"], "SubnetSize": 24}, {"SubnetSize": 26}]
)
def test_what_a_cluster_that_goes_on_keeps_is_refused_by_name(body: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=f"{next(iter(body))}: a cluster that goes on keeps"):
        decode_init({**body, "ForceNewCluster": True})
    assert decode_init({"SubnetSize": 24, "ForceNewCluster": True}).force_new_cluster


def test_leaving_nothing_is_refused(machine: Machine) -> None:
    async def run() -> None:
        async with machine.daemon() as (member, _, _):
            with pytest.raises(Unavailable, match="not part of a swarm"):
                await member.leave(force=True)

    asyncio.run(run())


@pytest.mark.parametrize("role", ["worker", "manager"])
def test_the_token_decides_as_what_a_node_joins(machine: Machine, role: str) -> None:
    async def run() -> None:
        token = token_for(machine.ca)
        authority = FakeAuthority(machine.ca, {token: role})
        target = await authority.start()
        request = JoinRequest(remote_addrs=["127.0.0.1:1", target], join_token=token)
        async with machine.daemon() as (member, manager, _):
            await member.join(request)
            stored = machine.files.load()
            assert stored is not None
            assert (stored.node_id, stored.role) == ("node1", role)
            if role == "worker":
                assert manager.pid() == 0
                with pytest.raises(NotSwarmManager, match="Worker nodes can't be used"):
                    member.require_manager()
            else:
                assert machine.command("run")["--join"] == target
                assert (machine.state_dir / "node.pem").exists()
        await authority.stop()

    asyncio.run(run())


def test_a_token_of_another_cluster_leaves_the_node_as_it_was(machine: Machine) -> None:
    async def run() -> None:
        authority = FakeAuthority(machine.ca, {token_for(machine.ca): "worker"})
        target = await authority.start()
        foreign = token_for(CertificateAuthority())
        async with machine.daemon() as (member, _, _):
            with pytest.raises(Forbidden):
                await member.join(JoinRequest(remote_addrs=[target], join_token=foreign))
            assert member.membership is None
            assert not member.pending
            assert authority.requests == []
            assert not machine.files.directory.exists()
        await authority.stop()

    asyncio.run(run())
