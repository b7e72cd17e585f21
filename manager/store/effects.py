"""What writing an object brings with it: dirty keys, changed tables, addresses in quarantine."""

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from msgspec.structs import replace

from manager.store import changes as c
from manager.store.expect import Key
from manager.store.story import (
    SERVICE_LINES,
    TASK_LINES,
    extended,
    service_lines,
    task_lines,
)
from manager.store.view import SpecKey, View, is_live, is_placed
from swarmapi.model.objects import (
    FAILURES_KEPT,
    Cluster,
    Meta,
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
    TaskStatus,
)

Object: TypeAlias = Cluster | Node | Service | Network | NetworkLease | Secret | Task | Quarantined


class Moved(NamedTuple):
    """One object before and after a transaction; None is where it did not exist."""

    before: Object | None
    after: Object | None


class Effects:
    """What the changes of one transaction (or one turn) touch on their way."""

    def __init__(self, view: View, index: int, now_ns: int, *, tells: bool = False) -> None:
        self.view = view
        self.tells = tells
        """Whether stories are written: what a turn only intends is none."""
        self.reason = ""
        """Of the change being applied."""
        self.index = index
        self.now_ns = now_ns
        self.changed: dict[Key, Moved] = {}
        self.specs: dict[SpecKey, tuple[SpecVersion | None, SpecVersion | None]] = {}
        """Spec versions before and after."""
        self.dirty: set[Key] = set()
        self.tables: set[str] = set()

    def meta(self, old: Meta | None) -> Meta:
        """Return the meta of an object written now."""
        created_ns = old.created_ns if old is not None else self.now_ns
        return Meta(version=self.index, created_ns=created_ns, updated_ns=self.now_ns)

    def tell(self, object_id: str, lines: Iterable[StoryLine], limit: int) -> None:
        """Add to a story."""
        for line in lines if self.tells else ():
            known = self.view.stories.get(object_id, ())
            self.view.stories[object_id] = extended(known, line, limit)

    def touch(self, kind: str, before: Object | None, after: Object | None) -> None:
        """Note an object as changed; of several changes the first knows what it was before."""
        known = after or before
        if known is not None:
            first = self.changed.get((kind, known.id))
            self.changed[(kind, known.id)] = Moved(first.before if first else before, after)

    def touch_spec(self, key: SpecKey, before: SpecVersion | None) -> None:
        """Note a spec version as changed, once it is."""
        first, _ = self.specs.get(key, (before, None))
        self.specs[key] = first, self.view.specs.get(key)


def store_node(fx: Effects, old: Node | None, node: Node) -> None:
    """Write a node; a row of its own that changed makes the tables with it change."""
    new = replace(node, meta=fx.meta(old.meta if old else None))
    fx.view.put_node(new)
    fx.touch("node", old, new)
    fx.dirty.add(("node", node.id))
    if old is None or _told(old) != _told(node):
        touch_node_tables(fx, node.id)
    elif old.state is not node.state and NodeState.DOWN in (old.state, node.state):
        # Nobody finds the containers of a node that is down.
        leases = (fx.view.leases[i] for i in fx.view.leases_of.of(node.id))
        fx.tables.update(lease.network_id for lease in leases)


def _told(node: Node) -> tuple[object, ...]:
    """Return what decides what the tables say of a node."""
    return (node.data_path, node.ingress_hosts(), node.mesh_slot, node.description.ipv6)


def store_lease(fx: Effects, old: NetworkLease | None, lease: NetworkLease) -> None:
    """Write a lease; an address that it had and no longer has rests."""
    new = replace(lease, meta=fx.meta(old.meta if old else None))
    fx.view.put_lease(new)
    fx.touch("lease", old, new)
    fx.tables.add(lease.network_id)
    fx.dirty.add(("network", lease.network_id))
    for host in old.hosts() if old is not None else ():
        if host not in lease.hosts():
            quarantine(fx, lease.network_id, host)


def drop_lease(fx: Effects, lease: NetworkLease) -> None:
    """Forget a lease; its address rests."""
    fx.view.drop_lease(lease.id)
    fx.touch("lease", lease, None)
    fx.tables.add(lease.network_id)
    for host in lease.hosts():
        quarantine(fx, lease.network_id, host)


def touch_node_tables(fx: Effects, node_id: str) -> None:
    """Note that what the tables say of a node has changed."""
    fx.tables.update(fx.view.networks_of.of(node_id))
    ingress = fx.view.ingress_network()
    if ingress is not None:
        fx.tables.add(ingress.id)


def store_service(fx: Effects, old: Service | None, service: Service) -> None:
    """Write a service; its name, spec or endpoint changes the tables of its networks."""
    new = replace(service, meta=fx.meta(old.meta if old else None))
    fx.view.put_service(new)
    fx.touch("service", old, new)
    fx.tell(new.id, service_lines(old, new, fx.reason, fx.now_ns), SERVICE_LINES)
    fx.dirty.add(("service", service.id))
    renamed = old is None or old.spec.name != service.spec.name
    respecified = old is None or old.spec_version != service.spec_version
    if old is not None and (renamed or respecified or old.endpoint != service.endpoint):
        touch_service_tables(fx, old)
    if renamed or respecified or (old is not None and old.endpoint != service.endpoint):
        touch_service_tables(fx, service)


def touch_service_tables(fx: Effects, service: Service) -> None:
    """Note that what the tables say of a service has changed."""
    fx.tables.update(vip.network_id for vip in service.endpoint.vips)
    record = fx.view.specs.get((service.id, service.spec_version))
    fx.tables.update(record.networks if record is not None else ())


def store_spec(fx: Effects, record: SpecVersion) -> None:
    """Write a spec version."""
    key = (record.service_id, record.version)
    before = fx.view.specs.get(key)
    fx.view.put_spec(record)
    fx.touch_spec(key, before)


def drop_unused_specs(fx: Effects, service_id: str) -> None:
    """Forget the versions that are neither in force, nor one to roll back to, nor run."""
    service = fx.view.services.get(service_id)
    kept: tuple[int, ...] = ()
    if service is not None:
        current = (service.spec_version, service.previous_spec_version)
        kept = (*current, *service.older_spec_versions)
    for version in [int(v) for v in fx.view.versions_of.of(service_id)]:
        if version not in kept and not fx.view.tasks_of_spec.of((service_id, version)):
            key = (service_id, version)
            before = fx.view.specs[key]
            fx.view.drop_spec(key)
            fx.touch_spec(key, before)


def store_task(fx: Effects, old: Task | None, task: Task) -> None:
    """Write a task, and do what its move brings with it."""
    new = replace(task, meta=fx.meta(old.meta if old else None))
    fx.view.put_task(new)
    fx.touch("task", old, new)
    if fx.tells:
        fx.tell(new.id, task_lines(old, new, fx.reason, fx.now_ns), TASK_LINES)
    task_moved(fx, old, task)


def task_moved(fx: Effects, old: Task | None, new: Task | None) -> None:
    """Note what a task that was written or deleted concerns; its addresses rest at its end."""
    task = new or old
    if task is None:
        return
    if _concern(old) != _concern(new):
        fx.dirty.add(("service", task.service_id))
    if _row(old) != _row(new):
        for version in (old, new):
            fx.tables.update(a.network_id for a in (version.addresses if version else ()))
    if old is not None and is_live(old) and (new is None or not is_live(new)):
        _quarantine_task(fx, old)


def _concern(task: Task | None) -> tuple[object, ...] | None:
    """What of a task its service's reconciler decides by: not the steps of its preparation."""
    if task is None:
        return None
    state = task.status.state
    seen = state if state >= TaskState.RUNNING else bool(task.explanation)
    return (seen, task.status.ready, task.status.ending, task.desired, task.endpoint)


def _row(task: Task | None) -> tuple[object, ...] | None:
    """What of a task its networks' tables hold."""
    if task is None or not task.addresses or not is_placed(task):
        return None
    return (task.node_id, task.addresses, task.endpoint.state, task.endpoint.index)


def _quarantine_task(fx: Effects, task: Task) -> None:
    if is_placed(task):
        for lease in task.addresses:
            for host in lease.hosts():
                quarantine(fx, lease.network_id, host)


def quarantine(fx: Effects, network_id: str, address: str) -> None:
    """Keep an address out of its pool until no node's table can name it."""
    if network_id not in fx.view.networks:
        return
    record = Quarantined(
        id=f"{network_id}/{address}",
        network_id=network_id,
        address=address,
        index=fx.index,
        meta=fx.meta(None),
    )
    fx.view.put_quarantined(record)
    fx.touch("quarantined", None, record)
    fx.dirty.add(("network", network_id))


def observe(fx: Effects, task: Task, status: TaskStatus) -> None:
    """Store a status that moves the state up, or says more of the same state."""
    old = task.status
    if status.state < old.state or status.state == TaskState.REMOVE:
        return
    if status.state == old.state:
        if says_nothing_new(old, status) or not is_live(task):
            return
        status = replace(status, applied_ns=old.applied_ns, timestamp_ns=old.timestamp_ns)
    else:
        status = replace(status, applied_ns=fx.now_ns)
    running_ns = task.running_ns
    if status.state == TaskState.RUNNING and not running_ns:
        running_ns = fx.now_ns
    store_task(fx, task, replace(task, status=status, running_ns=running_ns))
    if status.state in (TaskState.FAILED, TaskState.REJECTED) and is_live(task):
        _count_failure(fx, task)


def says_nothing_new(old: TaskStatus, status: TaskStatus) -> bool:
    """Tell whether two statuses differ in their times at most."""
    return replace(status, applied_ns=old.applied_ns, timestamp_ns=old.timestamp_ns) == old


def _count_failure(fx: Effects, task: Task) -> None:
    record = fx.view.spec_of(task)
    if record is not None and task.node_id:
        times = (*record.failures.get(task.node_id, ()), fx.now_ns)[-FAILURES_KEPT:]
        store_spec(fx, replace(record, failures={**record.failures, task.node_id: times}))


def orphan(fx: Effects, change: c.OrphanTasksOfNode) -> None:
    """Give up every live task of a node."""
    for task in fx.view.tasks_of_node(change.node_id):
        if is_live(task):
            state = TaskState.ORPHANED if is_placed(task) else TaskState.SHUTDOWN
            message = change.reason or "its node is lost"
            observe(fx, task, TaskStatus(state=state, timestamp_ns=fx.now_ns, message=message))
