"""Raft's members follow the store: who is demoted or removed leaves."""

import asyncio
import logging

from manager.replica import LogStatus, Store
from manager.stepping import step_on
from manager.store.apply import Applied

log = logging.getLogger(__name__)


class Roster:
    """Runs on the leader; one removal at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wake = asyncio.Event()
        store.replica.subscribe(self._on_applied)
        store.log.on_status(self._on_status)

    def _on_applied(self, applied: Applied) -> None:
        if any(kind == "node" for kind, _ in applied.changed):
            self._wake.set()

    def _on_status(self, status: LogStatus) -> None:
        self._wake.set()

    def surplus(self) -> list[str]:
        """Return members that are no managers by the store, this one last."""
        view = self._store.view
        if view.cluster is None:
            return []
        own = self._store.log.status.leader_id
        gone = [
            m
            for m in self._store.log.members()
            if (node := view.nodes.get(m)) is None or not node.is_manager
        ]
        return sorted(gone, key=lambda m: (m == own, m))

    async def step(self) -> None:
        """Remove what is surplus; raises SwarmError when Raft does not take it now."""
        status = self._store.log.status
        if not (status.is_leader and status.ready):
            return
        for member in self.surplus():
            log.info("member %s leaves: it is no manager any more", member)
            await self._store.log.remove_member(member)

    async def run(self) -> None:
        """Run until cancelled."""
        await step_on(self._wake, self.step, "member not removed")
