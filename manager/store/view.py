"""The state of the cluster with its indexes, and an overlay of changes not yet committed.

A View is written by `manager.store.apply` alone. Everything the reconcilers ask often is an
index kept by each write, so that a turn costs what it changes and not what exists.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple, TypeVar

from manager.store.layers import Index, Layer, Queues
from manager.store.ports import HostPort, PortKey, host_ports, numbers, ports_of
from swarmapi.model import defaults
from swarmapi.model.objects import (
    Cluster,
    Config,
    Network,
    NetworkLease,
    Node,
    NodeState,
    Quarantined,
    Secret,
    Service,
    SpecVersion,
    StoryLine,
    Task,
    TaskState,
    UpdateState,
)
from swarmapi.model.spec import Availability
from swarmapi.model.tables import EndpointState

K = TypeVar("K")

NEW = "new"
PENDING = "pending"
PARKED = "parked"
STOPPING = "stopping"
MOVED = "moved"
SpecKey = tuple[str, int]


class Demand(NamedTuple):
    """What one task of a spec version takes from its node."""

    cpu_nanos: int = 0
    memory_bytes: int = 0
    host_ports: tuple[HostPort, ...] = ()
    generic: tuple[tuple[str, int], ...] = ()
    """(kind, how many) of generic resources."""


class Load(NamedTuple):
    """What the tasks of a node take: reservations until they ended, `tasks` while wanted."""

    cpu_nanos: int = 0
    memory_bytes: int = 0
    tasks: int = 0


def is_live(task: Task) -> bool:
    """Tell whether the attempt has not ended."""
    return task.status.state <= TaskState.RUNNING


def is_stopping(task: Task) -> bool:
    """Tell whether its endpoint was withdrawn in order to stop it."""
    return task.endpoint.state is EndpointState.WITHDRAWN and task.endpoint.deadline_ns > 0


def is_ending(task: Task) -> bool:
    """Tell whether its node waits for leave to stop it, its endpoint being withdrawn."""
    withdrawn = task.endpoint.state is EndpointState.WITHDRAWN
    return task.status.ending and withdrawn and not task.endpoint.drained


def is_wanted(task: Task) -> bool:
    """Tell whether it shall run, or has run to completion, and no stop is under way."""
    return task.desired <= TaskState.COMPLETE and not is_stopping(task)


def is_placed(task: Task) -> bool:
    """Tell whether it takes resources of its node."""
    return bool(task.node_id) and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


def demand_of(record: SpecVersion) -> Demand:
    """Return what a task of this spec version reserves."""
    resources = record.spec.task_template.resources
    reserved = resources.reservations if resources else None
    ports = host_ports(record.spec)
    if reserved is None:
        return Demand(host_ports=ports)
    wanted = [r.discrete_resource_spec for r in reserved.generic_resources or ()]
    generic = tuple((r.kind, r.value) for r in wanted if r is not None and r.value)
    return Demand(reserved.cpu_nanos, reserved.memory_bytes, ports, generic)


def is_unallocated(service: Service) -> bool:
    """Tell whether the allocator still owes a service something."""
    return bool(service.endpoint.error) or service.endpoint.spec_version != service.spec_version


def is_timed(service: Service) -> bool:
    """Tell whether the clock alone may change a service: a cron job, or one with a deadline."""
    mode, status = service.spec.mode, service.job_status
    if status is None:
        return False
    return mode.cron is not None or bool(mode.deadline and status.is_running)


class View:
    """All objects by id, and the indexes over them."""

    def __init__(self) -> None:
        self.cluster: Cluster | None = None
        self.index = 0
        self.now_ns = 0
        self.nodes: MutableMapping[str, Node] = {}
        self.services: MutableMapping[str, Service] = {}
        self.networks: MutableMapping[str, Network] = {}
        self.leases: MutableMapping[str, NetworkLease] = {}
        self.secrets: MutableMapping[str, Secret] = {}
        self.configs: MutableMapping[str, Config] = {}
        self.specs: MutableMapping[SpecKey, SpecVersion] = {}
        self.tasks: MutableMapping[str, Task] = {}
        self.quarantined: MutableMapping[str, Quarantined] = {}
        self.stories: MutableMapping[str, tuple[StoryLine, ...]] = {}
        """Task or service id to what happened to it."""
        self.requests: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        """Recent request ids: index and msgpack of the conflict, empty when applied."""
        self.names: MutableMapping[tuple[str, str], str] = {}
        """(kind, name) to id, for services, networks, nodes, and secrets and configs in force."""
        self.demands: MutableMapping[SpecKey, Demand] = {}
        self.loads: MutableMapping[str, Load] = {}
        self.replicas_on: MutableMapping[tuple[str, str], int] = {}
        """(service id, node id) to wanted placed tasks."""
        self.members: MutableMapping[tuple[str, str], int] = {}
        """(network id, node id) to placed tasks and running containers with an address there."""
        self.node_memo: dict[Hashable, Any] = {}
        """What was found out about the nodes as they are; a new one when any of them changes."""
        self.pending: MutableMapping[SpecKey, int] = {}
        """Spec version to how many PENDING tasks without a node it has."""
        self._index_fields()

    def _index_fields(self, base: "View | None" = None) -> None:
        def over(name: str) -> Index[str]:
            return Index(getattr(base, name) if base is not None else None)

        self.quarantine: Queues = Queues(base.quarantine if base else None)
        """Network id to quarantine records with their indexes, the oldest first."""
        self.by_service = over("by_service")
        self.by_node = over("by_node")
        self.by_stage = over("by_stage")
        self.addresses_of = over("addresses_of")
        """Network id to addresses (no prefix) in use or in quarantine."""
        self.members_of = over("members_of")
        """Network id to ids of nodes with placed tasks or running containers on it."""
        self.networks_of = over("networks_of")
        """Node id to ids of networks with its placed tasks or running containers."""
        self.endpoints_of = over("endpoints_of")
        """Network id to ids of placed tasks with an address there."""
        self.vips_of = over("vips_of")
        """Network id to ids of services with a virtual IP there."""
        self.managers = over("managers")
        """`node` to ids of the nodes that are managers, likewise `down` and `drained`."""
        self.leases_of = over("leases_of")
        """Node id and network id to ids of leases."""
        self.unallocated = over("unallocated")
        """Kind to ids of services, networks, nodes and leases the allocator owes something."""
        self.services_in = over("services_in")
        """`updating` (or rolling back), `global` and `timed` (cron, deadlines) to service ids."""
        self.down = over("down")
        self.drained = over("drained")
        self.versions_of = over("versions_of")
        self.tasks_of_spec: Index[SpecKey] = Index(base.tasks_of_spec if base else None)
        self.host_ports_of: Index[tuple[str, PortKey]] = Index(base.host_ports_of if base else None)
        """Node id and port to ids of placed tasks that publish it, each at its place."""
        self.publishers: Index[PortKey] = Index(base.publishers if base else None)
        """Port to ids of the services that have it, or ask for it, in whatever mode and place."""
        self.pending_of_spec: Index[SpecKey] = Index(base.pending_of_spec if base else None)
        """Spec version to PENDING tasks that have no node yet: slot and id as one text, to sort."""

    # reading ------------------------------------------------------------------------------

    def holders(self, node_id: str, port: HostPort) -> list[Task]:
        """Return the placed tasks of a node that `port` clashes with."""
        placed = (self.tasks[i] for i in sorted(self.host_ports_of.of((node_id, port.key))))
        return [t for t in placed if any(port.clashes(p) for p in self.demand(t).host_ports)]

    def demand(self, task: Task) -> Demand:
        """Return what a task takes from its node."""
        return self.demands.get((task.service_id, task.spec_version), Demand())

    def tasks_of_service(self, service_id: str) -> list[Task]:
        """Return its tasks, oldest first."""
        return self._sorted(self.by_service.of(service_id))

    def others_at(self, key: PortKey, service_id: str) -> list[Service]:
        """Return the other services with a port of this protocol and number, by name."""
        found = (self.services[i] for i in self.publishers.of(key) - {service_id})
        return sorted(found, key=lambda service: service.spec.name)

    def tasks_of_node(self, node_id: str) -> list[Task]:
        """Return tasks bound to a node, oldest first."""
        return self._sorted(self.by_node.of(node_id))

    def tasks_of_slot(self, task: Task) -> list[Task]:
        """Return all attempts at the slot of `task`, oldest first."""
        return [
            t
            for t in self.tasks_of_service(task.service_id)
            if t.slot == task.slot and (t.slot or t.node_id == task.node_id)
        ]

    def tasks_in(self, stage: str) -> Iterator[Task]:
        """Yield tasks in a stage (NEW, PENDING, PARKED, STOPPING), in id order."""
        for task_id in sorted(self.by_stage.of(stage)):
            yield self.tasks[task_id]

    def spec_of(self, task: Task) -> SpecVersion | None:
        """Return the spec version a task runs."""
        return self.specs.get((task.service_id, task.spec_version))

    def by_name(self, kind: str, name: str) -> str | None:
        """Return the id of what has the name; of a secret or config, of the one in force."""
        return self.names.get((kind, name))

    def ingress_network(self) -> Network | None:
        """Return the network of the routing mesh, when there is one."""
        network_id = self.names.get(("ingress", ""))
        return self.networks.get(network_id) if network_id else None

    def participants(self, network: Network) -> Iterable[str]:
        """Return ids of nodes that hold the network's table: all for ingress."""
        return self.nodes if network.spec.ingress else self.members_of.of(network.id)

    def manager_addresses(self) -> list[str]:
        """Return `host:port` of every manager, in order."""
        managers = (self.nodes[node_id] for node_id in self.managers.of("node"))
        return sorted(n.manager_address for n in managers if n.manager_address)

    def next_spec_version(self, service_id: str) -> int:
        """Return a version number never used by a stored spec of this service."""
        return max((int(v) for v in self.versions_of.of(service_id)), default=0) + 1

    def _sorted(self, ids: Iterable[str]) -> list[Task]:
        return sorted((self.tasks[i] for i in ids), key=lambda t: (t.meta.created_ns, t.id))

    # writing: by manager.store.apply and snapshot alone -------------------------------------

    def put_node(self, node: Node) -> None:
        """Store a node and keep its indexes."""
        old = self.nodes.get(node.id)
        self.node_memo = {}
        if old is not None:
            self._drop_name("node", old.description.hostname, node.id)
        self.nodes[node.id] = node
        if node.description.hostname:
            self.names[("node", node.description.hostname)] = node.id
        _flag(self.down, "node", node.id, node.state == NodeState.DOWN)
        drained = node.spec.availability == Availability.DRAIN
        _flag(self.drained, "node", node.id, drained)
        _flag(self.managers, "node", node.id, node.is_manager)
        ingress = self.ingress_network()
        owed = node.mesh_slot < 0 or bool(ingress and ingress.subnet and not node.ingress_address)
        _flag(self.unallocated, "node", node.id, owed)
        if ingress is not None:
            self._hold(ingress.id, old.ingress_hosts() if old is not None else (), held=False)
            self._hold(ingress.id, node.ingress_hosts(), held=True)

    def drop_node(self, node_id: str) -> None:
        """Forget a node; its tasks are the caller's."""
        node = self.nodes.pop(node_id)
        self.node_memo = {}
        self._drop_name("node", node.description.hostname, node_id)
        _flag(self.down, "node", node_id, on=False)
        _flag(self.drained, "node", node_id, on=False)
        _flag(self.managers, "node", node_id, on=False)
        _flag(self.unallocated, "node", node_id, on=False)
        ingress = self.ingress_network()
        if ingress is not None:
            self._hold(ingress.id, node.ingress_hosts(), held=False)

    def put_network(self, network: Network) -> None:
        """Store a network and keep its indexes."""
        old = self.networks.get(network.id)
        if old is not None:
            self._drop_name("network", old.spec.name, network.id)
        self.networks[network.id] = network
        self.names[("network", network.spec.name)] = network.id
        _flag(self.unallocated, "network", network.id, not network.subnet)
        if network.spec.ingress:
            self.names[("ingress", "")] = network.id
            if network.subnet and (old is None or old.subnet != network.subnet):
                for node in list(self.nodes.values()):
                    if not node.ingress_address:
                        self.unallocated.add("node", node.id)

    def drop_network(self, network_id: str) -> None:
        """Forget a network."""
        network = self.networks.pop(network_id)
        self._drop_name("network", network.spec.name, network_id)
        self._drop_name("ingress", "", network_id)
        _flag(self.unallocated, "network", network_id, on=False)

    def put_lease(self, lease: NetworkLease) -> None:
        """Store a lease and keep its indexes."""
        if lease.id in self.leases:
            self.drop_lease(lease.id)
        self.leases[lease.id] = lease
        for key in (lease.node_id, lease.network_id):
            self.leases_of.add(key, lease.id)
        _flag(self.unallocated, "lease", lease.id, not lease.address and not lease.error)
        self._hold(lease.network_id, lease.hosts(), held=True)
        if lease.address and lease.is_up:
            self._join(lease.network_id, lease.node_id, 1)

    def drop_lease(self, lease_id: str) -> None:
        """Forget a lease."""
        lease = self.leases.pop(lease_id)
        for key in (lease.node_id, lease.network_id):
            self.leases_of.discard(key, lease_id)
        self.unallocated.discard("lease", lease_id)
        self._hold(lease.network_id, lease.hosts(), held=False)
        if lease.address and lease.is_up:
            self._join(lease.network_id, lease.node_id, -1)

    def put_service(self, service: Service) -> None:
        """Store a service and keep its indexes."""
        old = self.services.get(service.id)
        if old is not None:
            self._unindex_service(old)
        self.services[service.id] = service
        self.names[("service", service.spec.name)] = service.id
        for key in numbers((*service.endpoint.ports, *ports_of(service.spec))):
            self.publishers.add(key, service.id)
        for vip in service.endpoint.vips:
            self._hold(vip.network_id, vip.hosts(), held=True)
            self.vips_of.add(vip.network_id, service.id)
        _flag(self.unallocated, "service", service.id, is_unallocated(service))
        status = service.update_status
        busy = status is not None and status.state in (
            UpdateState.UPDATING,
            UpdateState.ROLLBACK_STARTED,
        )
        _flag(self.services_in, "updating", service.id, busy)
        _flag(self.services_in, "global", service.id, defaults.is_per_node(service.spec))
        _flag(self.services_in, "timed", service.id, is_timed(service))

    def drop_service(self, service_id: str) -> None:
        """Forget a service; its tasks and specs are the caller's."""
        self._unindex_service(self.services.pop(service_id))
        self.stories.pop(service_id, None)
        for index, key in (
            (self.unallocated, "service"),
            (self.services_in, "updating"),
            (self.services_in, "global"),
            (self.services_in, "timed"),
        ):
            _flag(index, key, service_id, on=False)

    def table_of(self, kind: str) -> Mapping[str, Secret]:
        """Return the secrets or the configs, by id."""
        return self.configs if kind == Config.kind else self.secrets

    def put_secret(self, secret: Secret) -> None:
        """Store a secret or config; the greatest revision has the name."""
        if isinstance(secret, Config):
            self.configs[secret.id] = secret
        else:
            self.secrets[secret.id] = secret
        known = self.table_of(secret.kind).get(self.by_name(secret.kind, secret.spec.name) or "")
        if known is None or known.revision <= secret.revision:
            self.names[(secret.kind, secret.spec.name)] = secret.id

    def drop_secret(self, kind: str, secret_id: str) -> None:
        """Forget a secret or config; its name falls to the revision before."""
        gone = (self.configs if kind == Config.kind else self.secrets).pop(secret_id)
        self._drop_name(kind, gone.spec.name, secret_id)
        named = [s for s in self.table_of(kind).values() if s.spec.name == gone.spec.name]
        if named:
            self.names[(kind, gone.spec.name)] = max(named, key=lambda s: s.revision).id

    def put_spec(self, record: SpecVersion) -> None:
        """Store a spec version."""
        key = (record.service_id, record.version)
        self.specs[key] = record
        self.demands[key] = demand_of(record)
        self.versions_of.add(record.service_id, str(record.version))

    def drop_spec(self, key: SpecKey) -> None:
        """Forget a spec version."""
        del self.specs[key]
        del self.demands[key]
        self.versions_of.discard(key[0], str(key[1]))

    def put_quarantined(self, record: Quarantined) -> None:
        """Keep an address out of its pool."""
        self.quarantined[record.id] = record
        self.quarantine.add(record.network_id, record.id, record.index)
        self.addresses_of.add(record.network_id, record.address)

    def drop_quarantined(self, record_id: str) -> None:
        """Give an address back to its pool."""
        record = self.quarantined.pop(record_id)
        self.quarantine.discard(record.network_id, record_id)
        self.addresses_of.discard(record.network_id, record.address)

    def put_task(self, task: Task) -> None:
        """Store a task and keep its indexes."""
        old = self.tasks.get(task.id)
        if old is None:
            self.by_service.add(task.service_id, task.id)
            self.tasks_of_spec.add((task.service_id, task.spec_version), task.id)
        if old is None or old.node_id != task.node_id:
            if old is not None and old.node_id:
                self.by_node.discard(old.node_id, task.id)
            if task.node_id:
                self.by_node.add(task.node_id, task.id)
        self._stage(old, task)
        self._account(old, task)
        self.tasks[task.id] = task

    def drop_task(self, task_id: str) -> None:
        """Forget a task."""
        task = self.tasks.pop(task_id)
        self.stories.pop(task_id, None)
        self.by_service.discard(task.service_id, task_id)
        self.tasks_of_spec.discard((task.service_id, task.spec_version), task_id)
        if task.node_id:
            self.by_node.discard(task.node_id, task_id)
        self._stage(task, None)
        self._account(task, None)

    # upkeep of the indexes ------------------------------------------------------------------

    def _drop_name(self, kind: str, name: str, owner: str) -> None:
        if self.names.get((kind, name)) == owner:
            del self.names[(kind, name)]

    def _unindex_service(self, service: Service) -> None:
        self._drop_name("service", service.spec.name, service.id)
        for key in numbers((*service.endpoint.ports, *ports_of(service.spec))):
            self.publishers.discard(key, service.id)
        for vip in service.endpoint.vips:
            self._hold(vip.network_id, vip.hosts(), held=False)
            self.vips_of.discard(vip.network_id, service.id)

    def _stage(self, old: Task | None, new: Task | None) -> None:
        before = _stages(old) if old is not None else ()
        after = _stages(new) if new is not None else ()
        if before == after:
            return
        for stage in before:
            self._set_stage(old, stage, -1)
        for stage in after:
            self._set_stage(new, stage, 1)

    def _set_stage(self, task: Task | None, stage: str, sign: int) -> None:
        if task is None:
            return
        _flag(self.by_stage, stage, task.id, sign > 0)
        if stage == PENDING and not task.node_id:
            key = (task.service_id, task.spec_version)
            _bump(self.pending, key, sign)
            if sign > 0:
                self.pending_of_spec.add(key, f"{task.slot:09} {task.id}")
            else:
                self.pending_of_spec.discard(key, f"{task.slot:09} {task.id}")

    def _account(self, old: Task | None, new: Task | None) -> None:
        before = _account_of(old) if old is not None else None
        after = _account_of(new) if new is not None else None
        if before == after:
            return
        if old is not None and before is not None and any(before):
            self._count(old, -1)
        if new is not None and after is not None and any(after):
            self._count(new, 1)

    def _count(self, task: Task, sign: int) -> None:
        if is_live(task):
            for lease in task.addresses:
                self._hold(lease.network_id, lease.hosts(), held=sign > 0)
        if not is_placed(task):
            return
        node_id = task.node_id
        for lease in task.addresses:
            self._join(lease.network_id, node_id, sign)
            _flag(self.endpoints_of, lease.network_id, task.id, sign > 0)
        demand = self.demands.get((task.service_id, task.spec_version), Demand())
        wanted = is_wanted(task)
        load = self.loads.get(node_id, Load())
        self.loads[node_id] = Load(
            load.cpu_nanos + sign * demand.cpu_nanos,
            load.memory_bytes + sign * demand.memory_bytes,
            load.tasks + (sign if wanted else 0),
        )
        if wanted:
            _bump(self.replicas_on, (task.service_id, node_id), sign)
        for port in demand.host_ports:
            change = self.host_ports_of.add if sign > 0 else self.host_ports_of.discard
            change((node_id, port.key), task.id)

    def _hold(self, network_id: str, hosts: Iterable[str], *, held: bool) -> None:
        for host in hosts:
            _flag(self.addresses_of, network_id, host, held)

    def _join(self, network_id: str, node_id: str, sign: int) -> None:
        """Count one more of a node's on a network, or one less."""
        if _bump(self.members, (network_id, node_id), sign):
            _flag(self.members_of, network_id, node_id, sign > 0)
            _flag(self.networks_of, node_id, network_id, sign > 0)


class Overlay(View):
    """A View plus changes of its own; the View underneath is never written."""

    def __init__(self, base: View) -> None:
        super().__init__()
        self.cluster = base.cluster
        self.index = base.index
        self.now_ns = base.now_ns
        self.nodes = Layer(base.nodes)
        self.node_memo = base.node_memo
        self.services = Layer(base.services)
        self.networks = Layer(base.networks)
        self.leases = Layer(base.leases)
        self.secrets = Layer(base.secrets)
        self.configs = Layer(base.configs)
        self.specs = Layer(base.specs)
        self.tasks = Layer(base.tasks)
        self.stories = Layer(base.stories)
        self.quarantined = Layer(base.quarantined)
        self.names = Layer(base.names)
        self.demands = Layer(base.demands)
        self.loads = Layer(base.loads)
        self.replicas_on = Layer(base.replicas_on)
        self.members = Layer(base.members)
        self.pending = Layer(base.pending)
        self._index_fields(base)


def bare(address: str) -> str:
    """Return an address without its prefix length."""
    return address.partition("/")[0]


def _flag(index: Index[str], key: str, member: str, on: bool) -> None:
    if on:
        index.add(key, member)
    else:
        index.discard(key, member)


def _bump(counts: MutableMapping[K, int], key: K, by: int) -> bool:
    """Add to a counter; tell whether it began or ended to exist."""
    before = counts.get(key, 0)
    if before + by:
        counts[key] = before + by
    elif before:
        del counts[key]
    return not before or not before + by


def _stages(task: Task) -> tuple[str, ...]:
    stages = _life_stages(task)
    return (*stages, MOVED) if task.replaces else stages


def _life_stages(task: Task) -> tuple[str, ...]:
    state = task.status.state
    if not is_live(task):
        return (PARKED,) if task.desired < TaskState.RUNNING else ()
    if task.desired > TaskState.COMPLETE:
        return ()
    if is_stopping(task) or is_ending(task):
        return (STOPPING,)
    stages: tuple[str, ...] = ()
    if state == TaskState.NEW:
        stages = (NEW,)
    elif state == TaskState.PENDING:
        stages = (PENDING,)
    return (*stages, PARKED) if task.desired < TaskState.RUNNING else stages


def _account_of(task: Task) -> tuple[object, ...]:
    live = is_live(task)
    return (live and task.addresses, is_placed(task) and (task.node_id, is_wanted(task)))
