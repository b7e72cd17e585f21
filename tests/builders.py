"""Builders of model objects, and a control plane in memory on a virtual clock."""

from collections.abc import Iterable

from manager import reconcile
from manager.allocator.ports import needs_ingress
from manager.orchestrator import runs
from manager.store import changes as c
from manager.store.apply import Applied, Key, apply
from manager.store.digest import moved_by
from manager.store.view import View, is_live, is_placed, is_wanted
from swarmapi.model import defaults
from swarmapi.model.objects import (
    Cluster,
    Network,
    Node,
    NodeDescription,
    NodeState,
    Service,
    SpecVersion,
    Task,
    TaskState,
    TaskStatus,
    UpdateStatus,
)
from swarmapi.model.spec import (
    Availability,
    ClusterSpec,
    ContainerSpec,
    Cron,
    EndpointSpec,
    Global,
    GlobalJob,
    NetworkAttachmentConfig,
    NetworkSpec,
    NodeSpec,
    OrchestrationConfig,
    Placement,
    PlacementPreference,
    Platform,
    PortConfig,
    Replicated,
    ReplicatedJob,
    Reservations,
    Resources,
    RestartCondition,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    SpreadOver,
    TaskTemplate,
    UpdateConfig,
)

SECOND = 1_000_000_000
MIB = 1 << 20


def node(
    node_id: str,
    *,
    labels: dict[str, str] | None = None,
    memory_bytes: int = 1024 * MIB,
    cpu_nanos: int = 4 * SECOND,
    state: NodeState = NodeState.READY,
    availability: Availability = Availability.ACTIVE,
) -> Node:
    """Return a node whose host name is its id."""
    return Node(
        id=node_id,
        spec=NodeSpec(labels=labels, availability=availability),
        description=NodeDescription(
            hostname=node_id,
            platform=Platform(architecture="x86_64", os="linux"),
            cpu_nanos=cpu_nanos,
            memory_bytes=memory_bytes,
        ),
        state=state,
        data_path="192.0.2.1",
    )


def spec(
    name: str = "web",
    *,
    replicas: int | None = 1,
    image: str = "image:1",
    networks: tuple[str, ...] = (),
    ports: tuple[PortConfig, ...] = (),
    memory_bytes: int = 0,
    constraints: tuple[str, ...] = (),
    spread: tuple[str, ...] = (),
    platforms: tuple[Platform, ...] = (),
    max_replicas: int = 0,
    condition: RestartCondition | None = None,
    delay: int | None = 0,
    max_attempts: int | None = None,
    window: int | None = None,
    update: UpdateConfig | None = None,
    rollback: UpdateConfig | None = None,
    mode: str = "",
    job: ServiceMode | None = None,
) -> ServiceSpec:
    """Return a service spec; `replicas=None` makes it global, `job` a job."""
    template = TaskTemplate(
        container_spec=ContainerSpec(image=image),
        resources=Resources(reservations=Reservations(memory_bytes=memory_bytes)),
        restart_policy=RestartPolicy(
            condition=condition, delay=delay, max_attempts=max_attempts, window=window
        ),
        placement=Placement(
            constraints=constraints or None,
            preferences=tuple(
                PlacementPreference(spread=SpreadOver(spread_descriptor=s)) for s in spread
            ),
            max_replicas=max_replicas,
            platforms=platforms or None,
        ),
        networks=tuple(NetworkAttachmentConfig(target=n) for n in networks),
    )
    replicated = None if replicas is None else Replicated(replicas=replicas)
    return ServiceSpec(
        name=name,
        task_template=template,
        mode=job
        or ServiceMode(replicated=replicated, global_=Global() if replicas is None else None),
        update_config=update,
        rollback_config=rollback,
        endpoint_spec=EndpointSpec(mode=mode, ports=ports) if ports or mode else None,
    )


def job_mode(
    total: int | None = 1,
    concurrent: int | None = None,
    *,
    deadline_s: int | None = None,
    cron: Cron | None = None,
) -> ServiceMode:
    """Return the mode of a replicated job; `total=None` makes it a global one."""
    replicated = ReplicatedJob(max_concurrent=concurrent or total, total_completions=total)
    return ServiceMode(
        replicated_job=replicated if total is not None else None,
        global_job=GlobalJob() if total is None else None,
        deadline=None if deadline_s is None else deadline_s * SECOND,
        cron=cron,
    )


def port(target: int, published: int = 0, mode: str = "", protocol: str = "tcp") -> PortConfig:
    """Return a published port."""
    return PortConfig(
        protocol=protocol, target_port=target, published_port=published, publish_mode=mode
    )


def networks_of_spec(view: View, spec: ServiceSpec) -> tuple[str, ...]:
    """Return ids for `SpecVersion.networks`: the attached ones, ingress last where needed."""
    ids: list[str] = []
    for attachment in spec.task_template.networks or spec.networks or ():
        target = attachment.target
        network_id = target if target in view.networks else view.by_name("network", target)
        if network_id is not None and network_id not in ids:
            ids.append(network_id)
    ingress = view.ingress_network()
    if ingress is not None and needs_ingress(spec) and ingress.id not in ids:
        ids.append(ingress.id)
    return tuple(ids)


class World:
    """A control plane without I/O: the real store and turn, a clock that is set by hand."""

    def __init__(self, *, history: int | None = None) -> None:
        self.view = View()
        self.now_ns = 1_000 * SECOND
        self.acks: dict[str, dict[str, int]] = {}
        self.dirty: set[Key] = set()
        self.deadline_ns: int | None = None
        self.specs_kept = 1
        """How many earlier specs of a service stay."""
        self.digest = 0
        self._index = 0
        self._ids = 0
        settings = OrchestrationConfig(task_history_retention_limit=history)
        self.commit(c.PutCluster(cluster=Cluster(id="c", spec=ClusterSpec(orchestration=settings))))

    def new_id(self) -> str:
        """Return the next id."""
        self._ids += 1
        return f"t{self._ids:05}"

    def commit(self, *changes: c.Change, request_id: str = "") -> Applied:
        """Commit one transaction through its wire form."""
        self._index += 1
        transaction = c.Transaction(request_id=request_id, changes=changes)
        applied = apply(self.view, self._index, self.now_ns, c.decode(c.encode(transaction)))
        self.digest ^= moved_by(applied)
        self.dirty |= applied.dirty
        return applied

    def propose(self) -> reconcile.TurnResult:
        """Run one turn without committing it."""
        env = reconcile.Env(self.now_ns, self.new_id)
        result = reconcile.turn(self.view, self.dirty, env, self.acks)
        self.deadline_ns = result.next_deadline_ns
        return result

    def turn(self) -> tuple[c.Change, ...]:
        """Run one turn and commit it."""
        result = self.propose()
        applied = self.commit(*result.changes) if result.changes else None
        if applied is None or applied.conflict is None:
            self.dirty = set(result.still_dirty) | set(applied.dirty if applied else ())
        return result.changes

    def settle(self, turns: int = 300) -> None:
        """Run turns until none has anything left to do at this time."""
        for _ in range(turns):
            if not self.turn() and not self.dirty:
                return
        raise AssertionError(f"not settled after {turns} turns: {sorted(self.dirty)}")

    def advance(self, seconds: float) -> None:
        """Let time pass, then settle."""
        self.now_ns += int(seconds * SECOND)
        self.settle()

    def add_nodes(self, *nodes: Node) -> None:
        """Register nodes."""
        self.commit(*(c.PutNode(node=n) for n in nodes))

    def add_network(self, network_id: str, *, ingress: bool = False, ipv6: bool = False) -> None:
        """Create an overlay network whose name is its id."""
        made = NetworkSpec(name=network_id, driver="overlay", ingress=ingress, enable_ipv6=ipv6)
        self.commit(c.PutNetwork(network=Network(id=network_id, spec=made)))

    def put_service(
        self, service_id: str, given: ServiceSpec, status: UpdateStatus | None = None
    ) -> Applied:
        """Create, update or, with a status, roll back a service as the API does."""
        old = self.view.services.get(service_id)
        version = self.view.next_spec_version(service_id)
        record = SpecVersion(
            service_id=service_id,
            version=version,
            spec=given,
            networks=networks_of_spec(self.view, given),
        )
        first = runs.first_status(given, self.now_ns) if defaults.is_job(given) else None
        service = Service(
            id=service_id,
            spec=given,
            spec_version=version,
            previous_spec_version=old.spec_version if old is not None else 0,
            older_spec_versions=(
                (old.previous_spec_version, *old.older_spec_versions)[: self.specs_kept - 1]
                if old is not None
                else ()
            ),
            update_status=status,
            job_status=runs.updated_status(old, given, self.now_ns) if old is not None else first,
        )
        expect = old.meta.version if old is not None else 0
        return self.commit(
            c.PutSpecVersion(record=record), c.PutService(service=service, expect_version=expect)
        )

    def tasks(self, service_id: str) -> list[Task]:
        """Return wanted, live tasks in slot order."""
        tasks = self.view.tasks_of_service(service_id)
        found = [t for t in tasks if is_wanted(t) and is_live(t)]
        return sorted(found, key=lambda t: (t.slot, t.node_id, t.id))

    def running(self, service_id: str) -> list[Task]:
        """Return wanted tasks observed RUNNING."""
        return [t for t in self.tasks(service_id) if t.status.state == TaskState.RUNNING]

    def report(self, task_id: str, state: TaskState, error: str = "") -> None:
        """Commit what an agent observed."""
        status = TaskStatus(state=state, timestamp_ns=self.now_ns, error=error)
        self.commit(c.SetTaskStatus(task_id=task_id, status=status))

    def obey(self, only: Iterable[str] | None = None) -> None:
        """Let the agents of reachable nodes bring every task to its desired state."""
        chosen = None if only is None else set(only)
        for task in list(self.view.tasks.values()):
            holder = self.view.nodes.get(task.node_id)
            if holder is None or holder.state == NodeState.DOWN or not is_placed(task):
                continue
            if chosen is not None and task.id not in chosen:
                continue
            goal = min(task.desired, TaskState.RUNNING)
            if task.desired > TaskState.COMPLETE:
                self.report(task.id, TaskState.SHUTDOWN)
            elif task.status.state < goal:
                self.report(task.id, goal)

    def acknowledge(self, *node_ids: str) -> None:
        """Let nodes (all when none is named) acknowledge every table as it is now."""
        for node_id in node_ids or tuple(self.view.nodes):
            revisions = {n.id: n.table_index for n in self.view.networks.values()}
            self.acks[node_id] = revisions

    def converge(self, rounds: int = 60) -> None:
        """Let manager and agents work, without time passing, until nothing moves."""
        for _ in range(rounds):
            before = self.view.index
            self.settle()
            self.obey()
            self.acknowledge()
            self.settle()
            if self.view.index == before:
                return
        raise AssertionError(f"not converged after {rounds} rounds")
