"""Entering and leaving a cluster."""

import asyncio
import logging
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from swarmapi.errors import (
    Conflict,
    Internal,
    InvalidArgument,
    NotSwarmManager,
    SwarmError,
    Unavailable,
)
from swarmapi.identity import TLSMaterial
from swarmapi.keyring import Locked
from worker.cluster import addresses, ca_client
from worker.cluster.ca_client import Applicant
from worker.cluster.proxy import ManagerProxy
from worker.cluster.requests import InitRequest, JoinRequest, with_settings
from worker.cluster.running import NodeParts, RunningNode, run_arguments
from worker.cluster.state import Membership
from worker.cluster.tokens import JoinToken

log = logging.getLogger(__name__)
ALREADY_IN = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm '
    "and join another one."
)
NOT_IN = "This node is not part of a swarm"
NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
    "connect this node to swarm and try again."
)
A_WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster "
    "state. Please run this command on a manager node or promote the current node to a manager."
)
_READY_TIMEOUT_S = 30.0
_OWN_LOG = "/swarm/v1/raft"
"""A manager answers it also while there is no leader."""
_POLL_S = 0.1


class Addresses:
    """The daemon's own settings, which a request may override."""

    def __init__(
        self,
        listen: str = "",
        advertise: str = "",
        data_path: str = "",
        pools: Sequence[str] = (),
    ) -> None:
        self.listen = listen
        self.advertise = advertise
        self.data_path = data_path
        self.pools = tuple(pools)

    def choose(self, request: InitRequest | JoinRequest, towards: str = "") -> tuple[str, str, str]:
        """Return (listen, advertise, data path) addresses; raises InvalidArgument."""
        listen = addresses.listening(request.listen_addr or self.listen)
        wanted = request.advertise_addr or self.advertise
        if towards:
            host, port = addresses.split(towards)
            advertise = addresses.advertised(wanted, listen, host, port)
        else:
            advertise = addresses.advertised(wanted, listen)
        data_path = request.data_path_addr or self.data_path
        own = advertise.rpartition(":")[0]
        return listen, advertise, addresses.resolve(data_path) if data_path else own


class Member:
    """This machine's membership. Calls that change it are served one after the other."""

    def __init__(self, parts: NodeParts, proxy: ManagerProxy, settings: Addresses) -> None:
        self._parts = parts
        self._proxy = proxy
        self._settings = settings
        self._lock = asyncio.Lock()
        self.node: RunningNode | None = None
        self._locked: Membership | None = None
        """What is stored of a manager whose keys nobody has unlocked since the start."""
        self.pending = False
        """True while init or join is on its way."""

    @property
    def scratch(self) -> Path:
        """Return a directory of this daemon's, for root alone, where a backup may lie a while."""
        directory = self._parts.files.directory.parent / "scratch"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return directory

    @property
    def membership(self) -> Membership | None:
        """What is known of the membership, None outside a cluster."""
        return self.node.membership if self.node is not None else None

    async def start(self) -> None:
        """Take up the membership that is stored, if there is one."""
        stored = await asyncio.to_thread(self._parts.files.load)
        if stored is None:
            return
        try:
            await self._run(stored, await self._stored_tls(stored))
        except Locked:
            log.warning("this node is locked: it waits for swarm unlock")
            self._locked = stored

    async def _stored_tls(self, stored: Membership) -> TLSMaterial:
        if not stored.is_manager:
            return await asyncio.to_thread(self._parts.files.load_tls)
        try:
            return await self._parts.manager.keys.load_tls()
        finally:
            await asyncio.to_thread(self._parts.files.forget_key)

    @property
    def locked(self) -> bool:
        """Whether this manager waits for its unlock key."""
        return self._locked is not None or (self.node is not None and self.node.locked)

    async def unlock(self, unlock_key: str) -> None:
        """Go on as a manager whose keys were locked; a leader may need others unlocked, too.

        Raises:
            Conflict: it is not locked, as Docker says it.
            Unauthenticated: it is another key.
        """
        async with self._lock:
            if not self.locked:
                if self.node is None:
                    raise Unavailable(NOT_IN)
                raise Conflict("swarm is not locked")
            await self._parts.manager.keys.unlock(unlock_key)
            if self._locked is not None:
                await self._run(self._locked, await self._stored_tls(self._locked))
                self._locked = None
            elif self.node is not None:
                self.node.try_unlocked()
            await self._await_manager(_OWN_LOG)

    async def stop(self) -> None:
        """Let go; containers and the manager go on."""
        if self.node is not None:
            await self.node.stop()
            self.node = None

    def require_manager(self) -> None:
        """Raise NotSwarmManager, in Docker's words, unless this node is a manager."""
        if self.locked:
            raise Locked
        here = self.membership
        if here is None:
            raise NotSwarmManager(NOT_A_MANAGER)
        if not here.is_manager:
            raise NotSwarmManager(A_WORKER)

    async def init(self, request: InitRequest) -> str:
        """Found a cluster with this machine as its first manager; return the node id.

        Raises:
            NotSwarmManager: when it is in one already.
            InvalidArgument, Internal, Unavailable: when it cannot be founded; nothing remains.
        """
        if request.force_new_cluster and (self.node is not None or self.locked):
            return await self._go_on_alone(request)
        async with self._entering():
            listen, advertise, data_path = self._settings.choose(request)
            pools = request.default_addr_pool or list(self._settings.pools)
            request = replace(request, default_addr_pool=pools)
            try:
                tls = await self._parts.manager.found(listen, advertise, request)
                identity = tls.identity
                membership = Membership(
                    node_id=identity.node_id,
                    cluster_id=identity.cluster_id,
                    role="manager",
                    managers=[advertise],
                    listen_addr=listen,
                    advertise_addr=advertise,
                    data_path_addr=data_path,
                )
                await self._parts.manager.ensure(run_arguments(membership))
                await self._await_manager(f"/nodes/{membership.node_id}")
                await self._apply_settings(request, membership.node_id)
                await self._enter(membership, tls)
            except BaseException:
                await self._undo()
                raise
            return membership.node_id

    async def _go_on_alone(self, request: InitRequest) -> str:
        """Make this manager a cluster of itself with all services; return the node id.

        Raises:
            NotSwarmManager: on a worker, and Locked on a locked manager.
            Internal: the state cannot be recovered, and the manager runs as before; or it goes on
                alone, and a setting of the request is refused.
        """
        async with self._lock:
            self.require_manager()
            before, node = self.membership, self.node
            assert before is not None
            assert node is not None
            listen, advertise, data_path = self._settings.choose(_as_before(request, before))
            await self._parts.manager.keys.unlock_key()  # while the manager can be asked
            await node.stop()
            self.node = None
            await self._parts.manager.stop()
            try:
                told = await self._parts.manager.recover(advertise)
            except BaseException:
                await self._run(before, await self._stored_tls(before))
                raise
            log.warning("this manager goes on alone: %s", told)
            after = _first_of(told, listen, advertise, data_path)
            await asyncio.to_thread(self._parts.files.save, after)
            await self._run(after, await self._stored_tls(after))
            await self._await_manager(f"/nodes/{after.node_id}")
            await self._apply_settings(request, after.node_id)
            return after.node_id

    async def restore(self, backup: Path, request: InitRequest, unlock_key: str) -> str:
        """Go on with a cluster from a backup, this machine its one manager; return the node id.

        Raises:
            NotSwarmManager: when it is in one already.
            Internal: the backup cannot be restored; nothing remains.
        """
        async with self._entering():
            listen, advertise, data_path = self._settings.choose(request)
            try:
                told = await self._parts.manager.restore(backup, advertise, unlock_key)
                membership = _first_of(told, listen, advertise, data_path)
                tls = await self._parts.manager.keys.load_tls()
                await self._parts.manager.ensure(run_arguments(membership))
                await self._await_manager(f"/nodes/{membership.node_id}")
                await self._enter(membership, tls)
            except BaseException:
                await self._undo()
                raise
            return membership.node_id

    async def join(self, request: JoinRequest) -> None:
        """Join a cluster; the token decides as what.

        Raises:
            NotSwarmManager: when the node is in one already.
            Internal, Forbidden, Unavailable: when it cannot be joined; nothing remains.
        """
        async with self._entering():
            token = JoinToken.parse(request.join_token)
            listen, advertise, data_path = self._settings.choose(request, request.remote_addrs[0])
            applicant = Applicant(advertise, platform.node(), request.availability or "active")
            issued, remote = await _first_answer(request.remote_addrs, token, applicant)
            membership = Membership(
                node_id=issued.node_id,
                cluster_id=issued.cluster_id,
                role=issued.role,
                managers=issued.managers or [remote],
                listen_addr=listen,
                advertise_addr=advertise,
                data_path_addr=data_path,
                join_addr=remote if issued.role == "manager" else "",
            )
            try:
                if membership.is_manager:
                    await self._parts.manager.keys.save_tls(issued.tls)
                    await self._parts.manager.ensure(run_arguments(membership))
                await self._enter(membership, issued.tls)
            except BaseException:
                await self._undo()
                raise
            if membership.is_manager:
                await self._await_manager(f"/nodes/{membership.node_id}")

    async def leave(self, *, force: bool) -> None:
        """Leave the cluster and forget it; its tasks' containers are removed.

        Raises:
            Unavailable: outside a cluster; on a manager without `force`.
        """
        async with self._lock:
            if self._locked is not None:
                if not force:
                    raise Locked
                self._locked = None
                await self._undo()
                return
            here = self.membership
            if here is None or self.node is None:
                raise Unavailable(NOT_IN)
            if here.is_manager:
                await self._tell_manager(force=force)
            await self._parts.let_go()
            await self._parts.leases.give_back()
            await self.node.stop()
            self.node = None
            await self._undo()

    async def _tell_manager(self, *, force: bool) -> None:
        try:
            status, body = await self._proxy.call("POST", f"/swarm/leave?force={int(force)}")
        except Unavailable:
            if not force:
                raise
            log.warning("leaving without the manager's consent")
            return
        if status >= 400:
            message = _message(body) or f"status {status}"
            if not force:
                raise Unavailable(message)
            log.warning("leaving by force; the cluster said: %s", message)

    async def _undo(self) -> None:
        """Take every trace of a membership away."""
        await self._parts.manager.stop()
        for task_id in await self._parts.executor.known_tasks():
            await self._parts.executor.remove(task_id)
        self._parts.secrets.clear()
        await self._parts.network.set_tables({})
        await asyncio.to_thread(self._parts.files.erase)
        await asyncio.to_thread(_remove_tree, self._parts.manager.state_dir)

    async def _enter(self, membership: Membership, tls: TLSMaterial) -> None:
        if not membership.is_manager:
            await asyncio.to_thread(self._parts.files.save_tls, tls)
        await asyncio.to_thread(self._parts.files.save, membership)
        await self._run(membership, tls)

    async def _run(self, membership: Membership, tls: TLSMaterial) -> None:
        node = RunningNode(self._parts, membership, tls)
        await node.start()
        self.node = node

    async def _await_manager(self, path: str) -> None:
        """Return when the local manager answers a request."""
        failure = ""
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                while True:
                    try:
                        status, body = await self._proxy.call("GET", path)
                        if status == 200:
                            return
                        failure = _message(body) or f"status {status}"
                    except Unavailable as error:
                        failure = error.message
                    await self._parts.clock.sleep(_POLL_S)
        except TimeoutError:
            raise Unavailable(
                f"the manager did not become ready in {_READY_TIMEOUT_S:.0f} s: {failure}"
            ) from None

    async def _apply_settings(self, request: InitRequest, node_id: str) -> None:
        """Give the cluster what the request's spec names, and its node the availability."""
        wanted = dict(request.spec or {})
        if request.auto_lock_managers:
            wanted["EncryptionConfig"] = {"AutoLockManagers": True}
        if any(wanted.values()):
            cluster = await self._ask("GET", "/swarm")
            version, old = cluster["Version"]["Index"], cluster["Spec"]
            spec = with_settings(old, wanted)
            if spec != old:
                await self._ask("POST", f"/swarm/update?version={version}", spec)
        if request.availability:
            node = await self._ask("GET", f"/nodes/{node_id}")
            version, old = node["Version"]["Index"], node["Spec"]
            if old["Availability"] != request.availability:
                spec = {**old, "Availability": request.availability}
                await self._ask("POST", f"/nodes/{node_id}/update?version={version}", spec)

    async def _ask(self, method: str, url: str, body: object = None) -> dict[str, Any]:
        status, answer = await self._proxy.call(method, url, body=body)
        if status >= 400:
            error = InvalidArgument if status == 400 else Internal
            raise error(_message(answer) or f"{method} {url}: status {status}")
        return answer if isinstance(answer, dict) else {}

    def _entering(self) -> "_Entering":
        return _Entering(self, self._lock)


class _Entering:
    """Holds the lock of a membership while it is made; refuses a second one."""

    def __init__(self, member: Member, lock: asyncio.Lock) -> None:
        self._member = member
        self._lock = lock

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        if self._member.node is not None or self._member.locked:
            self._lock.release()
            raise NotSwarmManager(ALREADY_IN)
        self._member.pending = True

    async def __aexit__(self, *_: object) -> None:
        self._member.pending = False
        self._lock.release()


def _as_before(request: InitRequest, before: Membership) -> InitRequest:
    """Return a request with a member's present addresses where it does not name one to advertise.

    Clients send a listen address always.
    """
    if request.advertise_addr:
        return request
    return replace(
        request,
        advertise_addr=before.advertise_addr,
        listen_addr=request.listen_addr or before.listen_addr,
        data_path_addr=request.data_path_addr or before.data_path_addr,
    )


def _first_of(told: dict[str, Any], listen: str, advertise: str, data_path: str) -> Membership:
    """Return the membership of a cluster's one manager."""
    return Membership(
        node_id=str(told["node_id"]),
        cluster_id=str(told["cluster_id"]),
        role="manager",
        managers=[advertise],
        listen_addr=listen,
        advertise_addr=advertise,
        data_path_addr=data_path,
    )


async def _first_answer(
    managers: list[str], token: JoinToken, applicant: Applicant
) -> tuple[ca_client.Issued, str]:
    """Join through the first manager that answers; return it with the certificate."""
    failure: SwarmError | None = None
    for manager in managers:
        host, port = addresses.split(manager)
        try:
            return await ca_client.join(f"{host}:{port}", token, applicant), f"{host}:{port}"
        except Unavailable as error:
            failure = error
    raise failure or Unavailable("no manager to join through is named")


def _message(body: object) -> str:
    return str(body.get("message", "")) if isinstance(body, dict) else ""


def _remove_tree(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
