"""The core's ports, and the adapters that speak PySyncObj's names to it."""

# ruff: noqa: N802 - the names are PySyncObj's

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from manager.raft.journal import Corrupt, Entry, Journal, Write
from manager.raft.messages import Ack, Message, RequestVote, TimeoutNow, Vote
from manager.raft.pinned import JournalBase, Node, Transport
from manager.raft.snapshot import SnapshotHeader
from swarmapi.override import override


class Member(Node):
    """A member of the cluster: its node id and the address of its Raft port."""

    def __init__(self, spec: Sequence[str]) -> None:
        super().__init__(spec[0])
        self.address = spec[1]

    @property
    def spec(self) -> tuple[str, str]:
        """(node id, address), as membership entries and snapshots hold it."""
        return self.id, self.address

    @override
    def __hash__(self) -> int:
        # The built-in hash of strings differs between processes; replays need one order of sets.
        return zlib.crc32(self.id.encode())

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.id == other.id


@dataclass(frozen=True)
class Frozen:
    """The state machine as of `index`; `parts` may be drawn in another thread."""

    index: int
    parts: Iterable[bytes]


class StateMachine(Protocol):
    """Where committed entries go; called in the thread of the core, never fails."""

    def applied(self, index: int, term: int, payload: bytes) -> None:
        """Take an entry; the payload of an election or a membership change is empty."""

    def restored(self, index: int, parts: list[bytes]) -> None:
        """Replace the whole state by a snapshot's."""

    def lost_leadership(self) -> None:
        """Everything proposed and not applied has an unknown outcome."""


class Snapshots(Protocol):
    """The one snapshot of a member, and the making of the next one."""

    @property
    def busy(self) -> bool:
        """Whether one is being frozen or written."""

    def load(self) -> tuple[SnapshotHeader, list[bytes]] | None:
        """Return the durable snapshot. Raises Corrupt."""

    def raw(self) -> tuple[SnapshotHeader, bytes] | None:
        """Return the durable snapshot as sent to a follower."""

    def install(self, data: bytes) -> tuple[SnapshotHeader, list[bytes]]:
        """Check a received snapshot and make it the durable one. Raises Corrupt before that."""

    def request(self) -> None:
        """Ask for the state machine to be frozen."""

    def frozen(self) -> Frozen | None:
        """Return, once, what the request brought."""

    def write(self, header: SnapshotHeader, parts: Iterable[bytes]) -> None:
        """Start to make a snapshot durable."""

    def written(self) -> SnapshotHeader | None:
        """Return, once, the snapshot that became durable."""


class Outbox(Protocol):
    """The way to the other members."""

    def send(self, peer: str, message: Message) -> bool:
        """Queue a message; False when the peer is not connected."""

    def add_peer(self, member: Member) -> None:
        """Keep a link to this member."""

    def drop_peer(self, peer: str) -> None:
        """End the link to this member."""


class JournalPort(JournalBase):
    """Our journal under the names PySyncObj's core uses.

    The commit index is a hint that only saves time after a restart: it rides along with the next
    frame or is written once a second, never on its own for every commit.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._commit = max(1, journal.commit)

    def __getitem__(self, key: Any) -> Any:
        return self.journal.entries[key]

    def __len__(self) -> int:
        return len(self.journal.entries)

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        self.journal.add(command, idx, term)

    def deleteEntriesFrom(self, offset: int) -> None:
        """Drop the entries from the one at `offset` on."""
        if offset < len(self):
            self.journal.truncate(self.journal.entries[offset][1])

    def setRaftCommitIndex(self, index: int) -> None:
        """Note the commit index."""
        self._commit = index

    def getRaftCommitIndex(self) -> int:
        """Return the commit index."""
        return self._commit

    def setCurrentTerm(self, term: int, vote: str | None) -> None:
        """Record term and vote."""
        self.journal.set_hard_state(term, vote)

    def getCurrentTerm(self) -> int:
        """Return the recorded term."""
        return self.journal.term

    def getVotedForNodeId(self) -> str | None:
        """Return the recorded vote."""
        return self.journal.vote

    def onOneSecondTimer(self) -> None:
        """Record the commit index on an idle member."""
        self._record_commit()

    def take(self) -> Write | None:
        """Return the frame to write, None when there is nothing to make durable."""
        if not self.journal.dirty:
            return None
        self._record_commit()
        return self.journal.take()

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry, None when the log does not hold it."""
        entries = self.journal.entries
        offset = index - entries[0][1]
        return entries[offset][2] if 0 <= offset < len(entries) else None

    def between(self, first: int, last: int) -> list[Entry]:
        """Return the entries from `first` to `last`, both included and held by the log."""
        entries = self.journal.entries
        base = entries[0][1]
        if first < base:
            raise Corrupt(f"log starts at {base}, but entry {first} is needed")
        return entries[first - base : last + 1 - base]

    def _record_commit(self) -> None:
        self.journal.set_commit(min(self._commit, self.journal.last_index))


class TransportPort(Transport):
    """The outbox under the names PySyncObj's core uses: its dicts become our messages."""

    ready = True

    def __init__(self, outbox: Outbox, ack: Callable[[dict[str, Any]], Ack]) -> None:
        super().__init__(None, None, None)
        self._outbox = outbox
        self._ack = ack
        self.transferring = False

    def send(self, node: Member, message: dict[str, Any]) -> bool:
        """Queue one of the four messages the core still makes itself."""
        return self._outbox.send(node.id, self._message(message))

    def addNode(self, node: Member) -> None:
        """Keep a link to a new member."""
        self._outbox.add_peer(node)

    def dropNode(self, node: Member) -> None:
        """End the link to a former member."""
        self._outbox.drop_peer(node.id)

    def _message(self, message: dict[str, Any]) -> Message:
        match message["type"]:
            case "next_node_idx":
                return self._ack(message)
            case "response_vote":
                return Vote(message["term"])
            case "timeout_now":
                return TimeoutNow(message["term"])
            case "request_vote":
                return RequestVote(
                    message["term"],
                    message["last_log_index"],
                    message["last_log_term"],
                    self.transferring,
                )
            case kind:
                raise ValueError(f"message {kind} is none of ours")
