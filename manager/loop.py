"""The leader's control loop: applied changes make keys dirty, turns make proposals."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from manager.reconcile import Acks, Env, Key, all_keys, turn
from manager.replica import LogStatus, Store
from manager.store.apply import Applied
from manager.store.changes import parts
from swarmapi.errors import SwarmError

log = logging.getLogger(__name__)
RETRY_S: Final = 0.1
IDLE_S: Final = 3_600.0
TRANSACTION_BYTES: Final = 512 << 10
"""Half of what the log takes at once: long texts in many changes do not make a turn fail for ever.

A turn may be cut anywhere: what is missing is found again from the View.
"""
UNNOTICED_S: Final = 0.01
LONGEST_REST_S: Final = 0.25
"""A turn that took longer than UNNOTICED_S is followed by a rest as long as it was, up to this.

Beats and reports get their share, and the changes that come meanwhile cost one turn together.
"""
SHORTEST_S: Final = 0.005
"""Sleep at least this long where a turn that is due changes nothing."""


def rest_s(turn_s: float) -> float:
    """Return how long to rest after a turn that took so long."""
    return min(turn_s, LONGEST_REST_S) if turn_s > UNNOTICED_S else 0.0


class ControlLoop:
    """Runs turns while this member leads; the sleep ends at the smallest deadline."""

    def __init__(
        self,
        store: Store,
        acks: Callable[[], Acks],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._turn_s = 0.0
        """How long the last turn held the loop."""
        self._acks = acks
        self._dirty: set[Key] = set()
        self._wake = asyncio.Event()
        self._deadline_ns: int | None = None
        self._led = False
        store.replica.subscribe(self._on_applied)
        store.replica.on_restore(self.make_all_dirty)
        store.log.on_status(self._on_status)

    def make_all_dirty(self) -> None:
        """Reconcile everything in the next turn, as a new leader must."""
        self._dirty |= all_keys(self._store.view)
        self._wake.set()

    def nudge(self) -> None:
        """Run a turn soon: something outside the store (acknowledgements) changed."""
        self._wake.set()

    def _on_applied(self, applied: Applied) -> None:
        self._dirty |= applied.dirty
        if applied.dirty:
            self._wake.set()

    def _on_status(self, status: LogStatus) -> None:
        leads = status.is_leader and status.ready
        if leads and not self._led:
            self.make_all_dirty()
        self._led = leads

    async def step(self) -> bool:
        """Run one turn; tell whether another one should follow at once."""
        dirty, self._dirty = self._dirty, set()
        began_s = self._clock()
        now_ns = self._store.now_ns()
        try:
            result = turn(self._store.view, dirty, Env(now_ns, self._store.new_id), self._acks())
            self._deadline_ns = result.next_deadline_ns
            self._turn_s = self._clock() - began_s
            for part in parts(result.changes, TRANSACTION_BYTES):
                await self._store.propose(part)
        except BaseException:
            # What was not proposed is still to be done.
            self._dirty |= dirty
            raise
        self._dirty |= result.still_dirty
        due = self._deadline_ns is not None and self._deadline_ns <= self._store.now_ns()
        return bool(result.changes) and (bool(self._dirty) or due)

    async def run(self) -> None:
        """Run until cancelled."""
        status = self._store.log.status
        self._on_status(status)
        while True:
            if not self._led:
                await self._sleep(IDLE_S)
                continue
            try:
                busy = await self.step()
            except SwarmError as error:
                log.info("turn not committed: %s", error.message)
                busy = False
                await asyncio.sleep(RETRY_S)
                self._wake.set()
            await asyncio.sleep(rest_s(self._turn_s))
            if busy:
                continue
            await self._sleep(self._until_deadline_s())

    def _until_deadline_s(self) -> float:
        if self._dirty:
            return 0.0
        if self._deadline_ns is None:
            return IDLE_S
        return max(SHORTEST_S, (self._deadline_ns - self._store.now_ns()) / 1e9)

    async def _sleep(self, limit_s: float) -> None:
        # Not wait_for: what wakes it in the very moment it is cancelled would make it go on.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._wake.wait()
        self._wake.clear()
