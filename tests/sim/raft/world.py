"""Virtual time, clocks that go wrong, chance from a seed, and links that are cut, slow and torn."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from manager.raft.messages import Message, decode, encode
from manager.raft.pinned import syncobj


class Violation(AssertionError):
    """A promise of Raft was broken."""


class Crash(Exception):
    """The power went, in the middle of something."""


class Endpoint(Protocol):
    """What the network sees of a host."""

    alive: bool
    frozen_until: float

    def accepts(self, peer: str) -> bool:
        """Whether a link with `peer` would be let in."""

    def wants(self, peer: str) -> bool:
        """Whether it dials `peer`."""

    def connected(self, peer: str) -> None:
        """Take note of a new link."""

    def disconnected(self, peer: str) -> None:
        """Take note of a link's end."""

    def received(self, peer: str, messages: list[Message]) -> None:
        """Take messages."""


class Clock:
    """A machine's monotonic clock: it runs fast or slow, and leaps after a suspension."""

    def __init__(self, chance: random.Random) -> None:
        self._rate = chance.choice([1.0, 1.0, chance.uniform(0.8, 1.25)])
        self._ahead_s = chance.uniform(0, 1e6)

    def read(self, now: float) -> float:
        """Return what it shows when it is really `now`."""
        return self._ahead_s + now * self._rate

    def leap(self, seconds: float) -> None:
        """Go forward at once."""
        self._ahead_s += seconds


class World:
    """Events in virtual time."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 1000.0
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._core_chance = random.Random(seed + 1)
        self._clock: Clock | None = None

    @contextmanager
    def on(self, clock: "Clock") -> Iterator[None]:
        """Let the core read this clock meanwhile."""
        before, self._clock = self._clock, clock
        try:
            yield
        finally:
            self._clock = before

    def _told(self) -> float:
        return self.now if self._clock is None else self._clock.read(self.now)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Give the core this world's clock and chance."""
        before = syncobj.monotonicTime, syncobj.random
        syncobj.monotonicTime = self._told
        syncobj.random = self._core_chance
        try:
            yield
        finally:
            syncobj.monotonicTime, syncobj.random = before

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Do something at a moment of virtual time."""
        heapq.heappush(self._queue, (moment, next(self._order), act))

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Do something later."""
        self.at(self.now + delay_s, act)

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._queue and self._queue[0][0] <= until:
            moment, _, act = heapq.heappop(self._queue)
            self.now = max(self.now, moment)
            act()
        self.now = until


class Network:
    """Per pair one ordered link; a cut loses what is on its way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hosts: dict[str, Endpoint] = {}
        self.blocked: set[tuple[str, str]] = set()
        self.muted: set[tuple[str, str]] = set()
        """(sender, receiver): what is sent is lost, and neither side is told."""
        self.latency_s = (0.001, 0.05)
        self.sent = 0
        self._up: set[tuple[str, str]] = set()
        self._epoch: Counter[tuple[str, str]] = Counter()
        self._last: dict[tuple[str, str], float] = {}

    def connect(self) -> None:
        """Bring up every link that both sides would have."""
        for one, other in itertools.combinations(sorted(self.hosts), 2):
            self._connect(one, other)

    def _connect(self, one: str, other: str) -> None:
        key = (one, other)
        first, second = self.hosts[one], self.hosts[other]
        if key in self._up or key in self.blocked or not (first.alive and second.alive):
            return
        if self.muted & {(one, other), (other, one)}:
            return
        if not (first.accepts(other) and second.accepts(one)):
            return
        if first.wants(other) or second.wants(one):
            self._up.add(key)
            self._epoch[key] += 1
            first.connected(other)
            second.connected(one)

    def disconnect(self, one: str, other: str) -> None:
        """Tear the link of two hosts."""
        key = _key(one, other)
        if key not in self._up:
            return
        self._up.discard(key)
        self._epoch[key] += 1
        for host, peer in ((one, other), (other, one)):
            if self.hosts[host].alive:
                self.hosts[host].disconnected(peer)

    def cut(self, one: str, other: str) -> None:
        """Tear the link and keep it down."""
        self.blocked.add(_key(one, other))
        self.disconnect(one, other)

    def mute(self, sender: str, receiver: str) -> None:
        """Lose what one sends to the other; the link's end is noticed when it heals."""
        self.muted.add((sender, receiver))

    def heal(self) -> None:
        """Let all links come back; one that lost something is made anew."""
        for sender, receiver in sorted(self.muted):
            self.disconnect(sender, receiver)
        self.muted.clear()
        self.blocked.clear()
        self.connect()

    def send(self, sender: str, receiver: str, messages: Sequence[Message]) -> None:
        """Send over the link, if it is up."""
        key = _key(sender, receiver)
        if key not in self._up:
            return
        self.sent += 1
        data = encode(messages)
        direction = (sender, receiver)
        moment = self.world.now + self.world.chance.uniform(*self.latency_s)
        moment = max(moment, self._last.get(direction, 0.0) + 1e-6)
        self._last[direction] = moment
        epoch = self._epoch[key]
        self.world.at(moment, lambda: self._deliver(sender, receiver, epoch, data))

    def _deliver(self, sender: str, receiver: str, epoch: int, data: bytes) -> None:
        key = _key(sender, receiver)
        host = self.hosts[receiver]
        if key not in self._up or self._epoch[key] != epoch or not host.alive:
            return
        if (sender, receiver) in self.muted:
            return
        if host.frozen_until > self.world.now:
            again = host.frozen_until + 1e-6
            self.world.at(again, lambda: self._deliver(sender, receiver, epoch, data))
            return
        host.received(sender, decode(data))


def _key(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
