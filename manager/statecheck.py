"""Once a minute the leader asks all managers what their state was, and says what most have."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from manager.replica import Store
from manager.store.changes import AgreeState
from manager.store.digest import agreed
from swarmapi.errors import SwarmError

PERIOD_S: Final = 60.0
Ask = Callable[[int], Awaitable[Mapping[str, str]]]
"""Returns the other managers' digests as of an entry by node id, empty where one is not known."""
_OWN: Final = ""
"""Stands for this manager among the ids of others."""
log = logging.getLogger(__name__)


class StateCheck:
    """Works while it leads; who differs is named, and leads no longer than it must."""

    def __init__(
        self,
        store: Store,
        ask: Ask,
        hand_over: Callable[[], Awaitable[None]],
        start_anew: Callable[[], bool],
        period_s: float = PERIOD_S,
    ) -> None:
        self._store = store
        self._ask = ask
        self._hand_over = hand_over
        self._start_anew = start_anew
        self._period_s = period_s
        self._checked_index = 0

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(self._period_s)
            with contextlib.suppress(SwarmError):
                await self.step()

    async def step(self) -> None:
        """Compare, when something changed since all were equal. Raises SwarmError."""
        status, replica = self._store.log.status, self._store.replica
        index = replica.view.index
        if replica.is_astray and not status.is_leader:
            await self._come_right(index)
        if not (status.is_leader and status.ready) or index <= self._checked_index:
            return
        own = replica.digest_at(index)
        told = {**await self._ask(index), status.leader_id: own}
        digest, by_most = agreed(told, status.leader_id)
        differing = sorted(node for node, word in told.items() if word not in ("", digest))
        for node in differing:
            whose = "most managers'" if by_most else "the leader's"
            log.critical("the state of manager %s differs from %s as of %d", node, whose, index)
        word = AgreeState(as_of=index, digest=digest, by_most=by_most)
        await self._store.propose((word,))
        if not differing:
            self._checked_index = replica.view.index
        elif status.leader_id in differing:
            log.critical("this manager's state differs from the cluster's: it hands over")
            await self._hand_over()

    async def _come_right(self, index: int) -> None:
        """Start anew, if those who have one state without this manager are a majority now.

        Who else is astray does not count among them, so several may start anew at once.
        """
        own = self._store.replica.digest_at(index)
        digest, by_most = agreed({**await self._ask(index), _OWN: own}, _OWN)
        if not by_most:
            log.warning("this manager's state differs: it waits for a majority to start anew with")
        elif digest != own and not self._store.log.status.is_leader and not self._start_anew():
            log.critical("this manager's state differs again: demote it and promote it again")
