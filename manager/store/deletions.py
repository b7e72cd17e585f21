"""Deletions: what goes with an object, and what of it stays behind for a while."""

from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from manager.store import changes as c
from manager.store.effects import (
    Effects,
    drop_lease,
    drop_unused_specs,
    orphan,
    quarantine,
    store_node,
    task_moved,
    touch_node_tables,
    touch_service_tables,
)
from manager.store.story import SERVICE_LINES, last_word
from swarmapi.model.objects import Config, Secret


def delete(fx: Effects, change: c.Delete) -> None:
    """Delete an object; one that is gone is fine."""
    handler = _DELETERS.get(change.object)
    if handler is not None:
        handler(fx, change.id)


def _delete_node(fx: Effects, node_id: str) -> None:
    if node_id not in fx.view.nodes:
        return
    reason = "its node was removed from the cluster"
    orphan(fx, c.OrphanTasksOfNode(node_id=node_id, reason=reason))
    touch_node_tables(fx, node_id)
    _drop_leases(fx, node_id)
    node, ingress = fx.view.nodes[node_id], fx.view.ingress_network()
    fx.view.drop_node(node_id)
    if ingress is not None:
        for host in node.ingress_hosts():
            quarantine(fx, ingress.id, host)
    fx.touch("node", node, None)
    fx.dirty.add(("node", node_id))
    fx.dirty.update(("network", network_id) for network_id in fx.view.networks)
    cluster = fx.view.cluster
    if cluster is not None and node_id not in cluster.removed_nodes:
        new = replace(cluster, removed_nodes=(*cluster.removed_nodes, node_id))
        fx.view.cluster = new
        fx.touch("cluster", cluster, new)


def _delete_service(fx: Effects, service_id: str) -> None:
    service = fx.view.services.get(service_id)
    if service is None:
        return
    touch_service_tables(fx, service)
    fx.view.drop_service(service_id)
    for vip in service.endpoint.vips:
        for host in vip.hosts():
            quarantine(fx, vip.network_id, host)
    fx.touch("service", service, None)
    fx.dirty.add(("service", service_id))
    drop_unused_specs(fx, service_id)


def _delete_network(fx: Effects, network_id: str) -> None:
    network = fx.view.networks.get(network_id)
    if network is None:
        return
    if network.spec.ingress:  # the next ingress network gives the nodes addresses of its own
        for node in [n for n in fx.view.nodes.values() if n.ingress_address]:
            store_node(fx, node, replace(node, ingress_address="", ingress_ipv6=""))
    _drop_leases(fx, network_id)
    for record_id in tuple(fx.view.quarantine.of(network_id)):
        record = fx.view.quarantined[record_id]
        fx.view.drop_quarantined(record_id)
        fx.touch("quarantined", record, None)
    fx.view.drop_network(network_id)
    fx.touch("network", network, None)
    fx.dirty.add(("network", network_id))


def _drop_leases(fx: Effects, owner_id: str) -> None:
    """Forget the leases of a node or network."""
    for lease_id in sorted(fx.view.leases_of.of(owner_id)):
        drop_lease(fx, fx.view.leases[lease_id])


def _delete_lease(fx: Effects, lease_id: str) -> None:
    lease = fx.view.leases.get(lease_id)
    if lease is not None:
        drop_lease(fx, lease)


def _delete_secret(fx: Effects, secret_id: str, kind: str = Secret.kind) -> None:
    secret = fx.view.table_of(kind).get(secret_id)
    if secret is not None:
        fx.view.drop_secret(kind, secret_id)
        fx.touch(kind, secret, None)


def _delete_task(fx: Effects, task_id: str) -> None:
    task = fx.view.tasks.get(task_id)
    if task is None:
        return
    if task.service_id in fx.view.services:
        fx.tell(task.service_id, (last_word(task, fx.reason, fx.now_ns),), SERVICE_LINES)
    fx.view.drop_task(task_id)
    fx.touch("task", task, None)
    task_moved(fx, task, None)
    drop_unused_specs(fx, task.service_id)


def _delete_quarantined(fx: Effects, record_id: str) -> None:
    record = fx.view.quarantined.get(record_id)
    if record is not None:
        fx.view.drop_quarantined(record_id)
        fx.touch("quarantined", record, None)
        fx.dirty.add(("network", record.network_id))


_DELETERS: Final[dict[str, Callable[[Effects, str], None]]] = {
    "node": _delete_node,
    "service": _delete_service,
    "network": _delete_network,
    "lease": _delete_lease,
    Secret.kind: _delete_secret,
    Config.kind: partial(_delete_secret, kind=Config.kind),
    "task": _delete_task,
    "quarantined": _delete_quarantined,
}
