"""The cluster's events: what an applied transaction did to its objects, in Docker's words.

A pure function of the objects before and after, so every manager tells the same ones, with the
same times, and the log holds nothing for them.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from manager.store.apply import Key, Moved
from manager.store.view import View
from swarmapi.events import Event
from swarmapi.model import defaults
from swarmapi.model.objects import Node, Service, Task, TaskState

KINDS: Final = frozenset(("node", "service", "network", "secret", "config"))
"""Told to everyone, under Docker's names."""
TASK: Final = "task"
"""Told on request: Docker's clients know no such type, and there are many."""


def events_of(changed: Mapping[Key, Moved], now_ns: int) -> Iterator[Event]:
    """Yield an event for each object of a known kind that was made, changed or removed."""
    for (kind, object_id), (before, after) in changed.items():
        known = after or before
        if known is None or (kind not in KINDS and kind != TASK):
            continue
        action = "update" if before and after else "create" if after else "remove"
        attributes = {"name": _name(known)}
        match before, after:
            case Node() as old, Node() as new:
                attributes |= _node_changes(old, new)
            case Service() as old, Service() as new:
                attributes |= _service_changes(old, new)
            case _ if isinstance(known, Task):
                attributes |= _of_task(before, known)
        yield Event(kind, action, object_id, attributes, now_ns, "swarm")


def difference(before: View, after: View) -> dict[Key, Moved]:
    """Return what differs between two states; which transactions did it is not known."""
    changed: dict[Key, Moved] = {}
    for kind in (*sorted(KINDS), TASK):
        old, new = getattr(before, kind + "s"), getattr(after, kind + "s")
        for object_id in (*(i for i in old if i not in new), *new):
            moved = Moved(old.get(object_id), new.get(object_id))
            if moved.before != moved.after:
                changed[(kind, object_id)] = moved
    return changed


def _name(known: object) -> str:
    match known:
        case Node():
            return known.spec.name or known.description.hostname
        case Task():
            return f"{known.service_name}.{known.slot or known.node_id}.{known.id}"
    return str(getattr(getattr(known, "spec", None), "name", ""))


def _difference(name: str, old: object, new: object) -> dict[str, str]:
    return {} if old == new else {f"{name}.old": str(old), f"{name}.new": str(new)}


def _node_changes(old: Node, new: Node) -> dict[str, str]:
    return {
        **_difference("availability", old.spec.availability, new.spec.availability),
        **_difference("role", old.spec.role, new.spec.role),
        **_difference("state", old.state, new.state),
    }


def _service_changes(old: Service, new: Service) -> dict[str, str]:
    images = [defaults.container(service.spec).image for service in (old, new)]
    changes = _difference("image", *images)
    replicas = [_replicas(service) for service in (old, new)]
    if None not in replicas:
        changes |= _difference("replicas", *replicas)
    states = [one.update_status.state if one.update_status else "" for one in (old, new)]
    changes |= _difference("updatestate", *states) if states[1] else {}
    return {name: value for name, value in changes.items() if value}


def _replicas(service: Service) -> int | None:
    return defaults.replicas(service.spec) if service.spec.mode.replicated is not None else None


def _of_task(before: object, task: Task) -> dict[str, str]:
    attributes = {
        "service.id": task.service_id,
        "service.name": task.service_name,
        "node.id": task.node_id,
        "message": task.status.message,
        "error": task.status.error,
        "state.new": _word(task.status.state),
        "desired.new": _word(task.desired),
    }
    if isinstance(before, Task):
        del attributes["state.new"], attributes["desired.new"]
        states = _word(before.status.state), _word(task.status.state)
        desired = _word(before.desired), _word(task.desired)
        attributes |= _difference("state", *states) | _difference("desired", *desired)
    return {name: value for name, value in attributes.items() if value}


def _word(state: TaskState) -> str:
    return state.name.lower()
