"""task: ls, inspect, explain; and the list behind `service ps` and `node ps`."""

from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser
from swarmctl.errors import ClientError, DaemonError
from swarmctl.flags import filter_query, filters
from swarmctl.http import Client, segment

_COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Image": "IMAGE",
    "Node": "NODE",
    "DesiredState": "DESIRED STATE",
    "CurrentState": "CURRENT STATE",
    "Error": "ERROR",
    "Ports": "PORTS",
}
_ERROR_WIDTH = 30


def add_ps_flags(parser: Parser) -> None:
    """Add the flags of every list of tasks."""
    table.add_list_flags(parser)
    parser.add_argument("--no-resolve", action="store_true", help="ids instead of names")


def show_tasks(client: Client, wanted: dict[str, dict[str, bool]], args: Namespace) -> None:
    """Print the tasks that match, newest first within a slot."""
    tasks = client.call("GET", "/tasks", query=filter_query(wanted))
    names = _Names(client, resolve=not args.no_resolve)
    tasks.sort(key=lambda task: task["CreatedAt"], reverse=True)
    tasks.sort(key=lambda task: (names.service(task), task.get("Slot", 0), task.get("NodeID", "")))
    if args.quiet and not args.format:
        for task in tasks:
            print(task["ID"])
        return
    previous = ""
    rows: list[table.Row] = []
    for task in tasks:
        row = _row(task, names, whole=args.no_trunc)
        plain = row["Name"]
        if plain == previous and not args.format:
            row["Name"] = f" \\_ {plain}"
        previous = plain
        rows.append(row)
    table.show(rows, _COLUMNS, args.format)


class _Names:
    """Names of services and nodes, each asked for once."""

    def __init__(self, client: Client, *, resolve: bool) -> None:
        self._client = client
        self._resolve = resolve
        self._known: dict[str, str] = {}

    def service(self, task: Any) -> str:
        return self._find("services", task.get("ServiceID", ""))

    def node(self, task: Any) -> str:
        return self._find("nodes", task.get("NodeID", ""))

    def _find(self, kind: str, identity: str) -> str:
        if not identity or not self._resolve:
            return identity
        if identity not in self._known:
            self._known[identity] = self._ask(kind, identity)
        return self._known[identity]

    def _ask(self, kind: str, identity: str) -> str:
        try:
            found = self._client.get(f"/{kind}/{identity}")
        except DaemonError as error:
            if error.status == 404:
                return identity  # its tasks outlive it for a moment
            raise
        name = found["Spec"].get("Name") or found.get("Description", {}).get("Hostname")
        return str(name or identity)


def _row(task: Any, names: _Names, *, whole: bool) -> table.Row:
    status = task.get("Status") or {}
    slot = task.get("Slot") or task.get("NodeID", "")
    image = (task["Spec"].get("ContainerSpec") or {}).get("Image", "")
    error = status.get("Err", "")
    error = f'"{error}"' if error else ""
    state = status.get("State", "").capitalize()
    passed = table.since(status.get("Timestamp") or task["CreatedAt"])
    return {
        "ID": table.short(task["ID"], whole=whole),
        "Name": f"{names.service(task)}.{slot}",
        "Image": image if whole else image.partition("@")[0],
        "Node": names.node(task),
        "DesiredState": task.get("DesiredState", "").capitalize(),
        "CurrentState": f"{state} {table.age(passed).lower()} ago",
        "Error": error if whole else table.ellipsis(error, _ERROR_WIDTH),
        "Ports": _host_ports(status),
    }


def _host_ports(status: Any) -> str:
    ports = (status.get("PortStatus") or {}).get("Ports") or []
    return ",".join(
        f"*:{port.get('PublishedPort', 0)}->{port['TargetPort']}/{port.get('Protocol', 'tcp')}"
        for port in ports
    )


def _ls(client: Client, args: Namespace) -> int:
    show_tasks(client, filters(args.filter), args)
    return 0


def _configure_inspect(parser: Parser) -> None:
    parser.add_argument("-f", "--format")
    parser.add_argument("tasks", nargs="+", metavar="TASK")


def _inspect(client: Client, args: Namespace) -> int:
    return table.inspect("/tasks/{}", client, args.tasks, args.format, "task")


def _configure_explain(parser: Parser) -> None:
    parser.add_argument("--format", help="json, or a Go template over each refusal")
    parser.add_argument("task", metavar="TASK", help="id, or SERVICE.SLOT")


def _explain(client: Client, args: Namespace) -> int:
    identity = _find_task(client, args.task)
    answer = _folded(client.get(f"/swarm/v1/tasks/{segment(identity)}/explain"))
    rows = [_refusal_row(_folded(refusal)) for refusal in answer.get("refusals") or []]
    if not args.format:
        state = answer.get("state") or client.get(f"/tasks/{identity}")["Status"]["State"]
        print(f"task {identity}: {state}, {answer.get('nodes', 0)} nodes considered")
        if not rows:
            print("no filter refuses a node")
            return 0
    columns = {"Count": "NODES", "Filter": "FILTER", "Reason": "REASON", "Examples": "EXAMPLES"}
    table.show(rows, columns, args.format)
    return 0


def _folded(record: Any) -> dict[str, Any]:
    """Return a record with lower-case keys: our own routes promise names, not their case."""
    return {name.lower(): value for name, value in record.items()}


def _refusal_row(refusal: dict[str, Any]) -> table.Row:
    return {
        "Filter": refusal["filter"],
        "Count": refusal["count"],
        "Reason": refusal["reason"],
        "Examples": ", ".join(refusal.get("examples") or []),
    }


def _find_task(client: Client, name: str) -> str:
    service, dot, slot = name.rpartition(".")
    if not dot:
        return name
    wanted = filters([f"service={service}"])
    tasks = client.call("GET", "/tasks", query=filter_query(wanted))
    tasks = [task for task in tasks if str(task.get("Slot") or task.get("NodeID")) == slot]
    if not tasks:
        raise ClientError(f"service {service} has no task in slot {slot}")
    return str(max(tasks, key=lambda task: task["CreatedAt"])["ID"])


COMMANDS = {
    "ls": Command("list tasks of all services", add_ps_flags, _ls),
    "inspect": Command("show tasks in full", _configure_inspect, _inspect),
    "explain": Command("say why a task has no node", _configure_explain, _explain),
}
