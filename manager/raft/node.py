"""The replicated log as the manager's API loop sees it: propose, read, members, status."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from manager.raft.core import RaftCore
from manager.raft.member import MemberSettings, MemberThread
from manager.raft.outcomes import (
    Applied,
    Done,
    FreezeWanted,
    Outcome,
    RaftStatus,
    Restored,
    Standing,
)
from manager.raft.ports import Frozen
from manager.raft.replication import RaftConfig
from swarmapi.errors import InvalidArgument, Unavailable
from swarmapi.identity import LiveTLS
from swarmapi.keyring import Keyring

_TRANSFER_TIMEOUT_S: Final = 5.0
_TRANSFER_RETRY_S: Final = 0.05
_EXIT_HALTED: Final = 70
_log = logging.getLogger(__name__)


class Machine(Protocol):
    """The state behind the log; every method is called in the API loop and must not raise."""

    def apply(self, batch: Sequence[Applied]) -> None:
        """Apply committed entries in order; those with an empty payload are not for the state."""

    def freeze(self) -> Iterable[bytes]:
        """Return the present state in parts, which are drawn later, in another thread."""

    def restore(self, parts: Iterable[bytes]) -> None:
        """Replace the state by a frozen one."""


def _exit(error: BaseException) -> None:
    """End the process at once: what a failed sync or a damaged log left in memory is not true."""
    os._exit(_EXIT_HALTED)


class RaftNode:
    """This manager's member of the replicated log. Everything is for the API loop.

    `address` is where the other members reach this one's Raft port. `bootstrap` starts a new
    cluster of this member alone; otherwise it waits to be added by a leader. With state in
    `state_dir` it says nothing. With a `keyring` the state is sealed. `on_halt` is called in the
    Raft thread when the member cannot go on; the default ends the process.
    """

    def __init__(
        self,
        *,
        node_id: str,
        address: str,
        state_dir: Path,
        machine: Machine,
        tls: LiveTLS,
        bootstrap: bool = False,
        config: RaftConfig | None = None,
        listen_address: str = "",
        on_halt: Callable[[BaseException], None] = _exit,
        keyring: Keyring | None = None,
    ) -> None:
        self._node_id = node_id
        self._machine = machine
        self._config = config or RaftConfig()
        self._settings = MemberSettings(
            node_id,
            address,
            listen_address or address,
            state_dir,
            tls,
            bootstrap,
            self._config,
            keyring,
        )
        self._on_halt = on_halt
        self._status = RaftStatus()
        self._members: dict[str, str] = {}
        self._callbacks: list[Callable[[RaftStatus], None]] = []
        self._changed: list[asyncio.Future[None]] = []
        self._pending: set[asyncio.Future[int]] = set()
        self._pending_bytes = 0
        self._queue: list[Callable[[RaftCore], None]] = []
        self._applied_index = 0
        self._thread: MemberThread | None = None
        self._loop: asyncio.AbstractEventLoop

    async def start(self, *, mute: bool = False) -> None:
        """Start the member; `mute`: it lost what it had (see `speak_from`).

        Raises:
            Corrupt: the state on the disk is damaged.
            OSError: it cannot be read, or the port cannot be had.
        """
        self._loop = asyncio.get_running_loop()
        settings = replace(self._settings, mute=mute)
        thread = MemberThread(settings, self._deliver, self._on_halt)
        await thread.start()
        self._thread = thread

    async def stop(self) -> None:
        """Stop the member; what is in flight ends with Unavailable."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.stop()
        for future in tuple(self._pending):
            if not future.done():
                future.set_exception(Unavailable("the replicated log was stopped"))

    @property
    def status(self) -> RaftStatus:
        """The status as of the last applied batch."""
        return self._status

    def on_status(self, callback: Callable[[RaftStatus], None]) -> None:
        """Call back when leader, leadership, readiness or term change."""
        self._callbacks.append(callback)

    def members(self) -> dict[str, str]:
        """Return the addresses of the members' Raft ports by node id."""
        return dict(self._members)

    async def propose(self, payload: bytes) -> int:
        """Commit a command; return its index after the machine applied it here.

        Raises:
            InvalidArgument: the command is empty or too large.
            NotLeader: another member leads, or none.
            OutcomeUnknown: leadership was lost on the way; it may be committed.
            Unavailable: the disk is full, too much is in flight, or the log is not running.
        """
        if not payload:
            raise InvalidArgument("an empty command cannot be proposed")
        if len(payload) > self._config.command_max_bytes:
            raise InvalidArgument(
                f"change has {len(payload)} bytes, at most {self._config.command_max_bytes}"
                " fit into the log; split it"
            )
        thread = self._running()
        if self._status.disk_full:
            raise Unavailable(self._status.disk_full)
        full = len(self._pending) >= self._config.pending_max
        if full or self._pending_bytes + len(payload) > self._config.pending_max_bytes:
            raise Unavailable(
                f"{len(self._pending)} changes ({self._pending_bytes} bytes) are in flight; retry"
            )
        self._pending_bytes += len(payload)
        try:
            return await self._ask(lambda core, future: thread.propose(core, future, payload))
        finally:
            self._pending_bytes -= len(payload)

    async def read_index(self) -> int:
        """Return once the machine's state is as new as any write acknowledged before the call.

        Raises NotLeader, Unavailable.
        """
        return await self._ask(self._running().read_index)

    async def add_member(self, node_id: str, address: str) -> int:
        """Add a running member, if it is none at this address; return an entry behind that.

        Raises:
            NotLeader, OutcomeUnknown.
            FailedPrecondition: it is a member elsewhere, or another change is under way.
            Unavailable: it does not answer at `address`.
        """
        thread = self._running()
        return await self._ask(
            lambda core, future: thread.change_members(core, future, True, node_id, address)
        )

    async def release(self, node_id: str) -> int:
        """Remove a member that lost its log; return an entry behind its removal.

        What it acknowledged or voted before counts no more. With that entry it listens again (see
        `speak_from`); then it is to be added anew.

        Raises:
            NotLeader, OutcomeUnknown, Unavailable.
            FailedPrecondition: the others are no quorum without it, or another change is under way.
        """
        thread = self._running()
        return await self._ask(lambda core, future: thread.release(core, future, node_id))

    async def speak_from(self, index: int) -> None:
        """Have a mute member listen; return once it has applied an entry, and votes."""
        thread = self._running()
        await self._ask(lambda core, future: thread.speak_from(core, future, index))

    async def remove_member(self, node_id: str) -> None:
        """Remove a member; nothing to do when it is none.

        Raises:
            NotLeader, OutcomeUnknown.
            FailedPrecondition: it is the leader, or another change is under way.
        """
        thread = self._running()
        await self._ask(
            lambda core, future: thread.change_members(core, future, False, node_id, "")
        )

    async def reseal(self) -> None:
        """Return once everything on the disk is sealed with the newest key of the ring."""
        await self._ask(self._running().reseal)

    async def listen(self, address: str) -> None:
        """Take links on another address, with the present TLS material. Raises OSError."""
        await self._running().listen(address)

    def tune(self, snapshot_entries: int, keep_entries: int, keep_old: int) -> None:
        """Set the entries between snapshots and behind one, and the old snapshots kept."""
        thread = self._running()
        self._config = replace(
            self._config, snapshot_entries=snapshot_entries, keep_entries=keep_entries
        )
        config = self._config
        thread.post([lambda core: thread.tune(core, config, keep_old)])

    async def transfer_leadership(self, to: str | None = None) -> None:
        """Hand the leadership to `to`, or to the member with the most of the log.

        Raises:
            NotLeader.
            InvalidArgument: `to` is not another member.
            Unavailable: nobody took over in time.
        """
        if to is not None and (to == self._node_id or to not in self._members):
            raise InvalidArgument(f"node {to} is not another member of the log")
        thread = self._running()
        try:
            async with asyncio.timeout(_TRANSFER_TIMEOUT_S):
                asked = False
                while not asked:
                    asked = bool(
                        await self._ask(lambda core, future: thread.transfer(core, future, to))
                    )
                    if not asked:  # until a follower has caught up
                        await asyncio.sleep(_TRANSFER_RETRY_S)
                while self._status.leader_id in ("", self._node_id):
                    changed: asyncio.Future[None] = self._loop.create_future()
                    self._changed.append(changed)
                    await changed
        except TimeoutError:
            target = "no member" if to is None else f"node {to} did not"
            raise Unavailable(f"{target} took over within {_TRANSFER_TIMEOUT_S} s") from None

    def _running(self) -> MemberThread:
        if self._thread is None:
            raise Unavailable("the replicated log is not running")
        return self._thread

    async def _ask(self, act: Callable[[RaftCore, "asyncio.Future[int]"], None]) -> int:
        future: asyncio.Future[int] = self._loop.create_future()
        self._pending.add(future)
        if not self._queue:
            self._loop.call_soon(self._hand_over)
        self._queue.append(lambda core: act(core, future))
        try:
            return await future
        finally:
            self._pending.discard(future)

    def _hand_over(self) -> None:
        queue, self._queue = self._queue, []
        if self._thread is not None:
            self._thread.post(queue)

    # Outcomes

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """Pass outcomes from the Raft thread to the API loop."""
        try:
            self._loop.call_soon_threadsafe(self._take, outcomes)
        except RuntimeError:
            _log.warning("raft outcomes dropped: the API loop is closed")

    def _take(self, outcomes: list[Outcome]) -> None:
        try:
            self._take_all(outcomes)
        except Exception as error:  # noqa: BLE001 - a machine that failed must not go on
            _log.critical("state machine failed, this member halts", exc_info=error)
            self._on_halt(error)

    def _take_all(self, outcomes: list[Outcome]) -> None:
        batch: list[Applied] = []
        answers: list[Done] = []
        for outcome in outcomes:
            match outcome:
                case Applied():
                    batch.append(outcome)
                case Done():
                    answers.append(outcome)
                case Restored():
                    self._apply(batch)
                    batch = []
                    self._machine.restore(outcome.parts)
                    self._applied_index = outcome.index
                case FreezeWanted():
                    self._apply(batch)
                    batch = []
                    self._offer_frozen()
                case Standing():
                    self._apply(batch)
                    batch = []
                    self._members = outcome.members
                    self._set_status(outcome.status)
        self._apply(batch)
        for answer in answers:
            _resolve(answer)

    def _apply(self, batch: list[Applied]) -> None:
        if batch:
            self._machine.apply(batch)
            self._applied_index = batch[-1].index

    def _offer_frozen(self) -> None:
        if self._thread is not None:
            self._thread.offer_frozen(Frozen(self._applied_index, self._machine.freeze()))

    def _set_status(self, status: RaftStatus) -> None:
        before, self._status = self._status, status
        if before[:5] == status[:5]:
            return
        changed, self._changed = self._changed, []
        for future in changed:
            if not future.done():
                future.set_result(None)
        for callback in tuple(self._callbacks):
            callback(status)


def _resolve(answer: Done) -> None:
    if answer.future.done():
        return
    if isinstance(answer.result, Exception):
        answer.future.set_exception(answer.result)
    else:
        answer.future.set_result(answer.result)
