"""The leader's word, once a minute, of what the state is; each member compares it with its own."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from manager.replica import Store
from manager.store.changes import CheckState
from swarmapi.errors import SwarmError

PERIOD_S: Final = 60.0
log = logging.getLogger(__name__)


class StateCheck:
    """Proposes the digest while it leads; a member that differs leads no longer than it must."""

    def __init__(
        self, store: Store, hand_over: Callable[[], Awaitable[None]], period_s: float = PERIOD_S
    ) -> None:
        self._store = store
        self._hand_over = hand_over
        self._period_s = period_s
        self._checked_index = 0

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(self._period_s)
            with contextlib.suppress(SwarmError):
                await self.step()

    async def step(self) -> None:
        """Tell the digest, when something changed since the last time. Raises SwarmError."""
        status, replica = self._store.log.status, self._store.replica
        if not (status.is_leader and status.ready):
            return
        if replica.differs_since:
            log.critical("this manager's state differs from the cluster's: it hands over")
            await self._hand_over()
            return
        index, digest = replica.view.index, replica.digest
        if index > self._checked_index:
            await self._store.propose((CheckState(as_of=index, digest=f"{digest:x}"),))
            self._checked_index = replica.view.index
