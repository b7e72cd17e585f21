"""Rotation of the root certificate: who is still behind, and when the old root goes.

The new root signs from the first moment on; its certificates carry it cross-signed by the old
one, so nodes of either trust know each other all the while. Sessions tell every node what to
trust and whose certificate to have. Another rotation in the midst of one only puts another new
root there: the old one is still trusted by all.
"""

from manager.store.changes import FinishRotation
from manager.store.turn import Turn
from manager.store.view import View
from swarmapi.ids import root_digest
from swarmapi.model.objects import Node, NodeState, RootCA


def issuer_wanted(root: RootCA) -> str:
    """Return the digest of the root that every certificate is to be of."""
    return root_digest(root.rotation.cert_pem if root.rotation else root.cert_pem)


def behind(view: View) -> list[Node]:
    """Return the nodes that hold a rotation up, by id; nodes left out are none of them."""
    root = view.cluster.root_ca if view.cluster is not None else None
    if root is None or root.rotation is None:
        return []
    wanted, skip_down = issuer_wanted(root), root.rotation.skip_down
    return [
        node
        for _, node in sorted(view.nodes.items())
        if not (node.tls.issuer == wanted and wanted in node.tls.trusts)
        and not (skip_down and node.state == NodeState.DOWN)
    ]


def advance(turn: Turn) -> None:
    """Drop the old root once no node needs it."""
    cluster = turn.view.cluster
    root = cluster.root_ca if cluster is not None else None
    if root is None or root.rotation is None or behind(turn.view):
        return
    reason = "every node has a certificate of the new root"
    turn.emit(FinishRotation(digest=issuer_wanted(root), reason=reason))
