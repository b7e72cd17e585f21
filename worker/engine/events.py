"""The engine's events: a bounded memory of the last ones, and live subscribers."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec

_REMEMBERED = 256
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

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._past: deque[Event] = deque(maxlen=_REMEMBERED)
        self._queues: set[asyncio.Queue[Event | None]] = set()

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
        self._past.append(event)
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


def emit_network(
    bus: EventBus, action: str, network_id: str, name: str, driver: str, container_id: str
) -> None:
    """Tell that a container came on a network, or left it."""
    attributes = {"container": container_id, "name": name, "type": driver}
    bus.emit("network", action, network_id, attributes)
