"""What a change of a node means for the tasks on it."""

from typing import Final

from manager.orchestrator.drain import serve
from manager.orchestrator.enforcer import enforce
from manager.store.changes import OrphanTasksOfNode
from manager.store.turn import Turn
from manager.store.view import is_live
from swarmapi.model.objects import NodeState

ORPHAN_AFTER_NS: Final = 24 * 3_600_000_000_000


def reconcile_node(turn: Turn, node_id: str) -> set[str]:
    """Enforce what the node still suits; return ids of services to reconcile because of it."""
    node = turn.view.nodes.get(node_id)
    tasks = turn.view.tasks_of_node(node_id)
    if node is not None:
        enforce(turn, node)
    if node is None or node.state == NodeState.DOWN:
        serve(turn, tasks)
    return {t.service_id for t in tasks} | turn.view.services_in.of("global")


def orphan_lost(turn: Turn) -> None:
    """Give up the tasks of nodes that have been down for a day."""
    for node_id in sorted(turn.view.down.of("node")):
        node = turn.view.nodes[node_id]
        due_ns = node.state_changed_ns + ORPHAN_AFTER_NS
        if not any(is_live(t) for t in turn.view.tasks_of_node(node_id)):
            continue
        if turn.now_ns < due_ns:
            turn.wake_at(due_ns)
        else:
            reason = "its node has been down for a day"
            turn.emit(OrphanTasksOfNode(node_id=node_id, reason=reason))
