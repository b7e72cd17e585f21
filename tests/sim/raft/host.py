"""A simulated machine: a disk that loses what was not synced, a state machine, and the member."""

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from manager.raft.core import RaftCore
from manager.raft.driver import Connected, Disconnected, Driver, Event, Received, Request
from manager.raft.journal import Journal, Write
from manager.raft.messages import MAY_OVERTAKE_SYNC, Message
from manager.raft.ports import Frozen, Member
from manager.raft.replication import RaftConfig
from manager.raft.snapshot import SnapshotHeader, pack_snapshot, read_snapshot
from swarmapi.keyring import Keyring
from tests.sim.raft.world import Clock, Crash, Network, Violation, World

CONFIG = RaftConfig(
    append_max_bytes=4000,
    in_flight_max_bytes=20_000,
    chunk_bytes=5000,
    snapshot_entries=60,
    keep_entries=10,
)
SEGMENT_MAX_BYTES = 20_000
KEYRING = Keyring([bytes(32)])
TICK_S = 0.02


@dataclass
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: bytearray = field(default_factory=bytearray)
    listed: bool = False


class SimDisk:
    """Durable bytes and unsynced ones; a crash keeps any part of the latter, also torn."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._files: dict[str, _File] = {}
        self.snapshot: bytes | None = None
        self.crash_chance = 0.0
        self.full_until = 0.0

    def point(self) -> None:
        """Perhaps lose power here."""
        if self.crash_chance and self._world.chance.random() < self.crash_chance:
            raise Crash

    def names(self) -> list[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        file = self._files[name]
        return bytes(file.durable + file.pending)

    def append(self, name: str, data: bytes) -> None:
        if self._world.now < self.full_until:
            raise OSError(errno.ENOSPC, "no room")
        self._files.setdefault(name, _File()).pending += data

    def sync(self, name: str) -> None:
        self.point()
        file = self._files[name]
        file.durable += file.pending
        file.pending.clear()
        file.listed = True
        self.point()

    def cut(self, name: str, size_bytes: int) -> None:
        file = self._files[name]
        del file.durable[size_bytes:]

    def remove(self, name: str) -> None:
        self.point()
        del self._files[name]
        self.point()

    def wipe(self) -> None:
        """Hold nothing any more."""
        self._files.clear()
        self.snapshot = None

    def lose_power(self) -> None:
        """Forget unsynced bytes, except for what happened to reach the platter."""
        self.full_until = 0.0
        chance = self._world.chance
        for name, file in list(self._files.items()):
            size = len(file.pending)
            kept = chance.choice([0, 0, chance.randint(0, size), size])
            tail = file.pending[:kept]
            if kept and chance.random() < 0.3:
                tail = tail[: chance.randint(0, kept)] + bytes(chance.randint(0, 16))
            if not file.listed and not kept:
                del self._files[name]
                continue
            file.durable += tail
            file.pending.clear()
            file.listed = True


class SimSnapshots:
    """Snapshots on the simulated disk; writing one takes up to a second."""

    def __init__(self, world: World, disk: SimDisk, machine: "SimMachine") -> None:
        self._world = world
        self._disk = disk
        self._machine = machine
        self._frozen: Frozen | None = None
        self._job: tuple[float, SnapshotHeader, bytes] | None = None

    @property
    def busy(self) -> bool:
        return self._frozen is not None or self._job is not None

    def load(self) -> tuple[SnapshotHeader, list[bytes]] | None:
        return None if self._disk.snapshot is None else read_snapshot(self._disk.snapshot)

    def raw(self) -> tuple[SnapshotHeader, bytes] | None:
        data = self._disk.snapshot
        return None if data is None else (read_snapshot(data)[0], data)

    def install(self, data: bytes) -> tuple[SnapshotHeader, list[bytes]]:
        found = read_snapshot(data)
        self._disk.point()
        self._disk.snapshot = data
        self._disk.point()
        return found

    def request(self) -> None:
        self._frozen = self._machine.freeze()

    def frozen(self) -> Frozen | None:
        frozen, self._frozen = self._frozen, None
        return frozen

    def write(self, header: SnapshotHeader, parts: Iterable[bytes]) -> None:
        data = b"".join(pack_snapshot(header, parts))
        self._job = (self._world.now + self._world.chance.random(), header, data)

    def written(self) -> SnapshotHeader | None:
        if self._job is None or self._job[0] > self._world.now:
            return None
        _, header, data = self._job
        self._job = None
        held = self.load()
        if held is not None and held[0].index >= header.index:
            return None
        self._disk.point()
        self._disk.snapshot = data
        self._disk.point()
        return header


class SimMachine:
    """The sequence of commands, which tells everything a state could."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self.index = 0
        self.commands: list[str] = []

    def applied(self, index: int, term: int, payload: bytes) -> None:
        self.index = index
        command = payload.decode()
        self._host.on_applied(self._host, index, term, command)
        if command:
            self.commands.append(command)
        waiting = self._host.waiting.pop(index, None)
        if waiting is not None and waiting[0] == term:
            waiting[1]()

    def restored(self, index: int, parts: list[bytes]) -> None:
        self._host.installs += self._host.alive
        self.index = index
        self.commands = [each for part in parts for each in msgspec.msgpack.decode(part)]

    def lost_leadership(self) -> None:
        self._host.waiting.clear()

    def freeze(self) -> Frozen:
        size = 20
        chunks = [self.commands[at : at + size] for at in range(0, len(self.commands), size)]
        return Frozen(self.index, [msgspec.msgpack.encode(chunk) for chunk in chunks])


class Host:
    """One machine; its member lives from start to crash."""

    def __init__(
        self,
        world: World,
        network: Network,
        name: str,
        bootstrap: dict[str, str],
        on_applied: Callable[["Host", int, int, str], None],
        on_turn: Callable[["Host"], None],
    ) -> None:
        self.name = name
        self.alive = False
        self.frozen_until = 0.0
        self.life = 0
        self.disk = SimDisk(world)
        self.mute = False
        self.losses = 0
        """How often it lost its whole disk."""
        self.taken_back_in = 0
        """The life in which it heard that it is a member anew."""
        self.on_applied = on_applied
        self._on_turn = on_turn
        self.waiting: dict[int, tuple[int, Callable[[], None]]] = {}
        self.crashes = 0
        self.installs = 0
        self.commit_seen = 0
        self.clock = Clock(world.chance)
        self._world = world
        self._network = network
        self._bootstrap = bootstrap
        self._peers: set[str] = set()
        self._writing = False
        self._stalled = False
        self.machine: SimMachine
        self.driver: Driver
        self.core: RaftCore

    # The member

    def start(self) -> None:
        """Start the member on what the disk holds."""
        self.life += 1
        self.frozen_until = self.commit_seen = 0
        self._peers = set()
        self._writing = self._stalled = False
        self.waiting = {}
        self.machine = SimMachine(self)
        self.driver = Driver(self)
        self.clock = Clock(self._world.chance)
        crash_chance, self.disk.crash_chance = self.disk.crash_chance, 0.0
        self.disk.full_until = 0.0
        with self._world.on(self.clock):
            self.core = RaftCore(
                Member((self.name, self.name)),
                self._bootstrap,
                self.machine,
                Journal(self.disk, SEGMENT_MAX_BYTES, KEYRING),
                SimSnapshots(self._world, self.disk, self.machine),
                self.driver,
                CONFIG,
                mute=self.mute,
            )
        self.disk.crash_chance = crash_chance
        self.alive = True
        self._schedule_tick(self.life)

    def crash(self) -> None:
        """Cut the power."""
        self.crashes += 1
        self.life += 1
        self._hang_up()
        self.alive = False
        self.disk.lose_power()

    def _hang_up(self) -> None:
        for peer in sorted(self._network.hosts):
            if peer != self.name:
                self._network.disconnect(self.name, peer)

    def lose_all(self) -> None:
        """Find the disk damaged, and begin anew without it."""
        self.disk.wipe()
        self.mute, self._bootstrap = True, {}
        self.losses += 1

    def speak_from(self, index: int) -> None:
        """Hear from the leader that it was removed, and listen."""

        def done() -> None:
            self.mute = False

        self.ask(lambda core: core.speak_from(index, done))

    def ask(self, act: Callable[[RaftCore], None]) -> None:
        """Do something with the core in its turn."""
        self._put(Request(act))

    @property
    def idle(self) -> bool:
        """Whether it answers clients now."""
        return self.alive and self.frozen_until <= self._world.now

    def _schedule_tick(self, life: int) -> None:
        delay_s = TICK_S * (0.5 + self._world.chance.random())
        self._world.after(delay_s, lambda: self._tick(life))

    def _tick(self, life: int) -> None:
        if self.life == life:
            self._turn()
            self._schedule_tick(self.life)

    def _put(self, event: Event) -> None:
        self.driver.inbox.append(event)
        self._turn()

    def _turn(self) -> None:
        if self._writing or not self.idle:
            return
        self._guarded(self._begin)

    def _begin(self) -> None:
        write = self.driver.begin(self.core)
        if write is None:
            self.driver.finish(self.core, None)
            return
        self._writing = True
        life = self.life
        self._world.after(
            self._world.chance.uniform(0.0002, 0.004), lambda: self._write(life, write)
        )

    def _write(self, life: int, write: Write) -> None:
        if self.life == life:
            self._guarded(lambda: self._finish(write))

    def _finish(self, write: Write) -> None:
        try:
            self.core.log.journal.write(write)
        except OSError:
            life, self._stalled = self.life, True
            self.driver.stall(self.core)
            self._world.after(0.1, lambda: self._write(life, write))
            return
        if self._stalled:
            self._hang_up()
        self._writing = self._stalled = False
        self.driver.finish(self.core, write)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            with self._world.on(self.clock):
                act()
            self._on_turn(self)
        except (Crash, OSError):  # a disk full at any other moment ends the process
            self.crash()
            self._world.after(self._world.chance.uniform(0.05, 1), self.revive)

    def revive(self) -> None:
        """Start again unless somebody did."""
        if not self.alive:
            self.start()

    # What the network sees

    def accepts(self, peer: str) -> bool:
        with self._world.on(self.clock):
            return self.core.accepts(peer)

    def wants(self, peer: str) -> bool:
        return peer in self._peers

    def connected(self, peer: str) -> None:
        self._put(Connected(peer))

    def disconnected(self, peer: str) -> None:
        self.driver.inbox.append(Disconnected(peer))

    def received(self, peer: str, messages: list[Message]) -> None:
        self._put(Received(peer, messages))

    # Links, as the driver sees them

    def send(self, peer: str, messages: Sequence[Message]) -> None:
        durable = not (self._writing or self.core.log.journal.dirty)
        if not durable and not all(isinstance(each, MAY_OVERTAKE_SYNC) for each in messages):
            raise Violation(f"{self.name} promises what its disk does not hold: {messages}")
        self._network.send(self.name, peer, messages)

    def add(self, member: Member) -> None:
        self._peers.add(member.id)

    def drop(self, peer: str) -> None:
        self._peers.discard(peer)
        self._world.after(0, lambda: self._network.disconnect(self.name, peer))
