"""A member at work: the core in a thread of its own, so that a busy API loop costs no leadership.

The thread has its own event loop and its own gRPC server. Requests come in as lists, once per
turn of the API loop; outcomes go out as lists, once per turn of the member.
"""

import asyncio
import errno
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manager.raft.core import NotReady, RaftCore, Refused
from manager.raft.disk import FileDisk, Reserve, is_full
from manager.raft.driver import Driver, Event, Request
from manager.raft.journal import Journal, Write
from manager.raft.outcomes import (
    Applied,
    Done,
    FreezeWanted,
    Outcome,
    RaftStatus,
    Restored,
    Standing,
)
from manager.raft.pinned import monotonic
from manager.raft.ports import Frozen, Member
from manager.raft.replication import RaftConfig
from manager.raft.snapshots import FileSnapshots
from manager.raft.transport import GrpcLinks
from swarmapi.errors import (
    FailedPrecondition,
    NotLeader,
    OutcomeUnknown,
    SwarmError,
    Unavailable,
)
from swarmapi.identity import LiveTLS
from swarmapi.keyring import Keyring

_TICK_S: Final = 0.02
_DISK_S: Final = 1.0
"""How often it is looked whether a full disk has room again."""
_HAND_OVER_S: Final = 10.0
_ELECTION_BYTES: Final = 4096
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemberSettings:
    """Who the member is and where it keeps its state."""

    node_id: str
    address: str
    listen_address: str
    state_dir: Path
    tls: LiveTLS
    bootstrap: bool
    config: RaftConfig
    keyring: Keyring | None = None
    mute: bool = False
    """Whether it lost what it had (see `RaftCore.speak_from`)."""


class MemberThread:
    """Runs one member. Methods are for the API's thread unless they say otherwise.

    `deliver` is called in the Raft thread with what happened in a turn; `on_halt` when the member
    can no longer run.
    """

    def __init__(
        self,
        settings: MemberSettings,
        deliver: Callable[[list[Outcome]], None],
        on_halt: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._deliver = deliver
        self._on_halt = on_halt
        self._out: list[Outcome] = []
        self._waiting: dict[int, tuple[int, asyncio.Future[int]]] = {}
        self._standing: Standing | None = None
        self._started: Future[None] = Future()
        self._stopping = False
        self._full = ""
        self._stalled = False
        self._looked_at = self._handed_over_at = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._main, name="raft", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._wake: asyncio.Event
        self._driver: Driver
        self._links: GrpcLinks
        self._snapshots: FileSnapshots

    async def start(self) -> None:
        """Start the thread; raises what keeps the member from starting."""
        self._thread.start()
        await asyncio.wrap_future(self._started)

    async def stop(self) -> None:
        """Stop after the present turn."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop)
            await asyncio.to_thread(self._thread.join)

    async def listen(self, address: str) -> None:
        """Take links on another address, with the present TLS material. Raises OSError."""
        listening = asyncio.run_coroutine_threadsafe(self._links.listen(address), self._loop)
        await asyncio.wrap_future(listening)

    def post(self, acts: Sequence[Callable[[RaftCore], None]]) -> None:
        """Have the acts done in the next turn, in the Raft thread."""
        self._loop.call_soon_threadsafe(self._enqueue, [Request(act) for act in acts])

    def offer_frozen(self, frozen: Frozen) -> None:
        """Hand over the frozen state that was asked for."""
        self.post([lambda core: self._snapshots.offer(frozen)])

    # Requests, done in the Raft thread

    def propose(self, core: RaftCore, future: "asyncio.Future[int]", payload: bytes) -> None:
        """Append a command; its future ends once it was applied."""
        try:
            index, term = core.propose(payload)
        except NotReady:
            self._out.append(Done(future, self._not_leader(core)))
        else:
            self._waiting[index] = (term, future)

    def read_index(self, core: RaftCore, future: "asyncio.Future[int]") -> None:
        """Answer with an index once everything up to it was applied here."""

        def done(index: int | None) -> None:
            result = self._not_leader(core) if index is None else index
            self._out.append(Done(future, result))

        core.read_index(done)

    def change_members(
        self, core: RaftCore, future: "asyncio.Future[int]", add: bool, node_id: str, address: str
    ) -> None:
        """Add, when it answers at its address, or remove a member."""
        if not core.ready:
            self._out.append(Done(future, self._not_leader(core)))
        elif core.members().get(node_id) == (address if add else None):
            self._out.append(Done(future, core.applied_index))
        elif add and node_id in core.members():
            error = f"node {node_id} is a member at {core.members()[node_id]}; remove it first"
            self._out.append(Done(future, FailedPrecondition(error)))
        elif add:
            self._spawn(self._reach_and_add(future, Member((node_id, address))))
        else:
            self._change(core, future, False, node_id, core.members()[node_id])

    def transfer(self, core: RaftCore, future: "asyncio.Future[int]", target: str | None) -> None:
        """Answer 1 when a follower was asked to take over, 0 when none could be now."""
        if core.is_leader:
            self._out.append(Done(future, int(core.transfer(target))))
        else:
            self._out.append(Done(future, self._not_leader(core)))

    def release(self, core: RaftCore, future: "asyncio.Future[int]", node_id: str) -> None:
        """Remove a member that lost its log; answer an entry behind its removal."""
        if not core.ready:
            self._out.append(Done(future, self._not_leader(core)))
        elif core.is_changing:
            error = "another membership change is not committed yet; retry"
            self._out.append(Done(future, FailedPrecondition(error)))
        elif not core.could_do_without(node_id):
            error = (
                f"node {node_id} lost its log, and the other managers are no quorum without it: "
                "start them first"
            )
            self._out.append(Done(future, FailedPrecondition(error)))
        elif node_id in core.members():
            self._change(core, future, False, node_id, core.members()[node_id])
        else:
            self._out.append(Done(future, core.applied_index))

    def speak_from(self, core: RaftCore, future: "asyncio.Future[int]", index: int) -> None:
        """Answer when a mute member is whole."""
        core.speak_from(index, lambda: self._out.append(Done(future, core.applied_index)))

    def reseal(self, core: RaftCore, future: "asyncio.Future[int]") -> None:
        """Write journal and snapshot anew under the newest key of the ring."""
        try:
            if self._stalled:
                raise OSError(errno.ENOSPC, "no room for the log")
            core.log.journal.rewrite()
            self._snapshots.reseal()
        except OSError as error:
            if not is_full(error):
                raise
            path = self._settings.state_dir
            told = f"no room to seal everything anew ({path}): it stays as it was, make room"
            self._out.append(Done(future, Unavailable(told)))
        else:
            self._out.append(Done(future, core.applied_index))

    def tune(self, core: RaftCore, config: RaftConfig, keep_old: int) -> None:
        """Have the log kept in another way from now on."""
        core.config = config
        self._snapshots.keep_old = keep_old

    async def _reach_and_add(self, future: "asyncio.Future[int]", member: Member) -> None:
        # A member that cannot be reached may cost the quorum the moment it is added.
        if await self._links.reachable(member, self._settings.config.reach_timeout_s):

            def act(core: RaftCore) -> None:
                self._change(core, future, True, member.id, member.address)

            self._enqueue([Request(act)])
        else:
            error = Unavailable(
                f"node {member.id} does not answer at {member.address}; start it first"
            )
            self._enqueue([Request(lambda core: self._out.append(Done(future, error)))])

    def _change(
        self, core: RaftCore, future: "asyncio.Future[int]", add: bool, node_id: str, address: str
    ) -> None:
        def done(committed: bool) -> None:
            lost = OutcomeUnknown("leadership was lost during the membership change; read again")
            self._out.append(Done(future, core.applied_index if committed else lost))

        try:
            core.change_members(add, node_id, address, done)
        except NotReady:
            self._out.append(Done(future, self._not_leader(core)))
        except Refused as error:
            self._out.append(Done(future, FailedPrecondition(str(error))))

    def _not_leader(self, core: RaftCore) -> SwarmError:
        if core.is_leader:
            return Unavailable("the election is not finished; retry")
        return NotLeader(leader=core.members().get(core.leader_id, ""))

    # The core's state machine

    def applied(self, index: int, term: int, payload: bytes) -> None:
        """Pass an entry on, and answer who proposed it."""
        self._out.append(Applied(index, term, payload))
        waiting = self._waiting.pop(index, None)
        if waiting is not None:
            proposed, future = waiting
            lost = OutcomeUnknown("another leader's change took the place of this one; read again")
            self._out.append(Done(future, index if proposed == term else lost))

    def restored(self, index: int, parts: list[bytes]) -> None:
        """Pass a snapshot on."""
        self._out.append(Restored(index, parts))

    def lost_leadership(self) -> None:
        """Tell everybody who waits that the outcome is unknown."""
        waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            error = OutcomeUnknown("leadership was lost while the change was in flight; read again")
            self._out.append(Done(future, error))

    # The thread

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the member must not go on
            if self._started.done():
                _log.critical("raft member halts: %r", error, exc_info=error)
                self._on_halt(error)
            else:
                self._started.set_exception(error)

    async def _run(self) -> None:
        settings = self._settings
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        reserve = Reserve(settings.state_dir / "reserve", settings.config.reserve_bytes)
        disk = FileDisk(settings.state_dir / "log", reserve)
        with (
            ThreadPoolExecutor(1, "raft-journal") as journal_worker,
            ThreadPoolExecutor(1, "raft-snapshot") as snapshot_worker,
        ):
            self._snapshots = FileSnapshots(
                settings.state_dir / "snapshot",
                snapshot_worker,
                self._want_freeze,
                settings.keyring,
            )
            holder: list[RaftCore] = []
            self._links = GrpcLinks(
                settings.node_id, settings.tls, self._put, lambda peer: holder[0].accepts(peer)
            )
            self._driver = Driver(self._links)
            try:
                core = self._make_core(disk)
                holder.append(core)
                await self._links.listen(settings.listen_address)
                self._publish(core)
                self._started.set_result(None)
                await self._turns(core, journal_worker, reserve)
            finally:
                await self._links.close()
                disk.close()

    def _make_core(self, disk: FileDisk) -> RaftCore:
        settings = self._settings
        journal = Journal(disk, settings.config.segment_bytes, settings.keyring)
        founds = settings.bootstrap and not settings.mute
        founders = {settings.node_id: settings.address} if founds else {}
        return RaftCore(
            Member((settings.node_id, settings.address)),
            founders,
            self,
            journal,
            self._snapshots,
            self._driver,
            settings.config,
            mute=settings.mute,
        )

    async def _turns(
        self, core: RaftCore, journal_worker: ThreadPoolExecutor, reserve: Reserve
    ) -> None:
        while not self._stopping:
            if not self._driver.busy(core):
                await self._woken()
            self._wake.clear()
            if self._cannot_lead_alone(core, reserve):
                self._look_at_disk(core, reserve)
                self._publish(core)
                await self._woken()
                continue
            write = self._driver.begin(core)
            if write and not await self._put_down(core, write, journal_worker, reserve):
                return
            self._driver.finish(core, write)
            self._look_at_disk(core, reserve)
            self._publish(core)
            await asyncio.sleep(0)

    async def _put_down(
        self, core: RaftCore, write: Write, journal_worker: ThreadPoolExecutor, reserve: Reserve
    ) -> bool:
        """Write a frame, as soon as there is room; False when the member was stopped before.

        Where not even the reserve is left, nothing can be promised: the member is silent.
        """
        tried_at = float("-inf")
        while not self._stopping:
            if monotonic() - tried_at > _DISK_S:
                try:
                    await self._loop.run_in_executor(journal_worker, core.log.journal.write, write)
                except OSError as error:
                    if not is_full(error):
                        raise
                else:
                    if self._stalled:
                        self._stalled = False
                        self._links.hang_up()
                    return True
                tried_at, self._stalled = monotonic(), True
            self._driver.stall(core)
            self._look_at_disk(core, reserve)
            self._publish(core)
            await self._woken()
        return False

    async def _woken(self) -> None:
        """Wait for something to do, or for the next tick."""
        timer = self._loop.call_later(_TICK_S, self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()

    @staticmethod
    def _cannot_lead_alone(core: RaftCore, reserve: Reserve) -> bool:
        """Whether an election would find no room: a lone member waits in it for its disk."""
        if core.others or core.is_leader or reserve.held:
            return False
        return reserve.left_bytes < _ELECTION_BYTES

    def _look_at_disk(self, core: RaftCore, reserve: Reserve) -> None:
        """Take no changes while the reserve is gone; a leader hands over to one with room."""
        now = monotonic()
        if not reserve.held and now - self._looked_at > _DISK_S:
            self._looked_at = now
            reserve.hold()
        full = not reserve.held
        if full != bool(self._full):
            path = self._settings.state_dir
            told = f"the disk of this manager is full ({path}): make room, changes are refused"
            self._full = told if full else ""
            _log.warning(self._full or f"the disk has room again ({path})")
        if full and core.is_leader and core.others and now - self._handed_over_at > _HAND_OVER_S:
            self._handed_over_at = now
            core.transfer(None)

    def _publish(self, core: RaftCore) -> None:
        members = core.members()
        status = RaftStatus(
            core.is_leader,
            core.ready,
            core.leader_id,
            members.get(core.leader_id, ""),
            core.term,
            core.commit_index,
            core.applied_index,
            core.log[0][1],
            core.last_index,
            core.snapshot_index(),
            self._full,
        )
        standing = Standing(status, members)
        if standing != self._standing:
            self._standing = standing
            self._out.append(standing)
        if self._out:
            out, self._out = self._out, []
            self._deliver(out)

    def _put(self, event: Event) -> None:
        self._enqueue([event])

    def _enqueue(self, events: Sequence[Event]) -> None:
        self._driver.inbox.extend(events)
        self._wake.set()

    def _want_freeze(self) -> None:
        self._out.append(FreezeWanted())

    def _stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
