"""A cluster in one thread on a virtual clock: real store and turn, fake nodes, seeded faults."""

import random
from collections import Counter

from msgspec.structs import replace

from manager import reconcile
from manager.orchestrator.jobs import is_complete
from manager.orchestrator.slots import ended_by_itself, is_done, is_filled, slot_key, slots_of
from manager.store import changes as c
from manager.store.digest import digest_of
from manager.store.snapshot import dump, restore
from manager.store.tables import network_table, tables_of_node
from manager.store.view import PARKED, View, is_live, is_placed, is_wanted
from swarmapi.model import defaults
from swarmapi.model.objects import (
    JobOutcome,
    JobStatus,
    NodeState,
    Service,
    Task,
    TaskState,
    TaskStatus,
    UpdateState,
    UpdateStatus,
)
from swarmapi.model.spec import Availability, UpdateConfig
from swarmapi.model.tables import EndpointState
from tests.builders import MIB, SECOND, World, node
from tests.sim.cluster.fake_node import FakeNode
from tests.sim.cluster.pace import check_host_ports, check_pace
from tests.sim.cluster.specs import random_spec


class Simulation:
    """One seeded run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.world = World(history=self.rng.choice((1, 2, 5)))
        self.nodes = {f"n{i}": FakeNode(f"n{i}") for i in range(self.rng.choice((2, 3, 4, 5, 7)))}
        self.failure_rate = self.rng.choice((0.0, 0.02, 0.1))
        self.created = 0
        self.joined = 0
        self._seen: dict[str, Task] = {}
        self._iterations: dict[str, int] = {}
        self._completed: dict[str, set[tuple[int, str]]] = {}
        self._limits: dict[str, int] = {}
        self.world.specs_kept = 3
        self.world.add_network("ingress", ingress=True, ipv6=True)
        self.world.add_network("net")
        for fake in self.nodes.values():
            fake.last_beat_ns = self.world.now_ns
            self.world.add_nodes(node(fake.id, labels={"rack": self.rng.choice("ab")}))

    @property
    def view(self) -> View:
        """The state now."""
        return self.world.view

    # steps ----------------------------------------------------------------------------------

    def step(self) -> None:
        """Do one random thing, then check that nothing is broken."""
        actions = (
            (30, self.manage),
            (40, self.serve_node),
            (10, self.pass_time),
            (4, self.change_service),
            (2, self.go_back_or_on),
            (2, self.change_node),
            (2, self.fault),
            (1, self.change_leader),
        )
        weights = [weight for weight, _ in actions]
        self.rng.choices([action for _, action in actions], weights)[0]()
        self.check()

    def manage(self) -> None:
        """Run one turn; sometimes the proposal is lost, or delivered twice."""
        result = self.world.propose()
        fate = self.rng.random()
        if fate < 0.05 or not result.changes:
            if not result.changes:
                self.world.dirty = set(result.still_dirty)
            return
        self.check_stops(result)
        check_pace(self.view, self.world.now_ns, result)
        request = f"r{self.view.index}"
        applied = self.world.commit(*result.changes, request_id=request)
        if applied.conflict is None:
            self.world.dirty = set(result.still_dirty) | set(applied.dirty)
        if fate < 0.10:
            again = self.world.commit(*result.changes, request_id=request)
            assert again.duplicate

    def serve_node(self) -> None:
        """One node talks to the manager and works."""
        fake = self.nodes[self.rng.choice(sorted(self.nodes))]
        if not fake.alive:
            return
        if fake.reachable:
            self.talk(fake)
        fake.work(self.rng, self.failure_rate)

    def talk(self, fake: FakeNode) -> None:
        """Heartbeat, reports, full assignment, tables, acknowledgements."""
        stored = self.view.nodes[fake.id]
        fake.last_beat_ns = self.world.now_ns
        if stored.state != NodeState.READY:
            self.world.commit(c.SetNodeStatus(node_id=fake.id, state=NodeState.READY))
        for task_id, state in fake.unsent.items():
            task = self.view.tasks.get(task_id)
            if task is not None and task.node_id == fake.id:
                ready = state != TaskState.RUNNING or task_id not in fake.unready
                status = TaskStatus(state=state, timestamp_ns=self.world.now_ns, ready=ready)
                self.world.commit(c.SetTaskStatus(task_id=task_id, status=status))
        fake.unsent.clear()
        assigned = [t for t in self.view.tasks_of_node(fake.id) if is_placed(t)]
        fake.desired = {t.id: t.desired for t in assigned}
        for task in assigned:
            fake.local.setdefault(task.id, task.status.state)
        ended = [i for i in fake.local if i not in fake.desired]
        for task_id in ended:
            del fake.local[task_id]
        wanted = tables_of_node(self.view, fake.id)
        fake.tables = {i: t for i in wanted if (t := network_table(self.view, i)) is not None}
        self.world.acks[fake.id] = {i: t.revision for i, t in fake.tables.items()}

    def pass_time(self) -> None:
        """Move the clock; nodes not heard of for 3 s are down."""
        self.world.now_ns += self.rng.choice((1, 10, 200, 1000, 2500)) * SECOND // 1000
        for fake in self.nodes.values():
            silent_ns = self.world.now_ns - fake.last_beat_ns
            if fake.alive and fake.reachable:
                fake.last_beat_ns = self.world.now_ns
            elif silent_ns > 3 * SECOND and self.view.nodes[fake.id].state != NodeState.DOWN:
                self.world.acks.pop(fake.id, None)
                self.world.commit(c.SetNodeStatus(node_id=fake.id, state=NodeState.DOWN))
            elif silent_ns > 2 * SECOND and self.view.nodes[fake.id].state == NodeState.READY:
                self.world.commit(c.SetNodeStatus(node_id=fake.id, state=NodeState.UNKNOWN))

    def change_service(self) -> None:
        """Create, scale, update or delete a service."""
        ids = sorted(self.view.services)
        choice = self.rng.random()
        if len(ids) < 4 and (choice < 0.4 or not ids):
            self.created += 1
            self.world.put_service(f"s{self.created}", random_spec(self.rng, f"s{self.created}"))
            return
        if not ids:
            return
        service_id = self.rng.choice(ids)
        if choice < 0.5:
            self.world.commit(c.Delete(object="service", id=service_id, reason="asked"))
        else:
            self.world.put_service(service_id, random_spec(self.rng, service_id))

    def go_back_or_on(self) -> None:
        """Roll a service back to a spec that is kept, or resume what paused."""
        ids = [i for i, s in sorted(self.view.services.items()) if s.job_status is None]
        if not ids:
            return
        service = self.view.services[self.rng.choice(ids)]
        status = service.update_status
        if status is not None and status.state in (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED):
            back = status.state == UpdateState.ROLLBACK_PAUSED
            on = replace(
                status,
                state=UpdateState.ROLLBACK_STARTED if back else UpdateState.UPDATING,
                completed_ns=0,
                forgiven=len(status.failed_tasks),
            )
            version = service.spec_version
            self.world.commit(
                c.SetUpdateStatus(service_id=service.id, spec_version=version, status=on)
            )
            return
        kept = [service.previous_spec_version, *service.older_spec_versions]
        records = [r for v in kept if (r := self.view.specs.get((service.id, v))) is not None]
        if records:
            started = UpdateStatus(state=UpdateState.ROLLBACK_STARTED, started_ns=self.world.now_ns)
            self.world.put_service(service.id, self.rng.choice(records).spec, started)

    def change_node(self) -> None:
        """Drain, pause, activate, remove or add a node."""
        choice = self.rng.random()
        if choice < 0.1 and len(self.nodes) > 1:
            gone = self.rng.choice(sorted(self.nodes))
            del self.nodes[gone]
            self.world.acks.pop(gone, None)
            self.world.commit(c.Delete(object="node", id=gone, reason="asked"))
            return
        if choice < 0.2 and len(self.nodes) < 6:
            self.joined += 1
            fresh = FakeNode(f"m{self.joined}")
            fresh.last_beat_ns = self.world.now_ns
            self.nodes[fresh.id] = fresh
            self.world.add_nodes(node(fresh.id, labels={"rack": self.rng.choice("ab")}))
            return
        stored = self.view.nodes[self.rng.choice(sorted(self.nodes))]
        changed = node(
            stored.id,
            labels={"rack": self.rng.choice("ab")},
            availability=self.rng.choice(list(Availability)),
            state=stored.state,
        )
        self.world.commit(c.PutNode(node=changed, expect_version=stored.meta.version))

    def fault(self) -> None:
        """Crash, partition or heal a node; cut off all but one; call off the pause of that."""
        fake = self.nodes[self.rng.choice(sorted(self.nodes))]
        choice = self.rng.random()
        cluster = self.view.cluster
        assert cluster is not None
        if cluster.disappeared_ns and choice < 0.2:
            self.world.commit(c.SetDisappearance(counted_from_ns=self.world.now_ns))
            return
        if choice > 0.95:
            for other in self.nodes.values():
                other.reachable = other is fake
            return
        if choice < 0.3:
            fake.crash()
        elif choice < 0.6:
            fake.reachable = False
        else:
            fake.alive = fake.reachable = True

    def change_leader(self) -> None:
        """Start over from a snapshot, without any soft state."""
        self.world.view = restore(list(dump(self.view)))
        self.world.acks = {}
        self.world.dirty = set(reconcile.all_keys(self.view))

    # safety ---------------------------------------------------------------------------------

    def check_stops(self, result: reconcile.TurnResult) -> None:
        """No reachable serving task is told to stop before all know, or the deadline passed."""
        for change in result.changes:
            if not isinstance(change, c.SetDesired) or change.desired <= TaskState.RUNNING:
                continue
            task = self.view.tasks.get(change.task_id)
            if task is None or not is_live(task) or task.desired > TaskState.RUNNING:
                continue
            if self.view.nodes[task.node_id].state == NodeState.DOWN if task.node_id else True:
                continue
            if task.status.state < TaskState.RUNNING or not task.addresses:
                continue
            if not task.endpoint.index:
                continue  # never served
            assert task.endpoint.state is EndpointState.WITHDRAWN, f"{task.id} serves"
            if self.world.now_ns >= task.endpoint.deadline_ns:
                continue
            for lease in task.addresses:
                network = self.view.networks[lease.network_id]
                for node_id in self.view.participants(network):
                    if self.view.nodes[node_id].state != NodeState.DOWN:
                        known = self.world.acks[node_id][network.id]
                        assert known >= task.endpoint.index, f"{node_id} sends to {task.id}"

    def check(self) -> None:
        """Check everything that must hold at any time."""
        self._check_tasks()
        self._check_jobs()
        self._check_addresses()
        self._check_capacity()
        check_host_ports(self.view)

    def _check_tasks(self) -> None:
        slots: Counter[tuple[str, int, str]] = Counter()
        for task in self.view.tasks.values():
            old = self._seen.get(task.id)
            if old is not None:
                assert task.status.state >= old.status.state, f"{task.id} went back"
                assert task.desired >= old.desired, f"{task.id} is wanted again"
                assert old.node_id in ("", task.node_id), f"{task.id} moved"
                assert task.spec_version == old.spec_version
            if is_wanted(task) and is_live(task):
                slots[(task.service_id, task.slot, "" if task.slot else task.node_id)] += 1
        self._seen = dict(self.view.tasks)
        for key, count in slots.items():
            service = self.view.services.get(key[0])
            orders = {
                (r.spec.update_config or UpdateConfig()).order
                for r in self.view.specs.values()
                if r.service_id == key[0]
            }
            if service is not None and "start-first" not in orders:
                assert count <= 1, f"slot {key} holds {count} wanted tasks"

    def _check_jobs(self) -> None:
        """Never more at once than asked for, no slot completed twice or run after it completed."""
        for service in self.view.services.values():
            status, running, done = service.job_status, 0, Counter[tuple[int, str]]()
            if status is None:
                continue
            iteration = f"{service.id}/{status.iteration}"
            assert status.iteration >= self._iterations.get(service.id, 0), f"{iteration} went back"
            self._iterations[service.id] = status.iteration
            tasks = self.view.tasks_of_service(service.id)
            current = [t for t in tasks if t.job_iteration == status.iteration]
            done.update(slot_key(t) for t in current if is_done(t))
            for key in self._completed.get(iteration, ()) if not service.spec.mode.cron else ():
                assert done[key] or (key[1] and key[1] not in self.view.nodes), f"{key} forgotten"
            self._completed[iteration] = set(done)
            running = sum(is_wanted(t) and is_live(t) for t in current)
            if defaults.is_per_node(service.spec):
                continue
            total = defaults.total_completions(service.spec)
            if service.spec.mode.cron is None:  # the run under way takes on a new total
                assert len(done) <= total, f"{iteration}: {len(done)} of {total} completed"
                assert all(1 <= t.slot <= total for t in current), f"{iteration}: a slot too many"
            limit = max(defaults.max_concurrent(service.spec), self._limits.get(iteration, 0))
            self._limits[iteration] = limit
            assert running <= limit, f"{iteration}: {running} run, {limit} may"
            for key in done:
                made = [t for t in current if slot_key(t) == key]
                first_ns = min(t.status.applied_ns for t in made if is_done(t))
                again = [t.id for t in made if t.meta.created_ns > first_ns]
                assert not again, f"{iteration}: slot {key} was run again as {again}"

    def _check_addresses(self) -> None:
        owners: dict[tuple[str, str], str] = {}

        def claim(network_id: str, owner: str, *addresses: str) -> None:
            for address in addresses:
                key = (network_id, address)
                assert owners.setdefault(key, owner) == owner, f"{key}: {owners[key]} and {owner}"

        for network in self.view.networks.values():
            claim(network.id, "gateway", *(pool.gateway for pool in network.pools()))
        for record in self.view.quarantined.values():
            claim(record.network_id, f"quarantine {record.id}", record.address)
        for stored in self.view.nodes.values():
            claim("ingress", stored.id, *stored.ingress_hosts())
        ports: dict[tuple[str, int], str] = {}
        for service in self.view.services.values():
            for vip in service.endpoint.vips:
                claim(vip.network_id, service.id, *vip.hosts())
            for published in service.endpoint.ports:
                key = (published.protocol, published.published_port)
                assert ports.setdefault(key, service.id) == service.id, f"port {key}"
        for task in self.view.tasks.values():
            for lease in task.addresses if is_live(task) else ():
                claim(lease.network_id, task.id, *lease.hosts())
        self._check_tables(owners)

    def _check_tables(self, owners: dict[tuple[str, str], str]) -> None:
        """No node that takes part sends an address's traffic to another task than its owner."""
        for fake in self.nodes.values():
            for network_id in tables_of_node(self.view, fake.id):
                table = fake.tables.get(network_id)
                for endpoint in table.endpoints.values() if table is not None else ():
                    for address in endpoint.addresses():
                        owner = owners.get((network_id, address))
                        if owner is not None and owner in self.view.tasks:
                            assert owner == endpoint.task_id, f"{fake.id} has a stale address"

    def _check_capacity(self) -> None:
        for stored in self.view.nodes.values():
            reserved = sum(
                self.view.demands[(t.service_id, t.spec_version)].memory_bytes
                for t in self.view.tasks_of_node(stored.id)
                if is_placed(t)
            )
            assert reserved <= stored.description.memory_bytes, f"{stored.id} is overcommitted"
            load = self.view.loads.get(stored.id)
            assert reserved == (load.memory_bytes if load is not None else 0)

    # liveness -------------------------------------------------------------------------------

    def heal(self) -> None:
        """Stop all faults and let everything settle."""
        self.failure_rate = 0.0
        for fake in self.nodes.values():
            fake.alive = fake.reachable = True
            fake.unsent.update({i: fake.local[i] for i in fake.unready if i in fake.local})
            fake.unready.clear()
            stored = self.view.nodes[fake.id]
            roomy = node(fake.id, labels={"rack": "a"}, state=stored.state, memory_bytes=4096 * MIB)
            self.world.commit(c.PutNode(node=roomy))
        idle = 0
        for _ in range(1200):
            before = self.view.index
            for fake in self.nodes.values():
                self.talk(fake)
                fake.work(self.rng, 0.0)
            self.manage()
            self.check()
            self.world.now_ns += SECOND // 2
            idle = idle + 1 if self.view.index == before else 0
            if idle <= 6:
                continue
            if not self._is_waiting():
                break
            idle = 0
            self.world.now_ns = max(self.world.now_ns, self.world.deadline_ns or 0)
        for _ in range(20):  # cron jobs never come to rest: no time passes for the last run
            for fake in self.nodes.values():
                self.talk(fake)
                fake.work(self.rng, 0.0)
            self.world.settle()
            self.check()

    def _is_waiting(self) -> bool:
        """Tell whether only time is missing: for a delay, an update's monitor, a job's end."""
        if self.view.by_stage.of(PARKED) or self.view.services_in.of("updating"):
            return True
        return any(
            s.job_status is not None and s.spec.mode.cron is None and not s.job_status.ended_ns
            for s in self.view.services.values()
        )

    def check_converged(self) -> None:
        """Check that every service runs as asked, and that a turn has nothing to say."""
        self.world.dirty = set(reconcile.all_keys(self.view))
        left = self.world.propose()
        assert not left.changes, f"still wants {left.changes[:3]}"
        assert self.world.digest == digest_of(self.view), "the digest missed a change"
        assert not self.view.quarantined, "addresses stay in quarantine"
        for task in self.view.tasks.values():
            if is_live(task):
                assert task.service_id in self.view.services, f"{task.id} outlives its service"
        for service in self.view.services.values():
            if service.endpoint.error:
                continue
            if service.job_status is not None:
                self._check_job_ended(service, service.job_status)
                continue
            running = self.world.running(service.id)
            count = defaults.replicas(service.spec)
            if defaults.is_global(service.spec):
                count = len(self.nodes)
            status = service.update_status
            paused = status is not None and status.state in (
                UpdateState.PAUSED,
                UpdateState.ROLLBACK_PAUSED,
            )
            slots = {(t.slot, "" if t.slot else t.node_id) for t in running}
            excused = self._accounted_for(service) - slots
            assert len(slots | excused) == count, f"{service.id}: {len(slots)} of {count} run"
            # An update that was paused may leave old and new side by side, and so may one that
            # goes on whatever happens but finds no room.
            stuck = any(t.explanation for t in self.world.tasks(service.id))
            assert paused or stuck or len(running) == len(slots), f"{service.id}: surplus"
            ended = status is None or paused or stuck or status.completed_ns
            assert ended, f"{service.id}: {status}"
            self._check_images(service, running, excused=paused or stuck)

    def _check_images(self, service: Service, running: list[Task], *, excused: bool) -> None:
        """What runs is what was asked for, but where it failed beside the old and may not again."""
        image = defaults.container(service.spec).image
        every = slots_of(self.view, service.id)
        for task in running:
            serves = task.endpoint.state is EndpointState.SERVING
            assert serves or not task.addresses, f"{task.id} runs and does not serve"
            record = self.view.spec_of(task)
            assert record is not None
            failed = any(
                ended_by_itself(t) and t.spec_version == service.spec_version
                for t in every[slot_key(task)].tasks
            )
            current = defaults.container(record.spec).image == image
            assert current or excused or failed, f"{service.id}: {task.id} is outdated"

    def _accounted_for(self, service: Service) -> set[tuple[int, str]]:
        """Return slots that rightly do not run: without room anywhere, or out of attempts."""
        slots = slots_of(self.view, service.id)
        return {
            key
            for key, slot in slots.items()
            if is_filled(self.view, service, slot)
            and (not slot.wanted or any(t.explanation for t in slot.wanted))
        }

    def _check_job_ended(self, service: Service, status: JobStatus) -> None:
        """A job comes to an end; a cron job's next start is ahead."""
        if service.spec.mode.cron is not None:
            assert status.next_start_ns > self.world.now_ns
            return
        assert status.ended_ns, f"{service.id}: {status}"
        if status.outcome is JobOutcome.COMPLETE and not defaults.is_per_node(service.spec):
            slots = slots_of(self.view, service.id, status.iteration).values()
            complete = sum(is_complete(s) for s in slots)
            assert complete == defaults.total_completions(service.spec)


def run(seed: int, steps: int = 600, minutes: float = 0) -> None:
    """Run one seed, for so many steps or simulated minutes; a failure says how to replay it."""
    simulation = Simulation(seed)
    done, until_ns = 0, simulation.world.now_ns + int(minutes * 60 * SECOND)
    try:
        while simulation.world.now_ns < until_ns if minutes else done < steps:
            simulation.step()
            done += 1
        simulation.heal()
        simulation.check_converged()
    except Exception as error:
        length = f"--minutes {minutes:g}" if minutes else f"--steps {steps}"
        replay = f"python -m tests.sim.cluster --seed {seed} {length}"
        raise AssertionError(f"seed {seed}, step {done}: {error!r}\nreplay: {replay}") from error
