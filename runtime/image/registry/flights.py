"""Single flight: equal work wanted several times at once is done once and shared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Report = Callable[[str, int, int], None]
"""Told what is being done to a layer, and how many bytes of how many."""


@dataclass
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    listeners: list[Report]


class Flights(Generic[T]):
    """Work by key. The last one to stop waiting cancels it."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    @property
    def under_way(self) -> int:
        """How much work is being done."""
        return len(self._flights)

    async def join(
        self, key: str, work: Callable[[Report], Coroutine[Any, Any, T]], listener: Report
    ) -> T:
        """Return what `work` returns; where it is under way already, share it.

        Where another's work fails, ours is tried: theirs may have been another registry.
        """
        while (flight := self._flights.get(key)) is not None:
            try:
                return await self._wait(key, flight, listener)
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise  # it is we who are cancelled, not the flight
            except Exception:  # noqa: BLE001 - its owner reports it
                continue
        listeners: list[Report] = []

        def report(status: str, current: int, total: int) -> None:
            for item in listeners:
                item(status, current, total)

        started = _Flight(asyncio.ensure_future(work(report)), listeners)
        self._flights[key] = started
        return await self._wait(key, started, listener)

    async def _wait(self, key: str, flight: _Flight[T], listener: Report) -> T:
        flight.listeners.append(listener)
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.listeners.remove(listener)
            if not flight.listeners and not flight.task.done():
                flight.task.cancel()
                await asyncio.wait([flight.task])
            if flight.task.done() and self._flights.get(key) is flight:
                del self._flights[key]
