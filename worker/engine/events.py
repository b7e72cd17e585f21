"""The engine's events: a bounded history on disk, and live subscribers."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from runtime.supervisor.appending import append_whole

_REMEMBERED = 1024
_HISTORY_BYTES = 1 << 20
"""The file of the history is written anew, with what is remembered, when it is larger."""
_QUEUE_LIMIT = 4096


class Event(msgspec.Struct, frozen=True):
    """Something that happened to an object of the engine."""

    kind: str
    """container, image, network, volume or daemon."""
    action: str
    actor_id: str
    attributes: dict[str, str]
    time_ns: int

    def to_json(self) -> dict[str, Any]:
        """Render as one line of Docker's `GET /events`."""
        rendered: dict[str, Any] = {
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.actor_id, "Attributes": self.attributes},
            "scope": "local",
            "time": self.time_ns // 1_000_000_000,
            "timeNano": self.time_ns,
        }
        if self.kind in ("container", "image"):
            rendered |= {"status": self.action, "id": self.actor_id}
            if self.kind == "container":
                rendered["from"] = self.attributes.get("image", "")
        return rendered


class EventBus:
    """Fan-out of events; a subscriber that falls 4096 events behind is cut off."""

    def __init__(self, now_ns: Callable[[], int], history: Path | None = None) -> None:
        self._now_ns = now_ns
        self._history = history
        self._fd = -1
        self._past: deque[Event] = deque(maxlen=_REMEMBERED)
        self._queues: set[asyncio.Queue[Event | None]] = set()

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
        return len(self._queues)

    def past(self) -> Sequence[Event]:
        """Return the remembered events, oldest first."""
        return tuple(self._past)

    def emit(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """Record an event and hand it to every subscriber."""
        event = Event(kind, action, actor_id, dict(attributes), self._now_ns())
        self._remember(event)
        for queue in list(self._queues):
            if queue.qsize() >= _QUEUE_LIMIT:
                self._queues.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    async def stream(
        self, since_ns: int | None = None, until_ns: int | None = None
    ) -> AsyncIterator[Event]:
        """Yield remembered events from `since_ns`, then live ones until `until_ns` or for ever."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            if since_ns is not None:
                for event in list(self._past):
                    if event.time_ns >= since_ns and (until_ns is None or event.time_ns < until_ns):
                        yield event
            while True:
                timeout_s = None
                if until_ns is not None:
                    timeout_s = (until_ns - self._now_ns()) / 1e9
                    if timeout_s <= 0:
                        return
                try:
                    received = await asyncio.wait_for(queue.get(), timeout_s)
                except TimeoutError:
                    return
                if received is None:
                    return
                yield received
        finally:
            self._queues.discard(queue)

    def close(self) -> None:
        """End every subscriber's stream."""
        for queue in self._queues:
            queue.put_nowait(None)
        self._queues.clear()
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
