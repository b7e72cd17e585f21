"""The leader's control loop: applied changes make keys dirty, turns make proposals."""

import asyncio
import contextlib
import logging
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
SHORTEST_S: Final = 0.005
"""Sleep at least this long where a turn that is due changes nothing."""


class ControlLoop:
    """Runs turns while this member leads; the sleep ends at the smallest deadline."""

    def __init__(self, store: Store, acks: Callable[[], Acks]) -> None:
        self._store = store
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
        now_ns = self._store.now_ns()
        try:
            result = turn(self._store.view, dirty, Env(now_ns, self._store.new_id), self._acks())
            self._deadline_ns = result.next_deadline_ns
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
            if busy:
                await asyncio.sleep(0)  # requests and sessions get their share
                continue
            await self._sleep(self._until_deadline_s())

    def _until_deadline_s(self) -> float:
        if self._dirty:
            return 0.0
        if self._deadline_ns is None:
            return IDLE_S
        return max(SHORTEST_S, (self._deadline_ns - self._store.now_ns()) / 1e9)

    async def _sleep(self, limit_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), limit_s)
        self._wake.clear()
