"""Random faults on Raft members; what they promised is checked all the way, and at the end.

One leader per term; one command per index; commit indexes only grow; no acknowledged write lost;
none applied twice; reads see every write acknowledged before them; once the faults end, all
members agree soon.
"""

from collections.abc import Callable
from dataclasses import dataclass

from manager.raft.core import NotReady, RaftCore, Refused
from tests.sim.raft.host import Host
from tests.sim.raft.world import Network, Violation, World

_SETTLE_S = 30.0
_LOOK_BACK = 40
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
        self._applied: dict[int, str] = {}
        self._acknowledged: list[str] = []
        self._leaders: dict[int, str] = {}
        self._proposed = 0
        names = [f"n{number}" for number in range(1, size + 1)]
        for name in names:
            self._add_host(name, {each: each for each in names})

    def _add_host(self, name: str, bootstrap: dict[str, str]) -> Host:
        host = Host(self.world, self.network, name, bootstrap, self._on_applied)
        self.hosts[name] = self.network.hosts[name] = host
        host.start()
        host.disk.crash_chance = self._crash_chance
        return host

    # Checks

    def _on_applied(self, host: Host, index: int, command: str) -> None:
        known = self._applied.setdefault(index, command)
        if known != command:
            raise Violation(f"index {index} is {known!r}, {host.name} applies {command!r}")

    def check(self) -> None:
        """Check what must hold at every moment."""
        for name, host in self.hosts.items():
            if not host.alive:
                continue
            core = host.core
            if core.is_leader and self._leaders.setdefault(core.term, name) != name:
                raise Violation(f"{self._leaders[core.term]} and {name} lead term {core.term}")
            if not core.applied_index <= core.commit_index <= core.last_index:
                raise Violation(f"{name}: applied, committed and last index are out of order")
            if core.commit_index < host.commit_seen:
                raise Violation(f"{name}: commit index went back from {host.commit_seen}")
            host.commit_seen = core.commit_index

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
            floor = len(self._acknowledged)
            host.ask(lambda core: core.read_index(lambda index: self._on_read(host, floor, index)))

    def _proposal(self, host: Host, command: str) -> Callable[[RaftCore], None]:
        def act(core: RaftCore) -> None:
            if core.ready:
                index, term = core.propose(command.encode())
                host.waiting[index] = (term, lambda: self._acknowledged.append(command))

        return act

    def _on_read(self, host: Host, floor: int, index: int | None) -> None:
        if index is None:
            return
        self.outcome.reads += 1
        held = set(host.machine.commands)
        for command in self._acknowledged[max(0, floor - _LOOK_BACK) : floor]:
            if command not in held:
                raise Violation(f"a read on {host.name} misses the write {command[:9]}")

    def fault(self) -> None:
        """Break something; some time later links heal and machines start again."""
        names = sorted(self.hosts)
        match self.chance.choice(["cut", "isolate", "partition", "crash", "freeze", "transfer"]):
            case "cut" if len(names) > 1:
                self.network.cut(*self.chance.sample(names, 2))
            case "isolate":
                self._split({self.chance.choice(names)})
            case "partition":
                size = self.chance.randint(1, max(1, len(names) // 2))
                self._split(set(self.chance.sample(names, size)))
            case "crash":
                count = min(len(names), self.chance.choice([1, 1, 1, 2, len(names)]))
                for name in self.chance.sample(names, count):
                    self._crash(self.hosts[name])
            case "freeze":
                host = self._any_host()
                host.frozen_until = self.world.now + self.chance.uniform(0.1, 3)
            case _:
                if (leader := self.leader()) and leader.idle:
                    leader.ask(_transfer)
        self.world.after(self.chance.uniform(0.02, 2), self.network.heal)

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
            host.disk.crash_chance = 0.0
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
        lost = [command[:9] for command in self._acknowledged if command not in held]
        if lost:
            raise Violation(f"{len(lost)} acknowledged writes are lost: {lost[:5]}")
        if len(held) != len(commands):
            raise Violation("a write was applied twice")
        self.outcome.acknowledged = len(self._acknowledged)
        self.outcome.crashes = sum(host.crashes for host in self.hosts.values())
        self.outcome.messages = self.network.sent
        self.outcome.terms = max(self._leaders)


def _transfer(core: RaftCore) -> None:
    core.transfer(None)


def run(
    seed: int,
    duration_s: float = 30.0,
    size: int = 3,
    members: bool = False,
    crash_chance: float = 0.0005,
) -> Outcome:
    """Run one seed; raises Violation naming the command that replays it."""
    world = World(seed)
    replay = f"python -m tests.sim.raft --seed {seed} --duration {duration_s:g} --size {size}"
    with world.entered():
        simulation = Simulation(world, size, crash_chance)
        try:
            simulation.forever(0.02, simulation.check)
            simulation.forever(0.2, simulation.network.connect)
            simulation.every(25, simulation.client)
            if members:
                replay += " --members"
                simulation.every(2, simulation.change_members)
            simulation.world.run(simulation.world.now + 2)
            simulation.every(1, simulation.fault)
            simulation.world.run(simulation.world.now + duration_s)
            simulation.verify(simulation.settle())
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}; replay: {replay}") from error
    return simulation.outcome
