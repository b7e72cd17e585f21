"""The state machine behind the Raft log, and the one way for this process to change it."""

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from manager.store import level, snapshot
from manager.store.apply import Applied, Conflict, apply
from manager.store.changes import AgreeState, Change, Transaction, decode, encode
from manager.store.digest import digest_of, moved_by
from manager.store.view import View
from swarmapi import errors
from swarmapi.ids import ID_LENGTH, base36

OUT_OF_SEQUENCE: Final = "rpc error: code = Unknown desc = update out of sequence"
"""What Docker's clients look for after a stale version."""
_ENTRY_FORMAT: Final = 1
_DIGESTS_KEPT: Final = 4096
log = logging.getLogger(__name__)


class _Named(Protocol):
    @property
    def spec(self) -> Any: ...


Made = TypeVar("Made", bound=_Named)


class LogEntry(Protocol):
    """What a log hands to the state machine."""

    @property
    def index(self) -> int:
        """Place in the log."""

    @property
    def payload(self) -> bytes:
        """What was proposed."""


class LogStatus(NamedTuple):
    """How this member stands; `leader_address` is `host:port`, empty when not known."""

    is_leader: bool
    ready: bool
    leader_id: str = ""
    leader_address: str = ""


class Log(Protocol):
    """The port to Raft, as this process uses it."""

    @property
    def status(self) -> LogStatus:
        """The present status."""

    def on_status(self, callback: Callable[[LogStatus], None]) -> None:
        """Call back in the API loop whenever the status changes."""

    async def propose(self, payload: bytes) -> int:
        """Return the entry's index after it was applied here.

        Raises:
            NotLeader, OutcomeUnknown, Unavailable.
        """

    async def read_index(self) -> int:
        """Return once this leader is known to be up to date; raises NotLeader."""

    def members(self) -> dict[str, str]:
        """Return the members' addresses by node id."""

    async def add_member(self, node_id: str, address: str) -> int:
        """Add a member, if it is none; return an entry behind that."""

    async def release(self, node_id: str) -> int:
        """Remove a member that lost its log; return an entry behind that."""

    async def remove_member(self, node_id: str) -> None:
        """Remove a member; nothing to do when it is none."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One log entry: the leader's clock at the proposal and the encoded transaction."""

    format: int = _ENTRY_FORMAT
    now_ns: int = 0
    transaction: bytes = b""
    level: int = 0
    """Of its changes; who does not know it must not apply them."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)
Listener = Callable[[Applied], None]


class Replica:
    """Applies committed entries to the View and tells listeners; lives in the API loop."""

    def __init__(self, known: int = level.LEVEL) -> None:
        self.known = known
        """The level of changes that this program knows."""
        self.view = View()
        self.digest = 0
        """Of the View as it is (`manager.store.digest`)."""
        self.differs_since = 0
        """The entry as of which this state was found to differ from most managers', else 0.

        Where no majority has one state, from the leader's.
        """
        self.is_astray = False
        """Whether it was most managers' word that it differs."""
        self._digests: deque[tuple[int, int]] = deque(maxlen=_DIGESTS_KEPT)
        self._listeners: list[Listener] = []
        self._reset_listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each applied entry; returns what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_restore(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the whole View was replaced by a snapshot."""
        self._reset_listeners.append(listener)

    def apply(self, batch: Sequence[LogEntry]) -> None:
        """Apply committed entries in order; raises TooNew before one that is not known."""
        for item in batch:
            if not item.payload:
                continue
            entry = _decoder.decode(item.payload)
            level.check_known(entry.level, self.known)
            transaction = decode(entry.transaction)
            applied = apply(self.view, item.index, entry.now_ns, transaction)
            self.digest ^= moved_by(applied)
            self._digests.append((item.index, self.digest))
            for change in transaction.changes:
                if isinstance(change, AgreeState):
                    self._compare(change)
            for listener in tuple(self._listeners):
                listener(applied)

    def digest_at(self, index: int) -> str:
        """Return the digest as of an entry in hex; empty when it is not known any more, or yet."""
        for known, digest in reversed(self._digests):
            if known <= index:
                return f"{digest:x}" if known == index else ""
        return ""

    def _compare(self, told: AgreeState) -> None:
        held = self.digest_at(told.as_of)
        if not held:
            return
        if held == told.digest:
            if self.differs_since:
                log.warning("the state of this manager is as the others' again")
            self.differs_since, self.is_astray = 0, False
            return
        self.is_astray = told.by_most
        if not self.differs_since:
            self.differs_since = told.as_of
            whose = "most managers'" if told.by_most else "the leader's"
            log.critical(
                "the state of this manager differs from %s as of entry %d",
                whose,
                told.as_of,
            )

    def freeze(self) -> Iterator[bytes]:
        """Return the View as snapshot chunks, taken now."""
        return iter(tuple(snapshot.dump(self.view)))

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the View by a snapshot's; raises TooNew where it holds what is not known."""
        view = snapshot.restore(chunks)
        level.check_view(view, self.known)
        self.view = view
        self.digest, self.differs_since = digest_of(self.view), 0
        self.is_astray = False
        self._digests.clear()
        self._digests.append((self.view.index, self.digest))
        for listener in tuple(self._reset_listeners):
            listener()


class Store:
    """Reads the View and proposes transactions."""

    def __init__(
        self,
        replica: Replica,
        log: Log,
        new_id: Callable[[], str],
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.replica = replica
        self.log = log
        self.new_id = new_id
        self._wall_ns = now_ns

    @property
    def view(self) -> View:
        """The state as applied so far."""
        return self.replica.view

    def now_ns(self) -> int:
        """Return cluster time: this clock, never before the last applied entry's."""
        return max(self._wall_ns(), self.view.now_ns)

    def object_id(self, request_id: str) -> str:
        """Return the id for what a request creates: the same one when it is sent again."""
        if not request_id:
            return self.new_id()
        digest = hashlib.sha256(request_id.encode()).digest()[:16]
        return base36(int.from_bytes(digest, "big"), ID_LENGTH)

    def knows(self, request_id: str) -> bool:
        """Tell whether a request was committed before: checks of its time do not count again."""
        return bool(request_id) and request_id in self.view.requests

    def made(self, found: Made | None, name: str) -> Made:
        """Return what a request created.

        Raises FailedPrecondition: the request's id was used before, for something else.
        """
        if found is None or found.spec.name != name:
            raise errors.FailedPrecondition(
                f"{name}: the request's id was used for another request, or what it made is gone; "
                "send a new one"
            )
        return found

    async def until(self, holds: Callable[[View], bool], limit_s: float) -> bool:
        """Wait for a condition that applied changes bring about; say whether it holds."""
        applied = asyncio.Event()
        leave = self.replica.subscribe(lambda _: applied.set())
        try:
            async with asyncio.timeout(limit_s):
                while not holds(self.view):
                    applied.clear()
                    await applied.wait()
        except TimeoutError:
            return False
        finally:
            leave()
        return True

    async def propose(self, changes: Iterable[Change], request_id: str = "") -> None:
        """Commit one transaction and apply it here.

        Raises:
            SwarmError: the conflict it met, or why it could not be committed.
        """
        request_id = request_id or self.new_id()
        transaction = Transaction(request_id=request_id, changes=tuple(changes))
        level.check(self.view, transaction.changes)
        wanted = level.needed(transaction.changes)
        entry = Entry(now_ns=self.now_ns(), transaction=encode(transaction), level=wanted)
        payload = _encoder.encode(entry)
        await self.log.propose(payload)
        known = self.view.requests.get(request_id)
        if known is None:
            raise errors.OutcomeUnknown("more changes came with it than are remembered: read again")
        if known[1]:
            raise error_of(msgspec.msgpack.decode(known[1], type=Conflict))


def error_of(conflict: Conflict) -> errors.SwarmError:
    """Return the error a client sees for a conflict."""
    match conflict.code:
        case "version":
            return errors.Internal(OUT_OF_SEQUENCE)
        case "name" | "exists":
            return errors.AlreadyExists(conflict.message)
        case "missing":
            return errors.NotFound(conflict.message)
        case "manager" | "in-use":
            return errors.FailedPrecondition(conflict.message)
        case _:
            return errors.Conflict(conflict.message)
