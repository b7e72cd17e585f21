"""Tasks: list, explain, and find one to run something in."""

from collections import Counter
from typing import Any, Final

import msgspec

from manager.control.lookup import (
    Filters,
    find_service,
    find_task,
    matches_labels,
    matches_one,
    matches_prefix,
)
from manager.control.nodes import pause_of
from manager.orchestrator.update import Outdated
from manager.scheduler.table import table_of
from manager.store.view import View, is_live
from swarmapi.errors import Conflict, InvalidArgument, NotFound
from swarmapi.model import defaults
from swarmapi.model.objects import Explanation, Task, TaskState

FILTERS: Final = (
    "id",
    "name",
    "label",
    "node",
    "service",
    "desired-state",
    "_up-to-date",
    "runtime",
)
_DESIRED: Final = ("running", "complete", "shutdown", "accepted", "ready", "remove")


def list_tasks(view: View, filters: Filters) -> list[Task]:
    """Return the tasks that match, newest first within their service's order by id."""
    for state in filters.get("desired-state", ()):
        if state not in _DESIRED:
            raise InvalidArgument(f"filters: desired-state: {state!r} is no such state")
    nodes = _resolved(filters, "node", {n.description.hostname: i for i, n in view.nodes.items()})
    names = {s.spec.name: i for i, s in view.services.items()}
    services = _resolved(filters, "service", names)
    outdated: dict[str, Outdated] = {}
    narrowed = [
        {task_id for key in keys for task_id in index.of(key)}
        for index, keys in ((view.by_node, nodes), (view.by_service, services))
        if keys is not None
    ]
    found = set.intersection(*narrowed) if narrowed else set(view.tasks)
    tasks = (view.tasks[task_id] for task_id in sorted(found))
    return [task for task in tasks if _matches(view, filters, task, outdated)]


def _resolved(filters: Filters, name: str, ids: dict[str, str]) -> set[str] | None:
    wanted = filters.get(name)
    if wanted is None:
        return None
    known = set(ids.values())
    result: set[str] = set()
    for value in wanted:
        if value in ids:
            result.add(ids[value])
        else:
            result.add(value)
            result.update(i for i in known if i.startswith(value))
    return result


def _matches(view: View, filters: Filters, task: Task, outdated: dict[str, Outdated]) -> bool:
    record = view.spec_of(task)
    labels = defaults.container(record.spec).labels if record is not None else None
    name = f"{task.service_name}.{task.slot or task.node_id}"
    if not (
        matches_prefix(filters, "id", task.id)
        and matches_prefix(filters, "name", name)
        and matches_labels(filters, "label", labels)
        and matches_one(filters, "desired-state", task.desired.name.lower())
        and matches_one(filters, "runtime", "container")
    ):
        return False
    wanted = filters.get("_up-to-date")
    if wanted is None:
        return True
    return str(_is_up_to_date(view, task, outdated)).lower() in wanted


def _is_up_to_date(view: View, task: Task, outdated: dict[str, Outdated]) -> bool:
    service = view.services.get(task.service_id)
    if service is None:
        return False
    if service.job_status is not None:
        return task.job_iteration == service.job_status.iteration
    if service.id not in outdated:
        outdated[service.id] = Outdated(view, service)
    return not outdated[service.id](task)


def task_to_enter(view: View, key: str) -> Task:
    """Return a running task: by id or its prefix, `service.slot`, or its container's name.

    A global service's slot is its node, by id or hostname. Of several attempts in a slot it is the
    newest that runs.

    Raises:
        NotFound: there is no such task.
        InvalidArgument: a prefix that several ids have.
        Conflict: it does not run; the message says how it stands.
    """
    attempts = [task for task in view.tasks.values() if key in _names(view, task)]
    if not attempts:
        attempts = [find_task(view, key)]
    running = [task for task in attempts if task.status.state == TaskState.RUNNING]
    if not running:
        task = max(attempts, key=_newest)
        state, error = task.status.state.name.lower(), task.status.error
        why = f" ({error})" if error else ""
        raise Conflict(f"task {key} is not running: it is {state}{why}")
    return max(running, key=_newest)


def task_of_service(view: View, key: str) -> Task:
    """Return a running task of a service: that of the lowest slot, or of the one in `service.slot`.

    Raises:
        NotFound: there is no such service.
        Conflict: none runs; the message says how they stand.
    """
    try:
        service = find_service(view, key)
    except NotFound:
        if "." not in key:
            raise
        return task_to_enter(view, key)
    tasks = [task for task in view.tasks.values() if task.service_id == service.id]
    running = [task for task in tasks if task.status.state == TaskState.RUNNING]
    if not running:
        states = Counter(task.status.state.name.lower() for task in tasks)
        how = (
            ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            or "it has none"
        )
        raise Conflict(f"service {service.spec.name} has no running task: {how}")
    lowest = min((task.slot, task.node_id) for task in running)
    return max((t for t in running if (t.slot, t.node_id) == lowest), key=_newest)


def _names(view: View, task: Task) -> set[str]:
    node = view.nodes.get(task.node_id)
    slots = {str(task.slot)} if task.slot else {task.node_id}
    if node is not None and not task.slot:
        slots.add(node.description.hostname)
    names = {f"{task.service_name}.{slot}" for slot in slots}
    return names | {f"{name}.{task.id}" for name in names}


def _newest(task: Task) -> tuple[bool, int]:
    return task.desired <= TaskState.RUNNING, task.meta.created_ns


def explain(view: View, task: Task) -> dict[str, Any]:
    """Return why a task is where it is or nowhere: every filter's refusals, and all nodes."""
    body: dict[str, Any] = {
        "ID": task.id,
        "ServiceID": task.service_id,
        "NodeID": task.node_id,
        "State": task.status.state.name.lower(),
        "DesiredState": task.desired.name.lower(),
        "Message": task.status.error or task.status.message,
        "Refusals": [],
    }
    service = view.services.get(task.service_id)
    if service is not None and service.endpoint.error:
        body["Message"] = service.endpoint.error
    if task.node_id and is_live(task):
        body["Message"] = pause_of(view, task.node_id) or body["Message"]
    if task.explanation and task.status.state < TaskState.ASSIGNED:
        found = msgspec.msgpack.decode(task.explanation, type=Explanation)
        body["Message"] = found.text()
        body["Nodes"] = found.nodes
        body["Refusals"] = [
            {
                "Filter": r.filter,
                "Count": r.count,
                "Reason": r.reason,
                "Examples": list(r.examples),
            }
            for r in found.refusals
        ]
    body["Table"] = [
        {
            "NodeID": row.node_id,
            "Node": row.name,
            "Here": row.node_id == task.node_id,
            "Fits": row.fits,
            "ServiceTasks": row.service_tasks,
            "Tasks": row.tasks,
            "Failures": row.failures,
            "Preference": row.preference,
            "Filters": [
                {"Filter": c.filter, "Pass": c.passes, "Detail": c.detail, "Remedy": c.remedy}
                for c in row.cells
            ],
        }
        for row in table_of(view, task)
    ]
    return body
