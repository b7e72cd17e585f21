"""Nodes: list, update (availability, labels, promotion), remove."""

from typing import Any, Final

from manager.control.lookup import (
    Filters,
    find_node,
    matches_labels,
    matches_one,
    matches_prefix,
)
from manager.orchestrator.disappearance import Lost, held_nodes
from manager.replica import OUT_OF_SEQUENCE, Store
from manager.store.changes import Delete, SetDisappearance, SetNodeSpec
from manager.store.expect import is_spec_as_read
from manager.store.view import View
from swarmapi.errors import FailedPrecondition, Internal, InvalidArgument
from swarmapi.ids import check_service_name
from swarmapi.model import defaults
from swarmapi.model.objects import Node, NodeState
from swarmapi.model.spec import NodeRole, NodeSpec

FILTERS: Final = ("id", "name", "label", "node.label", "membership", "role")


def list_nodes(view: View, filters: Filters) -> list[Node]:
    """Return the nodes that match, by id."""
    return [
        n
        for _, n in sorted(view.nodes.items())
        if matches_prefix(filters, "id", n.id)
        and matches_prefix(filters, "name", n.description.hostname)
        and matches_labels(filters, "label", n.description.labels)
        and matches_labels(filters, "node.label", n.spec.labels)
        and matches_one(filters, "membership", "accepted")
        and matches_one(filters, "role", n.spec.role.value)
    ]


async def update_node(
    store: Store, key: str, spec: NodeSpec, version: int, request_id: str = ""
) -> Node:
    """Replace a node's spec; a change of role is a promotion or demotion.

    `version` is the node's when its spec was read. Sessions move it too; they are no conflict.

    Raises:
        Internal: the spec was changed since.
        FailedPrecondition: it would demote the last manager.
    """
    node = find_node(store.view, key)
    if store.knows(request_id):
        return node
    if not is_spec_as_read(node, version):
        raise Internal(OUT_OF_SEQUENCE)
    if spec.name and spec.name != node.spec.name:
        try:
            check_service_name(spec.name)
        except InvalidArgument as error:
            raise InvalidArgument(f"Name: {error.message}") from error
    if node.is_manager and spec.role is not NodeRole.MANAGER:
        check_demotion(store.view, node)
    change = SetNodeSpec(node_id=node.id, spec=spec, read_index=version, reason="node updated")
    await store.propose((change,), request_id)
    return store.view.nodes.get(node.id, node)


async def remove_node(store: Store, key: str, force: bool, request_id: str = "") -> None:
    """Remove a node; its certificate is refused from then on.

    Raises:
        FailedPrecondition: it is a manager, or reachable and `force` is not set.
    """
    if store.knows(request_id):
        return
    node = find_node(store.view, key)
    if node.is_manager:
        raise FailedPrecondition(
            f"node {node.id} is a cluster manager and is a member of the raft cluster. It must "
            "be demoted to worker before removal"
        )
    if node.state == NodeState.READY and not force:
        raise FailedPrecondition(f"node {node.id} is not down and can't be removed")
    change = Delete(object="node", id=node.id, reason="node removed")
    await store.propose((change,), request_id)


def rescheduling(view: View) -> dict[str, Any]:
    """Return whether tasks of lost nodes are moved, and if not, which nodes went together."""
    held = held_nodes(view)
    share = defaults.disappearance_share(view.cluster.spec) if view.cluster is not None else 0.0
    body: dict[str, Any] = {"Paused": held is not None, "Share": share}
    if held is not None:
        names = sorted(n.description.hostname or n.id for n in held.nodes)
        body |= {"Lost": names, "Nodes": held.of, "Message": _pause_text(held)}
    return body


def _pause_text(held: Lost) -> str:
    return (
        f"rescheduling is paused: {len(held.nodes)} of {held.of} nodes disappeared within a "
        "minute; it goes on when enough are back, or by swarmctl node reschedule"
    )


def pause_of(view: View, node_id: str) -> str:
    """Return why the tasks of a lost node stay where they are; empty when they do not."""
    held = held_nodes(view)
    if held is None or all(n.id != node_id for n in held.nodes):
        return ""
    return _pause_text(held)


async def resume_rescheduling(store: Store, request_id: str = "") -> None:
    """Move the tasks of lost nodes after all.

    Raises:
        FailedPrecondition: nothing is paused.
    """
    if store.knows(request_id):
        return
    if held_nodes(store.view) is None:
        raise FailedPrecondition("rescheduling is not paused")
    change = SetDisappearance(counted_from_ns=store.now_ns(), reason="rescheduling was asked for")
    await store.propose((change,), request_id)


def check_demotion(view: View, node: Node) -> None:
    """Refuse to demote the last manager, or the one whose loss costs the quorum.

    Raises:
        FailedPrecondition: with the reason.
    """
    others = [n for n in view.nodes.values() if n.is_manager and n.id != node.id]
    if not others:
        raise FailedPrecondition("attempting to demote the last manager of the swarm")
    ready = [n for n in others if n.state == NodeState.READY]
    if len(ready) <= len(others) // 2:
        raise FailedPrecondition(
            "can't demote a manager while the others would have no quorum: "
            f"{len(ready)} of {len(others)} are reachable"
        )
