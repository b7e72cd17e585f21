"""Events: what happened to an object, as `GET /events` tells it."""

from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened to an object of the engine, or of the cluster."""

    kind: str
    """container, image, network, volume, daemon; node, service, secret, config, task."""
    action: str
    actor_id: str
    attributes: dict[str, str]
    time_ns: int
    """Unix time; of the cluster's events it is the cluster's, the same on every manager."""
    scope: str = "local"
    """local, or swarm for the cluster's."""

    def to_json(self) -> dict[str, Any]:
        """Render as one line of Docker's `GET /events`."""
        rendered: dict[str, Any] = {
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.actor_id, "Attributes": self.attributes},
            "scope": self.scope,
            "time": self.time_ns // 1_000_000_000,
            "timeNano": self.time_ns,
        }
        if self.kind in ("container", "image"):
            rendered |= {"status": self.action, "id": self.actor_id}
            if self.kind == "container":
                rendered["from"] = self.attributes.get("image", "")
        return rendered


class EventBatch(msgspec.Struct, frozen=True):
    """The events of one transaction, as a manager's `GET /swarm/v1/events` gives them in a line.

    The first line of an answer holds what is remembered, and is there even when that is nothing.
    """

    index: int
    """Raft index of the last transaction told of: with `after=INDEX` a reader goes on from there,
    on any manager."""
    events: tuple[Event, ...] = ()
