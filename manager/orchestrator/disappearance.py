"""Mass disappearance: many nodes lost at once are more likely a cut network than dead machines.

To start their tasks anew on the few that are left would only bring those down too. So nothing is
moved off them until enough are back, or somebody says to go on. The pause is stored in the
cluster object; `GET /swarm/v1/rescheduling` tells of it.
"""

from typing import Final, NamedTuple

from manager.store.changes import SetDisappearance
from manager.store.turn import Turn
from manager.store.view import View
from swarmapi.model import defaults
from swarmapi.model.objects import Node, NodeState

WITHIN_NS: Final = 60 * defaults.SECOND_NS
LEAST: Final = 3
"""Fewer nodes than this are no mass: a small cluster reschedules as it always did."""


class Lost(NamedTuple):
    """Nodes lost together, and how many there were to lose."""

    nodes: list[Node]
    of: int
    share: float
    """What share of them pauses rescheduling."""

    @property
    def is_mass(self) -> bool:
        """True when they are many, and more than the share allows."""
        return len(self.nodes) >= LEAST and len(self.nodes) > self.share * self.of


def lost_since(view: View, since_ns: int) -> Lost:
    """Return the nodes lost since then, among those that were not lost before."""
    gone = [n for n in view.nodes.values() if _is_silent(n)]
    recent = [n for n in gone if n.state_changed_ns >= since_ns]
    share = defaults.DISAPPEARANCE_SHARE
    if view.cluster is not None:
        share = defaults.disappearance_share(view.cluster.spec)
    return Lost(recent, len(view.nodes) - len(gone) + len(recent), share)


def watch(turn: Turn) -> None:
    """Begin the pause when many nodes went within a minute; end it when enough are back."""
    cluster = turn.view.cluster
    if cluster is None:
        return
    if cluster.disappeared_ns:
        if not lost_since(turn.view, _held_from(turn.view)).is_mass:
            reason = "enough nodes are back: rescheduling goes on"
            turn.emit(SetDisappearance(counted_from_ns=turn.now_ns, reason=reason))
        return
    if not turn.view.down.of("node"):
        return
    since_ns = max(turn.now_ns - WITHIN_NS, cluster.counted_from_ns + 1)
    lost = lost_since(turn.view, since_ns)
    if lost.is_mass:
        reason = f"{len(lost.nodes)} of {lost.of} nodes disappeared within a minute"
        turn.emit(
            SetDisappearance(
                disappeared_ns=turn.now_ns, counted_from_ns=cluster.counted_from_ns, reason=reason
            )
        )


def held_nodes(view: View) -> Lost | None:
    """Return the nodes whose tasks stay where they are for now; None when nothing is paused."""
    if view.cluster is None or not view.cluster.disappeared_ns:
        return None
    return lost_since(view, _held_from(view))


def is_held(turn: Turn, node: Node) -> bool:
    """Tell whether a lost node keeps its tasks: it disappeared together with many."""
    cluster = turn.view.cluster
    if cluster is None or not cluster.disappeared_ns or node.state != NodeState.DOWN:
        return False
    return node.state_changed_ns >= _held_from(turn.view)


def _held_from(view: View) -> int:
    cluster = view.cluster
    assert cluster is not None
    return max(cluster.disappeared_ns - WITHIN_NS, cluster.counted_from_ns + 1)


def _is_silent(node: Node) -> bool:
    """Tell whether a node that was once here is not heard from."""
    return node.state != NodeState.READY and bool(node.description.hostname)
