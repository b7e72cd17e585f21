"""Apply: what a committed transaction does to the View. Deterministic, and never raises.

Every member of the cluster runs this over the same log, so it may look at nothing but the
View, the index, the time in the entry and the changes. A transaction happens whole or not at
all: expectations and names are checked first; after that a change that no longer makes sense
(its task is gone, its state would move down) does nothing.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from manager.store import changes as c
from manager.store.expect import Conflict, Key, find_conflict
from manager.store.view import View, bare, is_live, is_placed
from swarmapi.model.objects import (
    FAILURES_KEPT,
    Meta,
    Node,
    NodeState,
    Quarantined,
    Service,
    Task,
    TaskEndpointLease,
    TaskState,
    TaskStatus,
)
from swarmapi.model.spec import Availability
from swarmapi.model.tables import EndpointState

__all__ = ["Applied", "Conflict", "Effects", "Key", "apply", "apply_change"]

REQUESTS_KEPT: Final = 8192


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a transaction did."""

    index: int
    conflict: Conflict | None = None
    duplicate: bool = False
    """The request id was applied before, at `index`."""
    changed: tuple[Key, ...] = ()
    """(kind, id) of every object written or deleted, in order, each once."""
    dirty: frozenset[Key] = frozenset()
    """Reconciler keys to run: (`service` | `node` | `network` | `cluster`, id)."""


class Effects:
    """What the changes of one transaction (or one turn) touch on their way."""

    def __init__(self, view: View, index: int, now_ns: int) -> None:
        self.view = view
        self.index = index
        self.now_ns = now_ns
        self.changed: dict[Key, None] = {}
        self.dirty: set[Key] = set()
        self.tables: set[str] = set()

    def meta(self, old: Meta | None) -> Meta:
        """Return the meta of an object written now."""
        created_ns = old.created_ns if old is not None else self.now_ns
        return Meta(version=self.index, created_ns=created_ns, updated_ns=self.now_ns)

    def touch(self, kind: str, object_id: str) -> None:
        """Note an object as changed."""
        self.changed[(kind, object_id)] = None


def apply(view: View, index: int, now_ns: int, transaction: c.Transaction) -> Applied:
    """Apply one committed transaction to `view` and return what happened."""
    view.index = index
    view.now_ns = now_ns = max(view.now_ns, now_ns)
    known = view.requests.get(transaction.request_id) if transaction.request_id else None
    if known is not None:
        conflict = msgspec.msgpack.decode(known[1], type=Conflict) if known[1] else None
        return Applied(index=known[0], conflict=conflict, duplicate=True)
    conflict = find_conflict(view, transaction.changes)
    if transaction.request_id:
        packed = msgspec.msgpack.encode(conflict) if conflict is not None else b""
        view.requests[transaction.request_id] = (index, packed)
        while len(view.requests) > REQUESTS_KEPT:
            view.requests.popitem(last=False)
    if conflict is not None:
        return Applied(index=index, conflict=conflict)
    effects = Effects(view, index, now_ns)
    for change in transaction.changes:
        apply_change(effects, change)
    for network_id in effects.tables:
        network = view.networks.get(network_id)
        if network is not None:
            view.put_network(replace(network, table_index=index))
    dirty = frozenset(effects.dirty)
    return Applied(index=index, changed=tuple(effects.changed), dirty=dirty)


def apply_change(effects: Effects, change: c.Change) -> None:
    """Apply one change; what no longer makes sense does nothing."""
    handler = _HANDLERS.get(type(change))
    if handler is not None:
        handler(effects, change)


# whole objects ------------------------------------------------------------------------------


def _put_cluster(fx: Effects, change: c.PutCluster) -> None:
    old = fx.view.cluster
    fx.view.cluster = replace(change.cluster, meta=fx.meta(old.meta if old else None))
    fx.touch("cluster", change.cluster.id)
    fx.dirty.add(("cluster", change.cluster.id))
    limit = change.cluster.spec.orchestration
    if old is not None and limit != old.spec.orchestration:
        fx.dirty.update(("service", service_id) for service_id in fx.view.services)


def _put_node(fx: Effects, change: c.PutNode) -> None:
    node, old = change.node, fx.view.nodes.get(change.node.id)
    if old is not None:
        node = replace(node, ingress_address=old.ingress_address, mesh_slot=old.mesh_slot)
    if old is None or node.state != old.state:
        node = replace(node, state_changed_ns=fx.now_ns)
    _store_node(fx, old, node)


def _store_node(fx: Effects, old: Node | None, node: Node) -> None:
    fx.view.put_node(replace(node, meta=fx.meta(old.meta if old else None)))
    fx.touch("node", node.id)
    fx.dirty.add(("node", node.id))
    row = (node.data_path, node.ingress_address, node.mesh_slot)
    if old is None or row != (old.data_path, old.ingress_address, old.mesh_slot):
        _touch_node_tables(fx, node.id)


def _touch_node_tables(fx: Effects, node_id: str) -> None:
    fx.tables.update(fx.view.networks_of.of(node_id))
    ingress = fx.view.ingress_network()
    if ingress is not None:
        fx.tables.add(ingress.id)


def _put_service(fx: Effects, change: c.PutService) -> None:
    service, old = change.service, fx.view.services.get(change.service.id)
    if old is not None:
        service = replace(service, endpoint=old.endpoint)
    _store_service(fx, old, service)
    _drop_unused_specs(fx, service.id)


def _store_service(fx: Effects, old: Service | None, service: Service) -> None:
    fx.view.put_service(replace(service, meta=fx.meta(old.meta if old else None)))
    fx.touch("service", service.id)
    fx.dirty.add(("service", service.id))
    renamed = old is None or old.spec.name != service.spec.name
    respecified = old is None or old.spec_version != service.spec_version
    if old is not None and (renamed or respecified or old.endpoint != service.endpoint):
        _touch_service_tables(fx, old)
    if renamed or respecified or (old is not None and old.endpoint != service.endpoint):
        _touch_service_tables(fx, service)


def _touch_service_tables(fx: Effects, service: Service) -> None:
    fx.tables.update(vip.network_id for vip in service.endpoint.vips)
    record = fx.view.specs.get((service.id, service.spec_version))
    fx.tables.update(record.networks if record is not None else ())


def _drop_unused_specs(fx: Effects, service_id: str) -> None:
    service = fx.view.services.get(service_id)
    kept = (service.spec_version, service.previous_spec_version) if service else ()
    for version in [int(v) for v in fx.view.versions_of.of(service_id)]:
        if version not in kept and not fx.view.tasks_of_spec.of((service_id, version)):
            fx.view.drop_spec((service_id, version))


def _put_network(fx: Effects, change: c.PutNetwork) -> None:
    network, old = change.network, fx.view.networks.get(change.network.id)
    if old is not None:
        network = replace(
            network,
            subnet=old.subnet,
            gateway=old.gateway,
            vni=old.vni,
            error=old.error,
            table_index=old.table_index,
        )
    fx.view.put_network(replace(network, meta=fx.meta(old.meta if old else None)))
    fx.touch("network", network.id)
    fx.dirty.add(("network", network.id))
    fx.tables.add(network.id)


def _put_spec(fx: Effects, change: c.PutSpecVersion) -> None:
    key = (change.record.service_id, change.record.version)
    if key not in fx.view.specs:
        fx.view.put_spec(change.record)


# tasks --------------------------------------------------------------------------------------


def _store_task(fx: Effects, old: Task | None, task: Task) -> None:
    fx.view.put_task(replace(task, meta=fx.meta(old.meta if old else None)))
    fx.touch("task", task.id)
    _task_moved(fx, old, task)


def _task_moved(fx: Effects, old: Task | None, new: Task | None) -> None:
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
    return (state if state >= TaskState.RUNNING else None, task.desired, task.endpoint)


def _row(task: Task | None) -> tuple[object, ...] | None:
    """What of a task its networks' tables hold."""
    if task is None or not task.addresses or not is_placed(task):
        return None
    return (task.node_id, task.addresses, task.endpoint.state, task.endpoint.index)


def _quarantine_task(fx: Effects, task: Task) -> None:
    if is_placed(task):
        for lease in task.addresses:
            _quarantine(fx, lease.network_id, bare(lease.address))


def _quarantine(fx: Effects, network_id: str, address: str) -> None:
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
    fx.touch("quarantined", record.id)
    fx.dirty.add(("network", network_id))


def _put_task(fx: Effects, change: c.PutTask) -> None:
    task = change.task
    if task.id in fx.view.tasks or task.service_id not in fx.view.services:
        return
    _store_task(fx, None, task)


def _set_task_status(fx: Effects, change: c.SetTaskStatus) -> None:
    task = fx.view.tasks.get(change.task_id)
    if task is not None:
        _observe(fx, task, change.status)


def _observe(fx: Effects, task: Task, status: TaskStatus) -> None:
    old = task.status
    if status.state < old.state or status.state == TaskState.REMOVE:
        return
    if status.state == old.state:
        same = replace(status, applied_ns=old.applied_ns, timestamp_ns=old.timestamp_ns)
        if same == old or not is_live(task):
            return
        status = same
    else:
        status = replace(status, applied_ns=fx.now_ns)
    running_ns = task.running_ns
    if status.state == TaskState.RUNNING and not running_ns:
        running_ns = fx.now_ns
    _store_task(fx, task, replace(task, status=status, running_ns=running_ns))
    if status.state in (TaskState.FAILED, TaskState.REJECTED) and is_live(task):
        _count_failure(fx, task)


def _count_failure(fx: Effects, task: Task) -> None:
    record = fx.view.spec_of(task)
    if record is not None and task.node_id:
        times = (*record.failures.get(task.node_id, ()), fx.now_ns)[-FAILURES_KEPT:]
        fx.view.put_spec(replace(record, failures={**record.failures, task.node_id: times}))


def _set_desired(fx: Effects, change: c.SetDesired) -> None:
    task = fx.view.tasks.get(change.task_id)
    if task is not None and change.desired > task.desired:
        _store_task(fx, task, replace(task, desired=change.desired))


def _assign_task(fx: Effects, change: c.AssignTask) -> None:
    task, node = fx.view.tasks.get(change.task_id), fx.view.nodes.get(change.node_id)
    if task is None or node is None or task.status.state != TaskState.PENDING:
        return
    fit = node.state == NodeState.READY and node.spec.availability == Availability.ACTIVE
    if task.desired > TaskState.RUNNING or not fit or task.node_id not in ("", node.id):
        return
    status = TaskStatus(
        state=TaskState.ASSIGNED,
        timestamp_ns=fx.now_ns,
        applied_ns=fx.now_ns,
        message=change.reason,
    )
    _store_task(fx, task, replace(task, node_id=node.id, status=status, explanation=b""))


def _set_addresses(fx: Effects, change: c.SetAddresses) -> None:
    task = fx.view.tasks.get(change.task_id)
    if task is None or task.status.state != TaskState.NEW:
        return
    status = TaskStatus(
        state=TaskState.PENDING,
        timestamp_ns=fx.now_ns,
        applied_ns=fx.now_ns,
        message=change.reason,
    )
    _store_task(fx, task, replace(task, addresses=change.addresses, status=status))


def _set_endpoint(fx: Effects, change: c.SetEndpoint) -> None:
    task = fx.view.tasks.get(change.task_id)
    if task is None or not is_live(task):
        return
    moved = change.lease.state is not task.endpoint.state
    index = fx.index if moved or not task.endpoint.index else task.endpoint.index
    lease = TaskEndpointLease(
        state=change.lease.state,
        index=index,
        deadline_ns=change.lease.deadline_ns,
        then=change.lease.then,
    )
    if lease.state is EndpointState.SERVING and task.endpoint.deadline_ns:
        return  # a stop under way is never taken back
    if lease != task.endpoint:
        _store_task(fx, task, replace(task, endpoint=lease))


def _set_explanation(fx: Effects, change: c.SetExplanation) -> None:
    task = fx.view.tasks.get(change.task_id)
    if task is None or task.explanation == change.explanation:
        return
    if task.status.state < TaskState.ASSIGNED:
        _store_task(fx, task, replace(task, explanation=change.explanation))


def _orphan(fx: Effects, change: c.OrphanTasksOfNode) -> None:
    for task in fx.view.tasks_of_node(change.node_id):
        if is_live(task):
            state = TaskState.ORPHANED if is_placed(task) else TaskState.SHUTDOWN
            message = change.reason or "its node is lost"
            _observe(fx, task, TaskStatus(state=state, timestamp_ns=fx.now_ns, message=message))


# parts of objects ---------------------------------------------------------------------------


def _set_node_status(fx: Effects, change: c.SetNodeStatus) -> None:
    node = fx.view.nodes.get(change.node_id)
    if node is None or (node.state, node.message) == (change.state, change.message):
        return
    since_ns = node.state_changed_ns if node.state == change.state else fx.now_ns
    new = replace(node, state=change.state, message=change.message, state_changed_ns=since_ns)
    _store_node(fx, node, new)


def _set_node_description(fx: Effects, change: c.SetNodeDescription) -> None:
    node = fx.view.nodes.get(change.node_id)
    if node is None:
        return
    new = replace(
        node,
        description=change.description,
        address=change.address or node.address,
        data_path=change.data_path or node.data_path,
        manager_address=change.manager_address or node.manager_address,
    )
    if new != node:
        _store_node(fx, node, new)


def _set_node_mesh(fx: Effects, change: c.SetNodeMesh) -> None:
    node = fx.view.nodes.get(change.node_id)
    if node is not None:
        new = replace(node, ingress_address=change.ingress_address, mesh_slot=change.mesh_slot)
        _store_node(fx, node, new)


def _set_network_allocation(fx: Effects, change: c.SetNetworkAllocation) -> None:
    network, cluster = fx.view.networks.get(change.network_id), fx.view.cluster
    if network is None or network.subnet:
        return
    new = replace(
        network,
        subnet=change.subnet,
        gateway=change.gateway,
        vni=change.vni,
        error=change.error,
        meta=fx.meta(network.meta),
    )
    fx.view.put_network(new)
    fx.touch("network", network.id)
    fx.dirty.add(("network", network.id))
    fx.tables.add(network.id)
    if cluster is not None and change.vni > cluster.last_vni:
        fx.view.cluster = replace(cluster, last_vni=change.vni)


def _set_service_endpoint(fx: Effects, change: c.SetServiceEndpoint) -> None:
    service = fx.view.services.get(change.service_id)
    if service is None or service.endpoint == change.endpoint:
        return
    kept = {(v.network_id, v.address) for v in change.endpoint.vips}
    _store_service(fx, service, replace(service, endpoint=change.endpoint))
    for vip in service.endpoint.vips:
        if (vip.network_id, vip.address) not in kept:
            _quarantine(fx, vip.network_id, bare(vip.address))


def _set_update_status(fx: Effects, change: c.SetUpdateStatus) -> None:
    service = fx.view.services.get(change.service_id)
    if service is None or service.spec_version != change.spec_version:
        return
    if service.update_status != change.status:
        _store_service(fx, service, replace(service, update_status=change.status))


# deletion -----------------------------------------------------------------------------------


def _delete(fx: Effects, change: c.Delete) -> None:
    handler = _DELETERS.get(change.object)
    if handler is not None:
        handler(fx, change.id)


def _delete_node(fx: Effects, node_id: str) -> None:
    if node_id not in fx.view.nodes:
        return
    reason = "its node was removed from the cluster"
    _orphan(fx, c.OrphanTasksOfNode(node_id=node_id, reason=reason))
    _touch_node_tables(fx, node_id)
    node, ingress = fx.view.nodes[node_id], fx.view.ingress_network()
    fx.view.drop_node(node_id)
    if ingress is not None and node.ingress_address:
        _quarantine(fx, ingress.id, bare(node.ingress_address))
    fx.touch("node", node_id)
    fx.dirty.add(("node", node_id))
    fx.dirty.update(("network", network_id) for network_id in fx.view.networks)
    cluster = fx.view.cluster
    if cluster is not None and node_id not in cluster.removed_nodes:
        fx.view.cluster = replace(cluster, removed_nodes=(*cluster.removed_nodes, node_id))
        fx.touch("cluster", cluster.id)


def _delete_service(fx: Effects, service_id: str) -> None:
    service = fx.view.services.get(service_id)
    if service is None:
        return
    _touch_service_tables(fx, service)
    fx.view.drop_service(service_id)
    for vip in service.endpoint.vips:
        _quarantine(fx, vip.network_id, bare(vip.address))
    fx.touch("service", service_id)
    fx.dirty.add(("service", service_id))
    _drop_unused_specs(fx, service_id)


def _delete_network(fx: Effects, network_id: str) -> None:
    network = fx.view.networks.get(network_id)
    if network is None:
        return
    if network.spec.ingress:  # the next ingress network gives the nodes addresses of its own
        for node in [n for n in fx.view.nodes.values() if n.ingress_address]:
            _store_node(fx, node, replace(node, ingress_address=""))
    for record in [q for q in fx.view.quarantined.values() if q.network_id == network_id]:
        fx.view.drop_quarantined(record.id)
        fx.touch("quarantined", record.id)
    fx.view.drop_network(network_id)
    fx.touch("network", network_id)
    fx.dirty.add(("network", network_id))


def _delete_task(fx: Effects, task_id: str) -> None:
    task = fx.view.tasks.get(task_id)
    if task is None:
        return
    fx.view.drop_task(task_id)
    fx.touch("task", task_id)
    _task_moved(fx, task, None)
    _drop_unused_specs(fx, task.service_id)


def _delete_quarantined(fx: Effects, record_id: str) -> None:
    record = fx.view.quarantined.get(record_id)
    if record is not None:
        fx.view.drop_quarantined(record_id)
        fx.touch("quarantined", record_id)
        fx.dirty.add(("network", record.network_id))


_DELETERS: Final[dict[str, Callable[[Effects, str], None]]] = {
    "node": _delete_node,
    "service": _delete_service,
    "network": _delete_network,
    "task": _delete_task,
    "quarantined": _delete_quarantined,
}
_HANDLERS: Final[dict[type, Callable[[Effects, Any], None]]] = {
    c.PutCluster: _put_cluster,
    c.PutNode: _put_node,
    c.PutService: _put_service,
    c.PutNetwork: _put_network,
    c.PutSpecVersion: _put_spec,
    c.PutTask: _put_task,
    c.SetTaskStatus: _set_task_status,
    c.SetDesired: _set_desired,
    c.AssignTask: _assign_task,
    c.SetAddresses: _set_addresses,
    c.SetEndpoint: _set_endpoint,
    c.SetExplanation: _set_explanation,
    c.SetNodeStatus: _set_node_status,
    c.SetNodeDescription: _set_node_description,
    c.SetNodeMesh: _set_node_mesh,
    c.SetNetworkAllocation: _set_network_allocation,
    c.SetServiceEndpoint: _set_service_endpoint,
    c.SetUpdateStatus: _set_update_status,
    c.Delete: _delete,
    c.OrphanTasksOfNode: _orphan,
}
