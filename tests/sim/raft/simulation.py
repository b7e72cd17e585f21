"""Random faults on Raft members; what they promised is checked all the way, and at the end.

Election safety: one leader per term. Log matching: two entries of one index and term, on whatever
members, have one command and one entry before them. Leader completeness: a leader's log has all
that was committed before its term. State machine safety: one command per index. Commit indexes
only grow; no acknowledged write is lost, none applied twice; what clients wrote and read is
linearizable as one register; once the faults end, all members agree soon.
"""

import heapq
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from manager.raft.core import NotReady, RaftCore, Refused
from tests.sim.raft.host import Host
from tests.sim.raft.world import Network, Violation, World

_SETTLE_S = 30.0
_OF_ONE_HOST = ("freeze", "leap", "full", "damage")
_FAULTS = ("cut", "one-way", "isolate", "partition", "crash", "transfer", *_OF_ONE_HOST)
_MEMBERS_MIN, _MEMBERS_MAX = 3, 6


@dataclass
class Outcome:
    """What a run did."""

    acknowledged: int = 0
    reads: int = 0
    crashes: int = 0
    messages: int = 0
    terms: int = 0
    changes: int = 0
    installs: int = 0
    losses: int = 0
    converged_after_s: float = 0.0


class Simulation:
    """A cluster, its clients and its misfortunes."""

    def __init__(self, world: World, size: int, crash_chance: float) -> None:
        self.world = world
        self.chance = world.chance
        self.network = Network(self.world)
        self.hosts: dict[str, Host] = {}
        self.outcome = Outcome()
        self.faults = True
        self._crash_chance = crash_chance
        self._applied: dict[int, tuple[int, str]] = {}
        self._entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self._written: dict[str, list[float]] = {}
        """When each write began and, in the end, was acknowledged."""
        self._read: list[tuple[float, float, str]] = []
        """When each read began and ended, and the latest write it saw."""
        self._leaders: dict[int, str] = {}
        self._proposed = 0
        self._leaving: set[str] = set()
        """Who lost its log and was removed, to be added anew."""
        names = [f"n{number}" for number in range(1, size + 1)]
        for name in names:
            self._add_host(name, {each: each for each in names})

    def _add_host(self, name: str, bootstrap: dict[str, str]) -> Host:
        host = Host(self.world, self.network, name, bootstrap, self._on_applied, self._on_turn)
        self.hosts[name] = self.network.hosts[name] = host
        host.start()
        host.disk.crash_chance = self._crash_chance
        return host

    # Checks

    def _on_applied(self, host: Host, index: int, term: int, command: str) -> None:
        known = self._applied.setdefault(index, (term, command))
        if known != (term, command):
            raise Violation(f"index {index} is {known}, {host.name} applies {term, command}")

    def _on_turn(self, host: Host) -> None:
        """Check what must hold after each turn of a member."""
        name, core = host.name, host.core
        if core.is_leader and core.term not in self._leaders:
            self._leaders[core.term] = name
            self._check_complete(name, core)
        if core.is_leader and self._leaders[core.term] != name:
            raise Violation(f"{self._leaders[core.term]} and {name} lead term {core.term}")
        if not core.applied_index <= core.commit_index <= core.last_index:
            raise Violation(f"{name}: applied, committed and last index are out of order")
        if core.commit_index < host.commit_seen:
            raise Violation(f"{name}: commit index went back from {host.commit_seen}")
        host.commit_seen = core.commit_index

    def _check_complete(self, name: str, core: RaftCore) -> None:
        for index, (term, _) in reversed(self._applied.items()):
            if term < core.term and index > core.last_index:
                raise Violation(f"{name} leads term {core.term} without the entry {index}")
            held = core.log.term_at(index)
            if held is None:
                return
            if term < core.term and held != term:
                raise Violation(f"{name} leads term {core.term}, entry {index} of term {held}")

    def check_logs(self) -> None:
        """Check that an index and a term say which entry it is, and which is before it."""
        for name, host in self.hosts.items():
            entries = host.core.log.journal.entries if host.alive else []
            for (_, _, before), (command, index, term) in pairwise(entries):
                if self._entries.setdefault((index, term), (command, before)) != (command, before):
                    raise Violation(f"{name} has another entry {index} of term {term}")

    def leader(self) -> Host | None:
        """Return the leader of the latest term."""
        leading = [host for host in self.hosts.values() if host.alive and host.core.is_leader]
        return max(leading, key=lambda host: host.core.term, default=None)

    # What happens

    def every(self, rate: float, act: Callable[[], None]) -> None:
        """Do something at random moments, `rate` times a second, while there are faults."""

        def again() -> None:
            if self.faults:
                act()
                self.world.after(self.chance.expovariate(rate), again)

        self.world.after(self.chance.expovariate(rate), again)

    def forever(self, period_s: float, act: Callable[[], None]) -> None:
        """Do something again and again."""

        def again() -> None:
            act()
            self.world.after(period_s, again)

        self.world.after(period_s, again)

    def client(self) -> None:
        """Write a little, somewhere, and read somewhere else."""
        for _ in range(self.chance.randint(1, 5)):
            host = self._any_host()
            if host.idle and host.core.ready:
                self._proposed += 1
                command = f"{self._proposed}" + "x" * self.chance.choice([0, 0, 0, 2000])
                host.ask(self._proposal(host, command))
        host = self._any_host()
        if host.idle:
            began = self.world.now
            host.ask(lambda core: core.read_index(lambda index: self._on_read(host, began, index)))

    def _proposal(self, host: Host, command: str) -> Callable[[RaftCore], None]:
        began = self.world.now

        def act(core: RaftCore) -> None:
            if core.ready:
                index, term = core.propose(command.encode())
                times = self._written[command] = [began]
                host.waiting[index] = (term, lambda: times.append(self.world.now))

        return act

    def _on_read(self, host: Host, began: float, index: int | None) -> None:
        if index is not None:
            told = host.machine.commands[-1] if host.machine.commands else ""
            self._read.append((began, self.world.now, told))

    def fault(self) -> None:
        """Break something; some time later links heal and machines start again."""
        names = sorted(self.hosts)
        match self.chance.choice(_FAULTS):
            case "cut" if len(names) > 1:
                self.network.cut(*self.chance.sample(names, 2))
            case "one-way" if len(names) > 1:
                muted = self.chance.choice(names)
                for name in names:
                    if name != muted and self.chance.random() < 0.7:
                        self.network.mute(muted, name)
            case "isolate":
                self._split({self.chance.choice(names)})
            case "partition":
                size = self.chance.randint(1, max(1, len(names) // 2))
                self._split(set(self.chance.sample(names, size)))
            case "crash":
                count = min(len(names), self.chance.choice([1, 1, 1, 2, len(names)]))
                for name in self.chance.sample(names, count):
                    self._crash(self.hosts[name])
            case kind if kind in _OF_ONE_HOST:
                self._trouble(kind, self._any_host())
            case _:
                if (leader := self.leader()) and leader.idle:
                    leader.ask(_transfer)
        self.world.after(self.chance.uniform(0.02, 2), self.network.heal)

    def _trouble(self, kind: str, host: Host) -> None:
        match kind:
            case "leap":
                host.clock.leap(self.chance.uniform(0.1, 5))
            case "freeze":
                host.frozen_until = self.world.now + self.chance.uniform(0.1, 3)
            case "full":
                host.disk.full_until = self.world.now + self.chance.uniform(0.1, 5)
            case "damage" if len(self.hosts) > 2 and not self._mute_hosts():
                self._crash(host)
                host.lose_all()
                self.outcome.losses += 1

    def _mute_hosts(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.mute]

    def readmit(self) -> None:
        """Have the leader take back who lost its log: remove it, name an entry, and add it."""
        leader = self.leader()
        if leader is None or not leader.idle or not leader.core.ready:
            return
        for host in self.hosts.values():
            if not (host.mute or host.name in self._leaving) or host.taken_back_in == host.life:
                continue
            if host.name in leader.core.members():
                self._leaving.add(host.name)
                self._change(leader, False, host.name)
            elif host.name in self._leaving and host.idle:
                self._take_back(leader, host)

    def _take_back(self, leader: Host, host: Host) -> None:
        life, losses = host.life, host.losses

        def done(committed: bool) -> None:
            # The answer is of a call that ends with the process that made it.
            if committed and (host.life, host.losses) == (life, losses):
                self._leaving.discard(host.name)
                host.taken_back_in = life

        def act(core: RaftCore) -> None:
            with suppress(NotReady, Refused):
                core.change_members(True, host.name, host.name, done)
                if host.mute and (host.life, host.losses) == (life, losses):
                    host.speak_from(core.applied_index)  # the removal is behind: else refused

        leader.ask(act)

    def _split(self, group: set[str]) -> None:
        for one in sorted(group):
            for other in sorted(self.hosts.keys() - group):
                self.network.cut(one, other)

    def _crash(self, host: Host) -> None:
        if host.alive:
            host.crash()
            self.world.after(self.chance.uniform(0.05, 2), host.revive)

    def change_members(self) -> None:
        """Add a machine, new or known, or remove one or two at once."""
        leader = self.leader()
        if leader is None or not leader.idle:
            return
        members = sorted(leader.core.members())
        outside = sorted(self.hosts.keys() - members)
        grow = len(members) <= _MEMBERS_MIN or self.chance.random() < 0.5
        if grow and len(members) < _MEMBERS_MAX:
            if not outside or self.chance.random() < 0.3:
                outside = [f"n{len(self.hosts) + 1}"]
                self._add_host(outside[0], {})
            self._change(leader, True, self.chance.choice(outside))
        elif len(members) > _MEMBERS_MIN:
            for name in self.chance.sample(members, 2):
                self._change(leader, False, name)

    def _change(self, leader: Host, add: bool, name: str) -> None:
        def act(core: RaftCore) -> None:
            try:
                core.change_members(add, name, name, self._on_changed)
            except (NotReady, Refused):
                return

        leader.ask(act)

    def _on_changed(self, done: bool) -> None:
        self.outcome.changes += done

    def _any_host(self) -> Host:
        return self.hosts[self.chance.choice(sorted(self.hosts))]

    # The end

    def settle(self) -> list[Host]:
        """End the faults and wait, in virtual time, for the members to agree."""
        self.faults = False
        for host in self.hosts.values():
            host.disk.crash_chance = host.disk.full_until = 0.0
            host.revive()
        self.network.heal()
        ended = self.world.now
        while self.world.now < ended + _SETTLE_S:
            self.world.run(self.world.now + 0.25)
            leader = self.leader()
            if leader is None or not leader.core.ready:
                continue
            members = [self.hosts[name] for name in leader.core.members()]
            heads = {(host.core.applied_index, host.core.last_index) for host in members}
            if len(heads) == 1 and self.world.now > ended + 2:
                self.outcome.converged_after_s = self.world.now - ended
                return members
        raise Violation(f"members do not agree {_SETTLE_S} s after the last fault")

    def verify(self, members: list[Host]) -> None:
        """Check what must hold at the end."""
        commands = members[0].machine.commands
        for host in members[1:]:
            if host.machine.commands != commands:
                raise Violation(f"{host.name} and {members[0].name} differ")
        held = set(commands)
        acknowledged = [command for command, times in self._written.items() if len(times) > 1]
        lost = [command[:9] for command in acknowledged if command not in held]
        if lost:
            raise Violation(f"{len(lost)} acknowledged writes are lost: {lost[:5]}")
        if len(held) != len(commands):
            raise Violation("a write was applied twice")
        self._check_register(commands)
        self.outcome.acknowledged = len(acknowledged)
        self.outcome.reads = len(self._read)
        self.outcome.installs = sum(host.installs for host in self.hosts.values())
        self.outcome.crashes = sum(host.crashes for host in self.hosts.values())
        self.outcome.messages = self.network.sent
        self.outcome.terms = max(self._leaders)

    def _check_register(self, commands: list[str]) -> None:
        """Check that the log's order agrees with what clients saw, and when."""
        places = {command: place for place, command in enumerate(commands, start=1)} | {"": 0}
        operations = [(began, ended, places.get(told), told) for began, ended, told in self._read]
        for command, times in self._written.items():
            if len(times) > 1:
                operations.append((times[0], times[1], places[command], command))
        ended: list[tuple[float, int]] = []
        floor = 0
        for began, end, place, value in sorted(operations, key=lambda each: each[:2]):
            while ended and ended[0][0] < began:
                floor = max(floor, heapq.heappop(ended)[1])
            if place is None or place < floor:
                raise Violation(f"{value[:9]!r} is at {place}, but {floor} had been seen before")
            heapq.heappush(ended, (end, place))


@dataclass(frozen=True)
class Profile:
    """What kind of cluster, and of misfortunes."""

    size: int = 3
    members: bool = False
    """Whether members come and go."""
    crash_chance: float = 0.0005
    """Of losing power at each step of a disk."""
    latency_max_s: float = 0.05


PROFILES = {
    "three": Profile(),
    "members": Profile(members=True),
    "five": Profile(size=5, crash_chance=0.003),
    "single": Profile(size=1, crash_chance=0.003),
    "slow": Profile(latency_max_s=0.15),
}


def _transfer(core: RaftCore) -> None:
    core.transfer(None)


def run(seed: int, profile: str = "three", duration_s: float = 30.0) -> Outcome:
    """Run one seed; raises Violation naming the command that replays it."""
    world, kind = World(seed), PROFILES[profile]
    replay = f"python -m tests.sim.raft --seed {seed} --profile {profile} --duration {duration_s:g}"
    with world.entered():
        simulation = Simulation(world, kind.size, kind.crash_chance)
        simulation.network.latency_s = (0.001, kind.latency_max_s)
        try:
            simulation.forever(0.5, simulation.check_logs)
            simulation.forever(0.2, simulation.network.connect)
            simulation.forever(0.5, simulation.readmit)
            simulation.every(25, simulation.client)
            if kind.members:
                simulation.every(2, simulation.change_members)
            simulation.world.run(simulation.world.now + 2)
            simulation.every(1, simulation.fault)
            simulation.world.run(simulation.world.now + duration_s)
            simulation.verify(simulation.settle())
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}; replay: {replay}") from error
    return simulation.outcome
