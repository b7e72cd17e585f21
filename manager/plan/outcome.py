"""What a plan says: each slot of each service before and after, what fits nowhere, a fingerprint.

The fingerprint is the plan's version. It is made of what would be done and where, so that it
moves when, and only when, something moved that matters to this plan.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from manager.orchestrator.slots import SlotKey, slot_key
from manager.store.view import View, is_live, is_wanted
from swarmapi.model import defaults
from swarmapi.model.objects import Explanation, Service, Task, TaskState
from swarmapi.model.spec import ServiceSpec, to_json

CREATE: Final = "create"
REPLACE: Final = "replace"
KEEP: Final = "keep"
REMOVE: Final = "remove"


class PlannedTask(NamedTuple):
    """One slot: what happens to it; node ids are empty where there is none."""

    slot: int
    action: str
    before_node: str
    node: str
    unplaced: str = ""
    """Why it fits nowhere."""


class PlannedService(NamedTuple):
    """One service: `action` is create, update, remove, or move for one that has to make room."""

    id: str
    name: str
    action: str
    changes: tuple[str, ...]
    tasks: tuple[PlannedTask, ...]

    def having(self, action: str) -> int:
        """Return how many slots have an action."""
        return sum(task.action == action for task in self.tasks)


class PlannedContent(NamedTuple):
    """A secret or config that services need: created, replaced or kept."""

    kind: str
    name: str
    action: str


class Plan(NamedTuple):
    """What would come of a list of requests."""

    services: tuple[PlannedService, ...]
    contents: tuple[PlannedContent, ...] = ()

    @property
    def version(self) -> int:
        """The fingerprint, below 2^53: JSON keeps it."""
        told = [*self.contents, *((s.action, s.changes, s.tasks) for s in self.services)]
        digest = hashlib.blake2b(msgspec.msgpack.encode(told), digest_size=6).digest()
        return int.from_bytes(digest, "big")


def compare(before: View, after: View, actions: Mapping[str, str]) -> Plan:
    """Return what becomes of the services in `actions` (by id), and of others that are moved."""
    services = [
        _service(before, after, service_id, action) for service_id, action in actions.items()
    ]
    for service_id in sorted(before.services):
        if service_id not in actions and service_id in after.services:
            moved = _tasks(before, after, service_id)
            if any(task.action != KEEP for task in moved):
                name = before.services[service_id].spec.name
                services.append(PlannedService(service_id, name, "move", (), moved))
    return Plan(tuple(services))


def _service(before: View, after: View, service_id: str, action: str) -> PlannedService:
    old, new = before.services.get(service_id), after.services.get(service_id)
    known = new or old
    return PlannedService(
        id=service_id,
        name=known.spec.name if known is not None else "",
        action=action,
        changes=tuple(_differences(old, new)) if old is not None and new is not None else (),
        tasks=_tasks(before, after, service_id),
    )


def _tasks(before: View, after: View, service_id: str) -> tuple[PlannedTask, ...]:
    held, wanted = _slots(before, service_id), _slots(after, service_id)
    if held == wanted:
        return tuple(
            PlannedTask(key[0], KEEP, task.node_id, task.node_id) for key, task in held.items()
        )
    return tuple(
        _task(after, key, held.get(key), wanted.get(key))
        for key in sorted(held.keys() | wanted.keys())
    )


def _slots(view: View, service_id: str) -> dict[SlotKey, Task]:
    """Return the task that holds each slot: the newest wanted one that lives."""
    tasks = (t for t in view.tasks_of_service(service_id) if is_wanted(t) and is_live(t))
    by_age = sorted(tasks, key=lambda t: (slot_key(t), t.meta.created_ns, t.id))
    return {slot_key(task): task for task in by_age}


def _task(after: View, key: SlotKey, old: Task | None, new: Task | None) -> PlannedTask:
    if new is None:
        return PlannedTask(key[0], REMOVE, old.node_id if old is not None else "", "")
    unplaced = ""
    if not new.node_id and new.explanation:
        unplaced = msgspec.msgpack.decode(new.explanation, type=Explanation).text()
    elif new.status.state < TaskState.ASSIGNED:
        service = after.services.get(new.service_id)
        waits = service.endpoint.error if service is not None else ""
        unplaced = waits or "it has no place yet"
    if old is None:
        return PlannedTask(key[0], CREATE, "", new.node_id, unplaced)
    action = KEEP if old.id == new.id else REPLACE
    return PlannedTask(key[0], action, old.node_id, new.node_id, unplaced)


def _differences(old: Service, new: Service) -> Iterable[str]:
    """Yield `path: before → after` for every value that differs."""
    before, after = (dict(_leaves("", to_json(_filled(s.spec)))) for s in (old, new))
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            yield f"{path}: {_text(before.get(path))} → {_text(after.get(path))}"


def _filled(spec: ServiceSpec) -> ServiceSpec:
    """Return a spec with its defaults: clients send back what they were shown."""
    template = defaults.task_template(spec)
    return replace(spec, endpoint_spec=defaults.endpoint(spec), task_template=template)


def _leaves(path: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, entry)
    elif value not in ({}, [], (), None):
        yield path, value


def _text(value: Any) -> str:
    return "none" if value is None else msgspec.json.encode(value).decode()
