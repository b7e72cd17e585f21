"""One turn: the overlay that reconcilers read, and the list of changes they write."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from manager.store.apply import apply_change
from manager.store.changes import Change
from manager.store.effects import Effects
from manager.store.expect import Key
from manager.store.view import Overlay, View
from swarmapi.model.objects import Node, NodeState, Task

Acks = Mapping[str, Mapping[str, int]]
"""Node id to network id to the table revision the node has acknowledged.

Soft state of the dispatcher. An entry goes when the node has dropped that table, and all of a
node's when it is removed or another leader begins: what is here names who may still hold an old
table, also while a node has no session.
"""

MAX_CHANGES: Final = 200
NOT_COMMITTED: Final = 1 << 62
"""Version of what this turn wrote; greater than any Raft index."""


class Env(NamedTuple):
    """What a turn may know of the world outside the store."""

    now_ns: int
    new_id: Callable[[], str]


class Turn:
    """Collects changes; what was emitted is seen by all later reading of `view`."""

    def __init__(self, view: View, env: Env, acks: Acks) -> None:
        self.view: View = Overlay(view)
        self.now_ns = env.now_ns
        self.new_id = env.new_id
        self.acks = acks
        self.changes: list[Change] = []
        self.again: set[Key] = set()
        """Keys whose work was cut short."""
        self.next_deadline_ns: int | None = None
        self._effects = Effects(self.view, NOT_COMMITTED, env.now_ns)

    def is_full(self) -> bool:
        """True once the turn must end: the rest is for the next one."""
        return len(self.changes) >= MAX_CHANGES

    def emit(self, change: Change) -> None:
        """Add a change and let the overlay see it."""
        self.changes.append(change)
        apply_change(self._effects, change)

    def wake_at(self, deadline_ns: int) -> None:
        """Ask for another turn at `deadline_ns` at the latest."""
        if self.next_deadline_ns is None or deadline_ns < self.next_deadline_ns:
            self.next_deadline_ns = deadline_ns

    def node_of(self, task: Task) -> Node | None:
        """Return the node of a task, None when it is gone or not chosen."""
        return self.view.nodes.get(task.node_id) if task.node_id else None

    def is_lost(self, task: Task) -> bool:
        """Tell whether nothing can be asked of the task's node: it is down or gone."""
        if not task.node_id:
            return False
        node = self.view.nodes.get(task.node_id)
        return node is None or node.state == NodeState.DOWN

    def is_acknowledged(self, task: Task) -> bool:
        """Tell whether all nodes that are not down have the task's endpoint as it is now."""
        for lease in task.addresses:
            network = self.view.networks.get(lease.network_id)
            if network is None:
                continue
            for node_id in self.view.participants(network):
                node = self.view.nodes.get(node_id)
                if node is None or node.state == NodeState.DOWN:
                    continue
                if self.acks.get(node_id, {}).get(network.id, 0) < task.endpoint.index:
                    return False
        return True
