"""task: ls, inspect, explain, exec; and the list behind `service ps` and `node ps`."""

from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser
from swarmctl.errors import ClientError, DaemonError
from swarmctl.flags import filter_query, filters
from swarmctl.http import Client, segment
from swarmctl.job import slot_name

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
    tasks.sort(key=lambda task: (names.service(task), task.get("Slot", 0), slot_name(task)))
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
    slot = slot_name(task)
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
    identity = find_task(client, args.task)
    answer = client.get(f"/swarm/v1/tasks/{segment(identity)}/explain")
    rows = [_refusal_row(refusal) for refusal in answer.get("Refusals") or []]
    columns = {"Count": "NODES", "Filter": "FILTER", "Reason": "REASON", "Examples": "EXAMPLES"}
    if args.format:
        table.show(rows, columns, args.format)
        return 0
    found = answer.get("Table") or []
    print(f"task {identity}: {answer['State']}, {len(found)} nodes considered")
    if answer.get("Message"):
        print(answer["Message"])
    if rows:
        table.show(rows, columns, "")
    _show_nodes(found)
    return 0


def _show_nodes(nodes: list[Any]) -> None:
    """Print the node × filter table, and below it what would make each node fit."""
    if not nodes:
        return
    filters_seen = list(dict.fromkeys(c["Filter"] for node in nodes for c in node["Filters"]))
    columns = {
        "Node": "NODE",
        "Fits": "FITS",
        "ServiceTasks": "SERVICE TASKS",
        "Tasks": "TASKS",
        "Failures": "FAILURES",
        "Preference": "PREFERENCE",
        **{name: name.upper() for name in filters_seen},
    }
    rows = []
    for node in nodes:
        cells = {
            c["Filter"]: ("ok: " if c["Pass"] else "NO: ") + c["Detail"] for c in node["Filters"]
        }
        row = {name: node[name] for name in ("ServiceTasks", "Tasks", "Failures", "Preference")}
        row["Node"] = node["Node"] + (" *" if node["Here"] else "")
        row["Fits"] = "yes" if node["Fits"] else "no"
        rows.append({**row, **{name: cells.get(name, "-") for name in filters_seen}})
    print()
    table.show(rows, columns, "")
    wishes = [
        (node["Node"], [c["Remedy"] for c in node["Filters"] if c["Remedy"]])
        for node in nodes
        if not node["Fits"]
    ]
    if any(remedies for _, remedies in wishes):
        print("\nwhat would make it fit:")
    for name, remedies in wishes:
        if remedies:
            print(f"  {name}: {'; '.join(remedies)}")


def _refusal_row(refusal: dict[str, Any]) -> table.Row:
    return {**refusal, "Examples": ", ".join(refusal.get("Examples") or [])}


def find_task(client: Client, name: str) -> str:
    service, dot, slot = name.rpartition(".")
    if not dot:
        return name
    wanted = filters([f"service={service}"])
    tasks = client.call("GET", "/tasks", query=filter_query(wanted))
    tasks = [task for task in tasks if slot_name(task) == slot]
    if not tasks:
        raise ClientError(f"service {service} has no task in slot {slot}")
    return str(max(tasks, key=lambda task: task["CreatedAt"])["ID"])


def _configure_story(parser: Parser) -> None:
    from swarmctl.story import configure_task

    configure_task(parser)


def _story(client: Client, args: Namespace) -> int:
    from swarmctl.story import tell_task

    return tell_task(client, find_task(client, args.name), args)


def _configure_exec(parser: Parser) -> None:
    from swarmctl.task_exec import configure_task

    configure_task(parser)


def _exec(client: Client, args: Namespace) -> int:
    from swarmctl.task_exec import exec_in_task

    return exec_in_task(client, args)


COMMANDS = {
    "exec": Command("run a command in a running task, on any node", _configure_exec, _exec),
    "ls": Command("list tasks of all services", add_ps_flags, _ls),
    "inspect": Command("show tasks in full", _configure_inspect, _inspect),
    "story": Command("tell what happened to a task and why", _configure_story, _story),
    "explain": Command("say why a task is where it is, or nowhere", _configure_explain, _explain),
}
