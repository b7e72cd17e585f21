"""A node that is in a cluster: its agent, its manager and its certificate, kept going."""

import asyncio
import dataclasses
import logging
import platform
import random
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import grpc
from msgspec.structs import replace

from swarmapi.conversation import MESSAGE_OPTIONS
from swarmapi.errors import SwarmError, Unavailable
from swarmapi.identity import MANAGER, TLSMaterial, expect, renewal_due_ns
from swarmapi.ids import root_digest
from swarmapi.keyring import Locked
from swarmapi.model.objects import GenericShare
from swarmapi.model.tables import NetworkTable
from worker.agent.leases import NodeLeases
from worker.agent.ports import Clock, Executor
from worker.agent.reporter import Reporter
from worker.agent.secrets import NodeSecrets
from worker.agent.session import Agent, AgentParts, Place
from worker.agent.tasks import TaskTable
from worker.cluster import ca_client
from worker.cluster.ca_client import Applicant
from worker.cluster.description import describe
from worker.cluster.manager_process import ManagerProcess
from worker.cluster.state import ClusterFiles, Membership
from worker.engine.journal import Journal

log = logging.getLogger(__name__)
JOURNAL_NAME = "tasks.journal"
_RETRY_FIRST_S, _RETRY_MAX_S = 0.2, 10.0
_RENEW_CHECK_S = 3600.0
_LOST_NS = 15 * 10**9
"""Without a session for so long, a node asks whether the root was replaced meanwhile."""
_CANCEL_AGAIN_S = 0.5


class ClusterNetwork(Protocol):
    """What a node in a cluster needs of the machine's network."""

    async def identify(self, node_id: str, data_path_addr: str) -> None: ...
    async def set_tables(self, tables: Mapping[str, NetworkTable]) -> dict[str, int]: ...
    async def caught_up(self) -> dict[str, int]: ...
    def drift_repaired_total(self) -> int: ...


async def _nothing() -> None:
    """Stand for a machine without containers of its own."""


@dataclass(frozen=True)
class NodeParts:
    """What a node is built from."""

    files: ClusterFiles
    manager: ManagerProcess
    network: ClusterNetwork
    executor: Executor
    secrets: NodeSecrets
    leases: NodeLeases
    clock: Clock
    labels: Mapping[str, str] = field(default_factory=dict)
    generic: tuple[GenericShare, ...] = ()
    """Of this machine's engine; placement constraints may name them."""
    let_go: Callable[[], Awaitable[None]] = _nothing
    """Takes this machine's own containers off the cluster's networks."""


@dataclass(frozen=True)
class Trust:
    """What the leader wants this node to trust, and whose certificate it wants it to have when."""

    roots_pem: bytes
    issuer: str = ""
    due_ns: int = 0


class RunningNode:
    """Everything that runs because this machine is in a cluster."""

    def __init__(self, parts: NodeParts, membership: Membership, tls: TLSMaterial) -> None:
        self._parts = parts
        self.membership = membership
        self._tls = tls
        self.manager_error = ""
        """Why the local manager does not run; empty when it does."""
        self._reporter = Reporter()
        journal = Journal(parts.files.directory / JOURNAL_NAME)
        self._tasks = TaskTable(journal, parts.executor, parts.clock, self._reporter.put)
        self._agent = self._new_agent()
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._store_role = membership.role
        self.locked = False
        """Whether the manager waits for its unlock key."""
        self._unlocked = asyncio.Event()
        self._renew = asyncio.Event()
        self._trust = Trust(tls.ca_pem)

    @property
    def session_id(self) -> str:
        """Of the session with the leader; empty while there is none."""
        return self._agent.session_id

    async def start(self) -> None:
        """Take up the tasks of this machine and keep everything going in the background."""
        here = self.membership
        await self._parts.network.identify(here.node_id, here.data_path_addr)
        self._tasks.open()
        self._begin("agent", self._agent.run)
        self._begin("certificate", self._keep_certificate)
        if here.is_manager:
            self._begin("manager", self._keep_manager)

    async def stop(self) -> None:
        """Let go; containers and the manager go on."""
        for name in list(self._jobs):
            await self._end(name)
        await self._tasks.close()

    def _begin(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        self._jobs[name] = asyncio.create_task(_restarting(name, job), name=f"cluster {name}")

    async def _end(self, name: str) -> None:
        job = self._jobs.pop(name, None)
        while job is not None and not job.done():
            # More than once: gRPC may answer a cancellation with an error of its own, which the
            # job takes for the end of a session.
            job.cancel()
            await asyncio.wait([job], timeout=_CANCEL_AGAIN_S)

    # The agent

    def _new_agent(self) -> Agent:
        return Agent(
            AgentParts(
                place=self._place,
                tasks=self._tasks,
                reporter=self._reporter,
                tables=self._parts.network,
                secrets=self._parts.secrets,
                logs=self._parts.executor,
                leases=self._parts.leases,
                execs=self._parts.executor,
                vantages=self._parts.executor.vantages,
                channel=lambda target: channel_to(target, self._tls),
                managers=list(self.membership.managers),
                save_managers=self._save_managers,
                clock=self._parts.clock,
                on_role=self._on_role,
                shown=lambda: (self._tls.cert_pem, self._tls.ca_pem),
                on_trust=self._on_trust,
            )
        )

    def _place(self) -> Place:
        return Place(
            describe(self._parts.labels, self._parts.generic),
            self.membership.address,
            self.membership.data_path_addr,
        )

    async def _save_managers(self, managers: list[str]) -> None:
        await self._save(replace(self.membership, managers=managers))

    def _on_role(self, role: str) -> None:
        if role not in ("", self._store_role):
            self._store_role = role
            self._renew.set()

    def _on_trust(self, roots_pem: bytes, issuer: str, within_s: float) -> None:
        if (roots_pem, issuer) != (self._trust.roots_pem, self._trust.issuer):
            due_ns = self._parts.clock.now_ns() + int(random.uniform(0, within_s) * 1e9)
            self._trust = Trust(roots_pem, issuer, due_ns)
            self._renew.set()

    async def _save(self, membership: Membership) -> None:
        self.membership = membership
        await asyncio.to_thread(self._parts.files.save, membership)

    # The manager

    async def _keep_manager(self) -> None:
        """Adopt or launch the manager, and launch it anew whenever it ends."""
        retry_s = _RETRY_FIRST_S
        while True:
            try:
                pid = await self._parts.manager.ensure(run_arguments(self.membership))
            except Locked as error:
                self.locked, self.manager_error = True, error.message
                log.warning("the manager does not run: its keys are locked")
                self._unlocked.clear()
                await self._unlocked.wait()
                continue
            except (Unavailable, OSError) as error:
                self.manager_error = str(error)
                log.warning("the manager does not run: %s", error)
                await self._parts.clock.sleep(retry_s)
                retry_s = min(_RETRY_MAX_S, 2 * retry_s)
                continue
            self.locked, self.manager_error = False, ""
            self._tls = await self._parts.manager.keys.load_tls()  # it may have made itself one
            started_ns = self._parts.clock.now_ns()
            await self._parts.manager.ended(pid)
            log.warning("manager %d ended", pid)
            ran_s = (self._parts.clock.now_ns() - started_ns) / 1e9
            retry_s = _RETRY_FIRST_S if ran_s > _RETRY_MAX_S else min(_RETRY_MAX_S, 2 * retry_s)
            await self._parts.clock.sleep(retry_s)

    def try_unlocked(self) -> None:
        """Launch the manager now: its unlock key has been told."""
        self._unlocked.set()

    # The certificate

    async def _keep_certificate(self) -> None:
        """Renew when half the lifetime is over, and at once when the store's role differs."""
        retry_s = _RETRY_FIRST_S
        heard_ns = self._parts.clock.now_ns()
        while True:
            try:
                await self._take_roots()
                now_ns = self._parts.clock.now_ns()
                due_ns = renewal_due_ns(self._tls.cert_pem)
                if self._trust.issuer not in ("", ca_client.issuer_of(self._tls)):
                    due_ns = min(due_ns, self._trust.due_ns)
                if self.session_id:
                    heard_ns = now_ns
                is_lost = now_ns - heard_ns > _LOST_NS
                manager = self._some_manager(elsewhere=is_lost)
                is_outdated = is_lost and await self._is_outdated(manager)
                left_s = (due_ns - now_ns) / 1e9
                if self._store_role == self.membership.role and left_s > 0 and not is_outdated:
                    most_s = _RENEW_CHECK_S if self.session_id else _LOST_NS / 1e9
                    await self._wait_for_renewal(min(left_s, most_s))
                    continue
                issued = await ca_client.renew(
                    manager, self._tls, self._applicant(), now_ns, is_outdated=is_outdated
                )
                await self._save_certificate(issued)
            except SwarmError as error:
                log.warning("the certificate is not renewed: %s", error.message)
                await self._parts.clock.sleep(retry_s)
                retry_s = min(_RETRY_MAX_S, 2 * retry_s)
                continue
            retry_s = _RETRY_FIRST_S
            await self._take_certificate(issued)
            heard_ns = now_ns  # whether there is another one yet is asked for no sooner again

    async def _take_roots(self) -> None:
        """Trust what the leader said, here and in the manager."""
        if self._trust.roots_pem == self._tls.ca_pem:
            return
        tls = dataclasses.replace(self._tls, ca_pem=self._trust.roots_pem)
        if self.membership.is_manager:
            await self._parts.manager.keys.save_tls(tls)
            if not await self._manager_takes_it():
                # What it trusts is told below: one that goes on with the former roots would be
                # cut off from the others once these are dropped.
                await self._end("manager")
                await self._parts.manager.stop()
                self._begin("manager", self._keep_manager)
        else:
            await asyncio.to_thread(self._parts.files.save_tls, tls)
        self._tls = tls
        log.info("the roots that this node trusts have changed")
        self._agent.tell_certificate()

    def _some_manager(self, *, elsewhere: bool) -> str:
        here = self.membership
        others = [m for m in here.managers if m != here.advertise_addr]
        return random.choice((elsewhere and others) or here.managers)

    async def _is_outdated(self, manager: str) -> bool:
        """Tell whether the root of our certificate was replaced while this node was away.

        Raises Unavailable.
        """
        root_pem = await ca_client.root_in_force(manager, self._tls)
        return root_digest(root_pem) != ca_client.issuer_of(self._tls)

    async def _wait_for_renewal(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._renew.wait()
        except TimeoutError:
            return
        self._renew.clear()

    def _applicant(self) -> Applicant:
        return Applicant(self.membership.advertise_addr, platform.node())

    async def _save_certificate(self, issued: ca_client.Issued) -> None:
        if issued.role == "manager":
            await self._parts.manager.keys.save_tls(issued.tls)
        else:
            await asyncio.to_thread(self._parts.files.save_tls, issued.tls)

    async def _take_certificate(self, issued: ca_client.Issued) -> None:
        """Go on with a new certificate, which is saved; a manager takes it as it runs, or ends."""
        before = self.membership
        log.info("certificate renewed as %s", issued.role)
        self._tls = issued.tls
        self._trust = dataclasses.replace(self._trust, roots_pem=issued.tls.ca_pem)
        self._store_role = issued.role
        joins = issued.role == "manager" and not before.is_manager
        managers = issued.managers or before.managers
        join_addr = random.choice(managers) if joins else before.join_addr
        await self._save(replace(before, role=issued.role, managers=managers, join_addr=join_addr))
        if before.is_manager and issued.role == "manager" and await self._manager_takes_it():
            self._agent.tell_certificate()
            return
        if before.is_manager:
            await self._end("manager")
            await self._parts.manager.stop()
        if issued.role == "manager":
            await asyncio.to_thread(self._parts.files.forget_key)
            self._begin("manager", self._keep_manager)
        elif before.is_manager:
            await asyncio.to_thread(shutil.rmtree, self._parts.manager.state_dir, True)
        self._agent.tell_certificate()

    async def _manager_takes_it(self) -> bool:
        try:
            await self._parts.manager.keys.renewed()
        except Unavailable as error:
            log.warning("the manager starts anew with its certificate: %s", error.message)
            return False
        return True


def channel_to(target: str, tls: TLSMaterial) -> grpc.aio.Channel:
    """Return a channel to a manager's `host:port`."""
    options = [expect(MANAGER), *MESSAGE_OPTIONS]
    return grpc.aio.secure_channel(target, tls.client(), options=options)


def run_arguments(membership: Membership) -> list[str]:
    """Return the flags of `swarm-manager run` beyond its directories."""
    arguments = [
        "--listen-addr",
        membership.listen_addr,
        "--advertise-addr",
        membership.advertise_addr,
    ]
    if membership.join_addr:
        arguments += ["--join", membership.join_addr]
    for address in membership.managers:
        if address != membership.advertise_addr:
            arguments += ["--known", address]
    return arguments


async def _restarting(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Run a job that has no end; a bug in it is logged, and it begins again."""
    while True:
        try:
            await job()
        except Exception:
            log.exception("the cluster's %s failed", name)
        await asyncio.sleep(1)
