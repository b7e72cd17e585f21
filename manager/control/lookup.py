"""Finding objects: by id, name or unique prefix, and by Docker's filters."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from manager.store.view import View
from swarmapi.errors import InvalidArgument, NotFound
from swarmapi.model.objects import Network, Node, Service, Task

T = TypeVar("T")
Filters = Mapping[str, Sequence[str]]


def find(kind: str, table: Mapping[str, T], key: str, names: Callable[[T], str]) -> T:
    """Return an object by exact id, then exact name, then unique id prefix.

    Raises:
        NotFound: none matches.
        InvalidArgument: several do.
    """
    found = table.get(key)
    if found is not None:
        return found
    matches = [o for o in table.values() if names(o) == key]
    if not matches and key:
        matches = [o for i, o in table.items() if i.startswith(key)]
    if not matches:
        raise NotFound(f"{kind} {key} not found")
    if len(matches) > 1:
        raise InvalidArgument(f"{kind} {key} is ambiguous ({len(matches)} matches found)")
    return matches[0]


def find_service(view: View, key: str) -> Service:
    """Return a service (see `find`)."""
    return find("service", view.services, key, lambda s: s.spec.name)


def find_node(view: View, key: str) -> Node:
    """Return a node by id, hostname or unique prefix (see `find`)."""
    return find("node", view.nodes, key, lambda n: n.description.hostname)


def find_network(view: View, key: str) -> Network:
    """Return a network (see `find`)."""
    return find("network", view.networks, key, lambda n: n.spec.name)


def find_task(view: View, key: str) -> Task:
    """Return a task by id, `service.slot` name or unique prefix (see `find`)."""
    return find("task", view.tasks, key, _task_name)


def _task_name(task: Task) -> str:
    return f"{task.service_name}.{task.slot or task.node_id}"


def matches_prefix(filters: Filters, name: str, value: str) -> bool:
    """Tell whether a value begins with one of the filter's values, or the filter is absent."""
    wanted = filters.get(name)
    return wanted is None or any(value.startswith(w) for w in wanted)


def matches_one(filters: Filters, name: str, value: str) -> bool:
    """Tell whether a value is one of the filter's values, or the filter is absent."""
    wanted = filters.get(name)
    return wanted is None or value in wanted


def matches_labels(filters: Filters, name: str, labels: Mapping[str, str] | None) -> bool:
    """Tell whether every `key` or `key=value` of the filter is among the labels."""
    for wanted in filters.get(name, ()):
        key, equals, value = wanted.partition("=")
        if key not in (labels or {}) or (equals and (labels or {})[key] != value):
            return False
    return True
