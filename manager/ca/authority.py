"""Authority: what a peer may do is its certificate AND the store's present word on its node."""

from manager.store.view import View
from swarmapi.errors import Forbidden
from swarmapi.identity import Identity
from swarmapi.model.objects import Node


def check_node(view: View, identity: Identity) -> Node:
    """Return the node of a peer.

    Raises:
        Forbidden: another cluster's certificate, a removed node, or one never joined.
    """
    cluster = view.cluster
    if cluster is None or identity.cluster_id != cluster.id:
        raise Forbidden(f"certificate of node {identity.node_id} is for another cluster")
    if identity.node_id in cluster.removed_nodes:
        raise Forbidden(f"node {identity.node_id} was removed from the cluster: join it again")
    node = view.nodes.get(identity.node_id)
    if node is None:
        raise Forbidden(f"node {identity.node_id} is not in the cluster: join it again")
    return node


def check_manager(view: View, identity: Identity) -> Node:
    """Return the node of a peer that is a manager by certificate and by the store.

    Raises:
        Forbidden: when either denies it.
    """
    node = check_node(view, identity)
    if not identity.is_manager or not node.is_manager:
        raise Forbidden(f"node {node.id} is not a manager")
    return node
