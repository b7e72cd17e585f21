"""The engine's events: a bounded history on disk, and live subscribers."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from runtime.supervisor.appending import append_whole
from swarmapi.events import Event

_REMEMBERED = 1024
_HISTORY_BYTES = 1 << 20
"""The file of the history is written anew, with what is remembered, when it is larger."""
_QUEUE_LIMIT = 4096


class Listener:
    """What was remembered, and a queue of what comes; one that falls 4096 events behind ends."""

    def __init__(self, past: list[Event]) -> None:
        self.past = past
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.ended = False

    def offer(self, event: Event) -> None:
        """Put an event into the queue."""
        if self._queue.qsize() >= _QUEUE_LIMIT:
            self.end()
        elif not self.ended:
            self._queue.put_nowait(event)

    def end(self) -> None:
        """End it behind what is queued."""
        if not self.ended:
            self.ended = True
            self._queue.put_nowait(None)

    async def live(self, left_s: Callable[[], float | None]) -> AsyncIterator[Event]:
        """Yield what comes until it is ended, or `left_s()` tells that no time is left."""
        while (timeout_s := left_s()) is None or timeout_s > 0:
            try:
                received = await asyncio.wait_for(self._queue.get(), timeout_s)
            except TimeoutError:
                return
            if received is None:
                return
            yield received


class EventBus:
    """Fan-out of events; a subscriber that falls 4096 events behind is cut off."""

    def __init__(self, now_ns: Callable[[], int], history: Path | None = None) -> None:
        self._now_ns = now_ns
        self._history = history
        self._fd = -1
        self._past: deque[Event] = deque(maxlen=_REMEMBERED)
        self._listeners: set[Listener] = set()

    def open(self) -> None:
        """Read what happened before; without a history only what comes is remembered."""
        if self._history is None:
            return
        if self._history.exists():
            self._past.extend(_read(self._history.read_bytes()))
        self._rewrite()

    def _rewrite(self) -> None:
        assert self._history is not None
        fresh = self._history.with_suffix(".new")
        fresh.write_bytes(b"".join(_line(event) for event in self._past))
        fresh.rename(self._history)
        self._close_history()
        self._fd = os.open(self._history, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _remember(self, event: Event) -> None:
        self._past.append(event)
        if self._fd < 0:
            return
        with suppress(OSError):  # a full disk costs the history, nothing else
            end = os.fstat(self._fd).st_size
            if append_whole(self._fd, _line(event), end) > _HISTORY_BYTES:
                self._rewrite()

    def _close_history(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def listeners(self) -> int:
        """How many subscribers there are."""
        return len(self._listeners)

    def past(self) -> Sequence[Event]:
        """Return the remembered events, oldest first."""
        return tuple(self._past)

    def emit(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """Record an event and hand it to every subscriber."""
        event = Event(kind, action, actor_id, dict(attributes), self._now_ns())
        self._remember(event)
        for listener in self._listeners:
            listener.offer(event)

    @contextmanager
    def listen(self, since_ns: int | None = None) -> Iterator[Listener]:
        """Yield a listener; it remembers what happened from `since_ns` on, without it nothing."""
        known = self._past if since_ns is not None else ()
        listener = Listener([event for event in known if event.time_ns >= (since_ns or 0)])
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        """End every subscriber's stream."""
        for listener in self._listeners:
            listener.end()
        self._close_history()


def _line(event: Event) -> bytes:
    return msgspec.json.encode(event) + b"\n"


def _read(raw: bytes) -> Iterator[Event]:
    for line in raw.splitlines():
        with suppress(msgspec.DecodeError):  # torn by a power cut
            yield msgspec.json.decode(line, type=Event)


def emit_network(
    bus: EventBus, action: str, network_id: str, name: str, driver: str, container_id: str
) -> None:
    """Tell that a container came on a network, or left it."""
    attributes = {"container": container_id, "name": name, "type": driver}
    bus.emit("network", action, network_id, attributes)


def emit_volume(bus: EventBus, name: str, container_id: str, target: str) -> None:
    """Tell that a container mounted a volume at a target, or with none that it is done with it."""
    attributes = {"container": container_id, "driver": "local"}
    if target:
        bus.emit("volume", "mount", name, attributes | {"destination": target})
    else:
        bus.emit("volume", "unmount", name, attributes)
