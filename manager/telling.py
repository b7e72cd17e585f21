"""Each manager's word of the level of changes it knows, and of its version."""

import asyncio
from collections.abc import Awaitable, Callable

from manager.replica import LogStatus, Store
from manager.stepping import step_on
from manager.store.apply import Applied
from manager.store.changes import SetNodeLevel


class LevelTeller:
    """Has the store hold what this program knows: by itself where it leads, else by `ask`.

    `ask` tells the leader at an address, and raises SwarmError.
    """

    def __init__(
        self, node_id: str, version: str, store: Store, ask: Callable[[str], Awaitable[None]]
    ) -> None:
        self._node_id = node_id
        self._version = version
        self._store = store
        self._ask = ask
        self._wake = asyncio.Event()
        store.replica.subscribe(self._on_applied)
        store.replica.on_restore(self._wake.set)
        store.log.on_status(self._on_status)

    def _on_applied(self, applied: Applied) -> None:
        if ("node", self._node_id) in applied.changed:
            self._wake.set()

    def _on_status(self, status: LogStatus) -> None:
        self._wake.set()

    async def step(self) -> None:
        """Tell it unless it is known. Raises SwarmError."""
        node, status = self._store.view.nodes.get(self._node_id), self._store.log.status
        known = self._store.replica.known
        if node is None or (node.level, node.manager_version) == (known, self._version):
            return
        if not node.is_manager:
            return
        if status.is_leader and status.ready:
            told = SetNodeLevel(
                node_id=node.id, known=known, version=self._version, reason="level told"
            )
            await self._store.propose((told,))
        elif status.leader_address:
            await self._ask(status.leader_address)

    async def run(self) -> None:
        """Run until cancelled."""
        await step_on(self._wake, self.step, "the level is not told")
