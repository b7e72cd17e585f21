"""Apply: what a committed transaction does to the View. Deterministic, and never raises.

Every member of the cluster runs this over the same log, so it may look at nothing but the
View, the index, the time in the entry and the changes. A transaction happens whole or not at
all: expectations and names are checked first; after that a change that no longer makes sense
(its task is gone, its state would move down) does nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from manager.store import changes as c
from manager.store.deletions import delete
from manager.store.effects import (
    Effects,
    Moved,
    drop_unused_specs,
    observe,
    orphan,
    quarantine,
    store_lease,
    store_node,
    store_service,
    store_spec,
    store_task,
)
from manager.store.expect import Conflict, Key, find_conflict
from manager.store.view import View, bare, is_live
from swarmapi.ids import root_digest
from swarmapi.model.defaults import vxlan_id
from swarmapi.model.objects import (
    ApiToken,
    FormerRoot,
    NodeState,
    RootCA,
    SpecVersion,
    TaskEndpointLease,
    TaskState,
    TaskStatus,
)
from swarmapi.model.spec import Availability
from swarmapi.model.tables import EndpointState

__all__ = ["Applied", "Conflict", "Effects", "Key", "Moved", "apply", "apply_change"]

REQUESTS_KEPT: Final = 8192
FORMER_ROOT_NS: Final = 365 * 24 * 3_600 * 10**9
"""How long a node that was left out of a rotation finds its way back."""
FORMER_ROOTS: Final = 8


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a transaction did."""

    index: int
    conflict: Conflict | None = None
    duplicate: bool = False
    """The request id was applied before, at `index`."""
    changed: Mapping[Key, Moved] = {}
    """Every object written or deleted, by (kind, id) in order: what it was, and what it is."""
    specs: tuple[SpecVersion, ...] = ()
    """Spec versions as they were, and as they are, in any order."""
    requests: tuple[tuple[str, int, bytes], ...] = ()
    """Request ids remembered or forgotten, as the View has them."""
    dirty: frozenset[Key] = frozenset()
    """Reconciler keys to run: (`service` | `node` | `network` | `cluster`, id)."""
    tables: frozenset[str] = frozenset()
    """Ids of the networks whose endpoint table has a new revision, `index`."""


def apply(view: View, index: int, now_ns: int, transaction: c.Transaction) -> Applied:
    """Apply one committed transaction to `view` and return what happened."""
    view.index = index
    view.now_ns = now_ns = max(view.now_ns, now_ns)
    known = view.requests.get(transaction.request_id) if transaction.request_id else None
    if known is not None:
        conflict = msgspec.msgpack.decode(known[1], type=Conflict) if known[1] else None
        return Applied(index=known[0], conflict=conflict, duplicate=True)
    conflict = find_conflict(view, transaction.changes)
    requests = _remember(view, index, transaction.request_id, conflict)
    if conflict is not None:
        return Applied(index=index, conflict=conflict, requests=requests)
    effects = Effects(view, index, now_ns, tells=True)
    for change in transaction.changes:
        apply_change(effects, change)
    tables = frozenset(i for i in effects.tables if i in view.networks)
    for network_id in tables:
        view.put_network(replace(view.networks[network_id], table_index=index))
    dirty = frozenset(effects.dirty)
    return Applied(
        index=index,
        changed=effects.changed,
        specs=tuple(spec for moved in effects.specs.values() for spec in moved if spec),
        requests=requests,
        dirty=dirty,
        tables=tables,
    )


def _remember(
    view: View, index: int, request_id: str, conflict: Conflict | None
) -> tuple[tuple[str, int, bytes], ...]:
    """Note what became of a request, forget the oldest; return what moved."""
    if not request_id:
        return ()
    packed = msgspec.msgpack.encode(conflict) if conflict is not None else b""
    view.requests[request_id] = (index, packed)
    moved = [(request_id, index, packed)]
    while len(view.requests) > REQUESTS_KEPT:
        oldest, known = view.requests.popitem(last=False)
        moved.append((oldest, *known))
    return tuple(moved)


def apply_change(effects: Effects, change: c.Change) -> None:
    """Apply one change; what no longer makes sense does nothing."""
    handler = _HANDLERS.get(type(change))
    if handler is not None:
        effects.reason = change.reason
        handler(effects, change)


# whole objects ------------------------------------------------------------------------------


def _put_cluster(fx: Effects, change: c.PutCluster) -> None:
    old = fx.view.cluster
    new = replace(change.cluster, meta=fx.meta(old.meta if old else None))
    if new.unlock_key == (old.unlock_key if old else ""):
        new = replace(new, lock_index=old.lock_index if old else 0)
    else:
        new = replace(new, lock_index=fx.index)
    if old is not None:
        new = replace(new, level=old.level)
    fx.view.cluster = new
    fx.touch("cluster", old, new)
    fx.dirty.add(("cluster", change.cluster.id))
    limit = change.cluster.spec.orchestration
    if old is not None and limit != old.spec.orchestration:
        fx.dirty.update(("service", service_id) for service_id in fx.view.services)


def _put_node(fx: Effects, change: c.PutNode) -> None:
    node, old = change.node, fx.view.nodes.get(change.node.id)
    if old is not None:
        node = replace(
            node,
            ingress_address=old.ingress_address,
            ingress_ipv6=old.ingress_ipv6,
            mesh_slot=old.mesh_slot,
            lock_index=old.lock_index,
            level=old.level,
            manager_version=old.manager_version,
            tls=old.tls,
        )
    if old is None or node.state != old.state:
        node = replace(node, state_changed_ns=fx.now_ns)
    if old is None or node.spec != old.spec:
        node = replace(node, spec_index=fx.index)
    store_node(fx, old, node)


def _set_node_spec(fx: Effects, change: c.SetNodeSpec) -> None:
    node = fx.view.nodes.get(change.node_id)
    if node is not None:
        store_node(fx, node, replace(node, spec=change.spec, spec_index=fx.index))


def _put_service(fx: Effects, change: c.PutService) -> None:
    service, old = change.service, fx.view.services.get(change.service.id)
    if old is not None:
        service = replace(service, endpoint=old.endpoint)
    store_service(fx, old, service)
    drop_unused_specs(fx, service.id)


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
            further=old.further,
        )
    new = replace(network, meta=fx.meta(old.meta if old else None))
    fx.view.put_network(new)
    fx.touch("network", old, new)
    fx.dirty.add(("network", network.id))
    fx.tables.add(network.id)


def _put_lease(fx: Effects, change: c.PutLease) -> None:
    lease, old = change.lease, fx.view.leases.get(change.lease.id)
    if lease.network_id not in fx.view.networks or lease.node_id not in fx.view.nodes:
        return
    keeps = (
        old is not None
        and lease.wanted in ("", bare(old.address))
        and lease.wanted_ipv6 in ("", bare(old.ipv6_address))
    )
    address, ipv6 = (old.address, old.ipv6_address) if old is not None and keeps else ("", "")
    store_lease(fx, old, replace(lease, address=address, ipv6_address=ipv6, error=""))


def _set_lease_address(fx: Effects, change: c.SetLeaseAddress) -> None:
    lease = fx.view.leases.get(change.lease_id)
    if lease is not None and not lease.address:
        given = {"address": change.address, "ipv6_address": change.ipv6_address}
        store_lease(fx, lease, replace(lease, **given, error=change.error))


def _put_secret(fx: Effects, change: c.PutSecret | c.PutConfig) -> None:
    new = replace(change.secret, meta=fx.meta(None))
    fx.view.put_secret(new)
    fx.touch(new.kind, None, new)


def _set_labels(fx: Effects, change: c.SetLabels) -> None:
    old = fx.view.table_of(change.object).get(change.id)
    if old is not None:
        spec = replace(old.spec, labels=change.labels)
        new = replace(old, spec=spec, meta=fx.meta(old.meta))
        fx.view.put_secret(new)
        fx.touch(new.kind, old, new)


def _put_spec(fx: Effects, change: c.PutSpecVersion) -> None:
    key = (change.record.service_id, change.record.version)
    if key not in fx.view.specs:
        store_spec(fx, change.record)


# tasks --------------------------------------------------------------------------------------


def _put_task(fx: Effects, change: c.PutTask) -> None:
    task = change.task
    if task.id in fx.view.tasks or task.service_id not in fx.view.services:
        return
    store_task(fx, None, task)


def _set_task_status(fx: Effects, change: c.SetTaskStatus) -> None:
    task = fx.view.tasks.get(change.task_id)
    if task is not None:
        observe(fx, task, change.status)


def _set_desired(fx: Effects, change: c.SetDesired) -> None:
    task = fx.view.tasks.get(change.task_id)
    if task is not None and change.desired > task.desired:
        store_task(fx, task, replace(task, desired=change.desired))


def _assign_task(fx: Effects, change: c.AssignTask) -> None:
    task, node = fx.view.tasks.get(change.task_id), fx.view.nodes.get(change.node_id)
    if task is None or node is None or task.status.state != TaskState.PENDING:
        return
    fit = node.state == NodeState.READY and node.spec.availability == Availability.ACTIVE
    if task.desired > TaskState.COMPLETE or not fit or task.node_id not in ("", node.id):
        return
    status = TaskStatus(
        state=TaskState.ASSIGNED,
        timestamp_ns=fx.now_ns,
        applied_ns=fx.now_ns,
        message=change.reason,
    )
    new = replace(task, node_id=node.id, status=status, explanation=b"", generic=change.generic)
    store_task(fx, task, new)


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
    store_task(fx, task, replace(task, addresses=change.addresses, status=status))


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
        drained=change.lease.drained,
    )
    if lease.state is EndpointState.SERVING and task.endpoint.deadline_ns:
        return  # a stop under way is never taken back
    if lease != task.endpoint:
        store_task(fx, task, replace(task, endpoint=lease))


def _set_explanation(fx: Effects, change: c.SetExplanation) -> None:
    task = fx.view.tasks.get(change.task_id)
    if task is None or task.explanation == change.explanation:
        return
    if task.status.state < TaskState.ASSIGNED:
        store_task(fx, task, replace(task, explanation=change.explanation))


def _set_rebalance(fx: Effects, change: c.SetRebalance) -> None:
    old = fx.view.cluster
    if old is None:
        return
    new = replace(old, rebalance=change.state, meta=fx.meta(old.meta))
    fx.view.cluster = new
    fx.touch("cluster", old, new)
    fx.dirty.add(("cluster", old.id))


def _put_api_token(fx: Effects, change: c.PutApiToken) -> None:
    _set_api_tokens(fx, lambda known: (*known, change.token))


def _drop_api_token(fx: Effects, change: c.DropApiToken) -> None:
    _set_api_tokens(fx, lambda known: tuple(t for t in known if t.id != change.token_id))


def _set_api_tokens(
    fx: Effects, edit: Callable[[tuple[ApiToken, ...]], tuple[ApiToken, ...]]
) -> None:
    old = fx.view.cluster
    if old is not None:
        new = replace(old, api_tokens=edit(old.api_tokens), meta=fx.meta(old.meta))
        fx.view.cluster = new
        fx.touch("cluster", old, new)


# parts of objects ---------------------------------------------------------------------------


def _set_node_status(fx: Effects, change: c.SetNodeStatus) -> None:
    node = fx.view.nodes.get(change.node_id)
    if node is None or (node.state, node.message) == (change.state, change.message):
        return
    since_ns = node.state_changed_ns if node.state == change.state else fx.now_ns
    new = replace(node, state=change.state, message=change.message, state_changed_ns=since_ns)
    store_node(fx, node, new)


def _set_disappearance(fx: Effects, change: c.SetDisappearance) -> None:
    cluster = fx.view.cluster
    if cluster is None:
        return
    new = replace(
        cluster,
        disappeared_ns=change.disappeared_ns,
        counted_from_ns=change.counted_from_ns,
    )
    fx.view.cluster = new
    fx.touch("cluster", cluster, new)
    fx.dirty.update(("node", node_id) for node_id in fx.view.down.of("node"))


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
        store_node(fx, node, new)


def _set_node_mesh(fx: Effects, change: c.SetNodeMesh) -> None:
    node = fx.view.nodes.get(change.node_id)
    if node is not None:
        new = replace(
            node,
            ingress_address=change.ingress_address,
            ingress_ipv6=change.ingress_ipv6,
            mesh_slot=change.mesh_slot,
        )
        store_node(fx, node, new)


def _set_node_level(fx: Effects, change: c.SetNodeLevel) -> None:
    """Note it without a new version of the node: managers of before levels pass this change over.

    They must come to the same answer where a version that was read is compared.
    """
    node = fx.view.nodes.get(change.node_id)
    if node is not None and (change.known, change.version) != (node.level, node.manager_version):
        new = replace(node, level=change.known, manager_version=change.version)
        fx.view.put_node(new)
        fx.touch("node", node, new)
        fx.dirty.add(("node", node.id))


def _raise_level(fx: Effects, change: c.RaiseLevel) -> None:
    cluster = fx.view.cluster
    if cluster is not None and change.to > cluster.level:
        fx.view.cluster = replace(cluster, level=change.to, meta=fx.meta(cluster.meta))
        fx.touch("cluster", cluster, fx.view.cluster)


def _set_node_lock(fx: Effects, change: c.SetNodeLock) -> None:
    node = fx.view.nodes.get(change.node_id)
    if node is not None and change.lock_index > node.lock_index:
        store_node(fx, node, replace(node, lock_index=change.lock_index))


def _set_node_tls(fx: Effects, change: c.SetNodeTLS) -> None:
    node = fx.view.nodes.get(change.node_id)
    if node is not None and node.tls != change.tls:
        store_node(fx, node, replace(node, tls=change.tls))


def _finish_rotation(fx: Effects, change: c.FinishRotation) -> None:
    old = fx.view.cluster
    root = old.root_ca if old is not None else None
    rotation = root.rotation if root is not None else None
    if old is None or root is None or rotation is None:
        return
    if root_digest(rotation.cert_pem) != change.digest:
        return
    until_ns = fx.now_ns + FORMER_ROOT_NS
    former = [f for f in root.former if f.until_ns > fx.now_ns]
    former.append(
        FormerRoot(cert_pem=root.cert_pem, cross_pem=rotation.cross_pem, until_ns=until_ns)
    )
    now = RootCA(
        cert_pem=rotation.cert_pem,
        key_pem=rotation.key_pem,
        join_token_worker=rotation.join_token_worker,
        join_token_manager=rotation.join_token_manager,
        former=tuple(former[-FORMER_ROOTS:]),
    )
    new = replace(old, root_ca=now, meta=fx.meta(old.meta))
    fx.view.cluster = new
    fx.touch("cluster", old, new)
    fx.dirty.add(("cluster", old.id))


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
        further=change.further,
        meta=fx.meta(network.meta),
    )
    fx.view.put_network(new)
    fx.touch("network", network, new)
    fx.dirty.add(("network", network.id))
    fx.tables.add(network.id)
    counted = not vxlan_id(network.spec)  # one that was asked for says nothing of the next
    if cluster is not None and counted and change.vni > cluster.last_vni:
        fx.view.cluster = replace(cluster, last_vni=change.vni)


def _set_service_endpoint(fx: Effects, change: c.SetServiceEndpoint) -> None:
    service = fx.view.services.get(change.service_id)
    if service is None or service.endpoint == change.endpoint:
        return
    kept = {(v.network_id, host) for v in change.endpoint.vips for host in v.hosts()}
    store_service(fx, service, replace(service, endpoint=change.endpoint))
    for vip in service.endpoint.vips:
        for host in vip.hosts():
            if (vip.network_id, host) not in kept:
                quarantine(fx, vip.network_id, host)


def _set_update_status(fx: Effects, change: c.SetUpdateStatus) -> None:
    service = fx.view.services.get(change.service_id)
    if service is None or service.spec_version != change.spec_version:
        return
    if service.update_status != change.status:
        store_service(fx, service, replace(service, update_status=change.status))


def _set_job_status(fx: Effects, change: c.SetJobStatus) -> None:
    service = fx.view.services.get(change.service_id)
    if service is None or service.spec_version != change.spec_version:
        return
    if service.job_status != change.status:
        store_service(fx, service, replace(service, job_status=change.status))


_HANDLERS: Final[dict[type, Callable[[Effects, Any], None]]] = {
    c.PutCluster: _put_cluster,
    c.PutNode: _put_node,
    c.SetNodeSpec: _set_node_spec,
    c.PutService: _put_service,
    c.PutNetwork: _put_network,
    c.PutLease: _put_lease,
    c.SetLeaseAddress: _set_lease_address,
    c.PutSecret: _put_secret,
    c.PutConfig: _put_secret,
    c.SetLabels: _set_labels,
    c.PutSpecVersion: _put_spec,
    c.PutTask: _put_task,
    c.SetTaskStatus: _set_task_status,
    c.SetDesired: _set_desired,
    c.AssignTask: _assign_task,
    c.SetAddresses: _set_addresses,
    c.SetEndpoint: _set_endpoint,
    c.SetExplanation: _set_explanation,
    c.SetNodeStatus: _set_node_status,
    c.SetDisappearance: _set_disappearance,
    c.SetNodeDescription: _set_node_description,
    c.SetNodeMesh: _set_node_mesh,
    c.SetNodeLock: _set_node_lock,
    c.SetNodeLevel: _set_node_level,
    c.RaiseLevel: _raise_level,
    c.SetNodeTLS: _set_node_tls,
    c.FinishRotation: _finish_rotation,
    c.SetNetworkAllocation: _set_network_allocation,
    c.SetServiceEndpoint: _set_service_endpoint,
    c.SetUpdateStatus: _set_update_status,
    c.SetJobStatus: _set_job_status,
    c.Delete: delete,
    c.OrphanTasksOfNode: orphan,
    c.SetRebalance: _set_rebalance,
    c.PutApiToken: _put_api_token,
    c.DropApiToken: _drop_api_token,
}
