"""One turn of a member, split around the disk so that any loop can run it.

A turn takes what came in, lets the leader's entries leave, hands out the frame to write, and
only when that is durable lets promises leave (acknowledgements, votes, candidacies) and time act.
Simulation and real node run these same lines; they differ in who writes the frame, and where.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from manager.raft.core import RaftCore
from manager.raft.journal import Write
from manager.raft.messages import MAY_OVERTAKE_SYNC, Message
from manager.raft.ports import Member

_EVENTS_MAX: Final = 200


class Links(Protocol):
    """Ordered, at-most-once links to the other members."""

    def send(self, peer: str, messages: Sequence[Message]) -> None:
        """Send to a connected peer, or drop; never waits."""

    def add(self, member: Member) -> None:
        """Keep a link to this member from now on."""

    def drop(self, peer: str) -> None:
        """End the link to a former member and refuse it."""


@dataclass(frozen=True)
class Connected:
    """A link to `peer` is up."""

    peer: str


@dataclass(frozen=True)
class Disconnected:
    """The link to `peer` is down."""

    peer: str


@dataclass(frozen=True)
class Received:
    """Messages that came over the link to `peer`."""

    peer: str
    messages: list[Message]


@dataclass(frozen=True)
class Request:
    """Something to do with the core within the turn."""

    act: Callable[[RaftCore], None]


Event = Connected | Disconnected | Received | Request


class Driver:
    """The inbox and the outbox of a core. Not thread-safe: one loop owns it."""

    def __init__(self, links: Links) -> None:
        self.inbox: deque[Event] = deque()
        self._links = links
        self._up: set[str] = set()
        self._out: dict[str, list[Message]] = {}

    # The core's Outbox

    def send(self, peer: str, message: Message) -> bool:
        """Queue a message; False when the peer is not connected."""
        if peer not in self._up:
            return False
        self._out.setdefault(peer, []).append(message)
        return True

    def add_peer(self, member: Member) -> None:
        """Keep a link to this member."""
        self._links.add(member)

    def drop_peer(self, peer: str) -> None:
        """End the link to this member."""
        self._links.drop(peer)

    # The turn

    def busy(self, core: RaftCore) -> bool:
        """Whether the next turn has work already."""
        return bool(self.inbox or self._out) or core.log.journal.dirty

    def begin(self, core: RaftCore) -> Write | None:
        """Run the turn up to the disk; return what must be durable before `finish`."""
        for _ in range(min(len(self.inbox), _EVENTS_MAX)):
            self._handle(core, self.inbox.popleft())
        core.pump()
        self._flush(promises=False)
        return core.log.take()

    def finish(self, core: RaftCore, write: Write | None) -> None:
        """Run the rest of the turn: `write` is durable."""
        if write is not None:
            core.log.journal.synced(write)
        self._flush(promises=True)
        core.tick()
        core.pump()
        self._flush(promises=False)

    def stall(self, core: RaftCore) -> None:
        """Run a turn while there is no room for the frame that `begin` returned.

        Nothing can be promised, so the member leads no longer and hears nobody: what came is
        dropped, and whoever drives it makes the links anew before `finish`.
        """
        core.resign()
        events = list(self.inbox)
        self.inbox.clear()
        for event in events:
            if not isinstance(event, Received):
                self._handle(core, event)
        self._flush(promises=False)

    def _handle(self, core: RaftCore, event: Event) -> None:
        match event:
            case Received(peer, messages):
                if peer in self._up:
                    for message in messages:
                        core.receive(peer, message)
            case Connected(peer):
                self._up.add(peer)
                core.connected(peer)
            case Disconnected(peer):
                self._up.discard(peer)
                self._out.pop(peer, None)
                core.disconnected(peer)
            case Request(act):
                act(core)

    def _flush(self, promises: bool) -> None:
        waiting, self._out = self._out, {}
        for peer, messages in waiting.items():
            if promises:
                self._links.send(peer, messages)
                continue
            now = [message for message in messages if isinstance(message, MAY_OVERTAKE_SYNC)]
            later: list[Message] = [
                message for message in messages if not isinstance(message, MAY_OVERTAKE_SYNC)
            ]
            if now:
                self._links.send(peer, now)
            if later:
                self._out[peer] = later
