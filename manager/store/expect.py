"""Expectations: what must hold for a transaction to happen. Checked before any of it does."""

from typing import Any

import msgspec

from manager.store import changes as c
from manager.store.view import View
from swarmapi.model import defaults
from swarmapi.model.objects import (
    Config,
    NetworkLease,
    Node,
    Secret,
    Service,
    SpecVersion,
)
from swarmapi.model.spec import NodeRole, NodeSpec

Key = tuple[str, str]
"""(kind, id) of an object."""


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """Why a transaction did nothing.

    `code` is version, name, missing, exists, in-use or manager.
    """

    code: str
    object: str
    id: str
    message: str


def find_conflict(view: View, changes: tuple[c.Change, ...]) -> Conflict | None:
    """Return the first expectation of a transaction that the state does not meet."""
    names: set[Key] = set()
    for change in changes:
        match change:
            case c.PutCluster(cluster=cluster):
                found = view.cluster
                conflict = _version("cluster", cluster.id, found, change.expect_version)
            case c.PutNode(node=node):
                found_node = view.nodes.get(node.id)
                conflict = _version("node", node.id, found_node, change.expect_version)
                conflict = conflict or _last_manager(view, node.id, node.spec)
            case c.SetNodeSpec(node_id=node_id):
                conflict = _node_spec(view, node_id, change.read_index)
                conflict = conflict or _last_manager(view, node_id, change.spec)
            case c.PutService(service=service):
                found_service = view.services.get(service.id)
                conflict = _version("service", service.id, found_service, change.expect_version)
                conflict = conflict or _name(view, names, "service", service.spec.name, service.id)
            case c.PutNetwork(network=network):
                found_network = view.networks.get(network.id)
                conflict = _version("network", network.id, found_network, change.expect_version)
                conflict = conflict or _name(view, names, "network", network.spec.name, network.id)
            case c.PutSecret(secret=secret) | c.PutConfig(secret=secret):
                conflict = _new_secret(view, secret, change.replaces)
            case c.SetLabels():
                found_secret = view.table_of(change.object).get(change.id)
                conflict = _version(change.object, change.id, found_secret, change.expect_version)
            case c.PutSpecVersion(record=record):
                conflict = _references(view, record)
            case c.Delete():
                conflict = _check_delete(view, change)
            case _:
                conflict = _new_token(view, change)
        if conflict is not None:
            return conflict
    return None


def _version(kind: str, object_id: str, found: Any, expect: int | None) -> Conflict | None:
    if expect is None:
        return None
    if expect == 0:
        if found is None:
            return None
        message = f"{kind} {object_id} already exists"
        return Conflict(code="exists", object=kind, id=object_id, message=message)
    if found is None:
        message = f"{kind} {object_id} does not exist any more"
        return Conflict(code="missing", object=kind, id=object_id, message=message)
    if found.meta.version != expect:
        message = (
            f"update out of sequence: {kind} {object_id} is at version {found.meta.version}, "
            f"not {expect}; read it again"
        )
        return Conflict(code="version", object=kind, id=object_id, message=message)
    return None


def _name(view: View, names: set[Key], kind: str, name: str, object_id: str) -> Conflict | None:
    owner = view.by_name(kind, name)
    if (owner is None or owner == object_id) and (kind, name) not in names:
        names.add((kind, name))
        return None
    message = f"name conflicts with an existing object: {kind} {name} already exists"
    return Conflict(code="name", object=kind, id=owner or object_id, message=message)


def _new_secret(view: View, secret: Secret, replaces: str) -> Conflict | None:
    kind, name = secret.kind, secret.spec.name
    owner = view.by_name(kind, name)
    if owner == (replaces or None) and secret.id not in view.table_of(kind):
        return None
    code = "version" if replaces else "name"
    message = f"{kind} {name} already exists"
    return Conflict(code=code, object=kind, id=owner or secret.id, message=message)


def _new_token(view: View, change: c.Change) -> Conflict | None:
    if not isinstance(change, c.PutApiToken) or view.cluster is None:
        return None
    token = change.token
    for one in view.cluster.api_tokens:
        if token.id == one.id or token.name == one.name:
            message = f"API token {token.name} already exists"
            return Conflict(code="name", object="api-token", id=one.id, message=message)
    return None


def _references(view: View, record: SpecVersion) -> Conflict | None:
    """A secret that was removed since the request was checked is missing, not ignored."""
    for kind, reference in defaults.references(record.spec):
        if reference.id not in view.table_of(kind):
            message = f"{kind} {reference.name} does not exist any more"
            return Conflict(code="missing", object=kind, id=reference.id, message=message)
    return None


def users_of(view: View, kind: str, secret_id: str) -> list[str]:
    """Return the names of the services that use a secret or config, in order."""
    return sorted(
        s.spec.name
        for s in view.services.values()
        if any(k == kind and r.id == secret_id for k, r in defaults.references(s.spec))
    )


def is_spec_as_read(node: Node, read_index: int) -> bool:
    """Tell whether a node's spec is still the one that was read at a version of the node."""
    return node.spec_index <= read_index <= node.meta.version


def _node_spec(view: View, node_id: str, read_index: int) -> Conflict | None:
    node = view.nodes.get(node_id)
    if node is None:
        return _version("node", node_id, None, read_index)
    if is_spec_as_read(node, read_index):
        return None
    message = f"update out of sequence: the spec of node {node_id} was not read last; read it again"
    return Conflict(code="version", object="node", id=node_id, message=message)


def _last_manager(view: View, node_id: str, spec: NodeSpec) -> Conflict | None:
    """Two demotions at a time each see the other one's manager; only here they have an order."""
    old = view.nodes.get(node_id)
    if old is None or spec.role is NodeRole.MANAGER or not old.is_manager:
        return None
    if view.managers.of("node") - {node_id}:
        return None
    message = "attempting to demote the last manager of the swarm"
    return Conflict(code="manager", object="node", id=node_id, message=message)


def _check_delete(view: View, change: c.Delete) -> Conflict | None:
    tables: dict[str, Any] = {
        "node": view.nodes,
        "service": view.services,
        "network": view.networks,
        "secret": view.secrets,
        "config": view.configs,
        "task": view.tasks,
    }
    table = tables.get(change.object)
    if table is None:
        return None
    if change.expect_version is not None:
        found = table.get(change.id)
        conflict = _version(change.object, change.id, found, change.expect_version)
        if conflict is not None:
            return conflict
    if change.object == "node" and (node := view.nodes.get(change.id)) and node.is_manager:
        message = f"node {change.id} is a cluster manager: it must be demoted before removal"
        return Conflict(code="manager", object="node", id=change.id, message=message)
    if change.object in (Secret.kind, Config.kind):
        return _check_unused(view, change)
    if change.object != "network":
        return None
    if (service := service_on(view, change.id)) is not None:
        message = f"network {change.id} is in use by service {service.spec.name}"
        return Conflict(code="in-use", object="network", id=change.id, message=message)
    if (lease := lease_on(view, change.id)) is not None:
        container = f"{lease.names[0] if lease.names else lease.container_id[:12]}"
        message = (
            f"network {change.id} is in use by container {container} on node {lease.node_id}: "
            "disconnect it first"
        )
        return Conflict(code="in-use", object="network", id=change.id, message=message)
    if view.members_of.of(change.id):
        message = f"network {change.id} is in use by tasks that have not stopped yet"
        return Conflict(code="in-use", object="network", id=change.id, message=message)
    return None


def service_on(view: View, network_id: str) -> Service | None:
    """Return a service whose spec names a network."""
    for service in view.services.values():
        record = view.specs.get((service.id, service.spec_version))
        if record is not None and network_id in record.networks:
            return service
    return None


def lease_on(view: View, network_id: str) -> NetworkLease | None:
    """Return the lease of a container that is on a network."""
    leases = (view.leases[i] for i in sorted(view.leases_of.of(network_id)))
    return next((lease for lease in leases if lease.is_up), None)


def _check_unused(view: View, change: c.Delete) -> Conflict | None:
    users = users_of(view, change.object, change.id)
    found = view.table_of(change.object).get(change.id)
    if not users or found is None:
        return None
    services = f"the following service{'s' if len(users) > 1 else ''}: {', '.join(users)}"
    message = f"{change.object} '{found.spec.name}' is in use by {services}"
    return Conflict(code="in-use", object=change.object, id=change.id, message=message)
