"""service: ls, ps, inspect, rm, logs, exec."""

from argparse import Namespace
from typing import Any

from swarmctl import job, table
from swarmctl.command import Command, Parser, each, warn
from swarmctl.errors import ClientError, DaemonError
from swarmctl.flags import filter_query, filters
from swarmctl.http import Client, segment

_COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Mode": "MODE",
    "Replicas": "REPLICAS",
    "Image": "IMAGE",
    "Ports": "PORTS",
}


def _configure_ls(parser: Parser) -> None:
    table.add_list_flags(parser, truncates=False)


def _ls(client: Client, args: Namespace) -> int:
    query = {"status": "true", **filter_query(filters(args.filter))}
    show_services(client.call("GET", "/services", query=query), args)
    return 0


def show_services(services: list[Any], args: Namespace) -> None:
    """Print services as `--format` and `--quiet` say."""
    services.sort(key=lambda service: service["Spec"]["Name"])
    if args.quiet and not args.format:
        for service in services:
            print(service["ID"])
        return
    table.show([_row(service) for service in services], _COLUMNS, args.format)


def _row(service: Any) -> table.Row:
    spec = service["Spec"]
    container = spec["TaskTemplate"].get("ContainerSpec") or {}
    return {
        "ID": table.short(service["ID"]),
        "Name": spec["Name"],
        "Mode": job.mode_words(spec),
        "Replicas": job.count_words(service),
        "Image": container.get("Image", "").partition("@")[0],
        "Ports": ", ".join(_ports(service)),
    }


def _ports(service: Any) -> list[str]:
    ports = (service.get("Endpoint") or {}).get("Ports") or []
    return [
        f"{_place(port)}:{port['PublishedPort']}->{port['TargetPort']}/{_protocol(port)}"
        for port in ports
        if port.get("PublishMode", "ingress") == "ingress" and port.get("PublishedPort")
    ]


def _protocol(port: Any) -> str:
    return str(port.get("Protocol") or "tcp")


def _place(port: Any) -> str:
    address = port.get("Address", "")
    return f"[{address}]" if ":" in address else address or port.get("Interface") or "*"


def _configure_ps(parser: Parser) -> None:
    from swarmctl.task import add_ps_flags

    add_ps_flags(parser)
    parser.add_argument("services", nargs="+", metavar="SERVICE")


def _ps(client: Client, args: Namespace) -> int:
    from swarmctl.task import show_tasks

    wanted = filters(args.filter)
    code = 0
    for name in args.services:
        try:
            identity = client.get(f"/services/{segment(name)}")["ID"]
        except DaemonError as error:
            if error.status != 404:
                raise
            warn(f"no such service: {name}")
            code = 1
            continue
        wanted.setdefault("service", {})[identity] = True
    if "service" in wanted:
        show_tasks(client, wanted, args)
    return code


def _configure_inspect(parser: Parser) -> None:
    parser.add_argument("-f", "--format")
    parser.add_argument("--pretty", action="store_true", help="for people")
    parser.add_argument("services", nargs="+", metavar="SERVICE")


def _inspect(client: Client, args: Namespace) -> int:
    if args.pretty:
        from swarmctl.service_pretty import show

        if args.format:
            raise ClientError("--format is incompatible with human friendly format")
        return each(args.services, lambda name: show(client, name))
    query = {"insertDefaults": "true"}
    return table.inspect("/services/{}", client, args.services, args.format, "service", **query)


def _configure_rm(parser: Parser) -> None:
    parser.add_argument("services", nargs="+", metavar="SERVICE")


def _rm(client: Client, args: Namespace) -> int:
    def remove(name: str) -> None:
        client.call("DELETE", f"/services/{segment(name)}")
        print(name)

    return each(args.services, remove)


def _configure_logs(parser: Parser) -> None:
    from swarmctl.logs import add_flags

    add_flags(parser)
    parser.add_argument("--raw", action="store_true", help="no names before the lines")
    parser.add_argument("--no-resolve", action="store_true", help="ids instead of names")
    parser.add_argument("--no-trunc", action="store_true", help="whole task ids")
    parser.add_argument("--no-task-ids", action="store_true", help="no task ids in the names")
    parser.add_argument("--details", action="store_true", help="labels of the log driver")
    parser.add_argument("name", metavar="SERVICE|TASK")


def _logs(client: Client, args: Namespace) -> int:
    from swarmctl.logs import show_service_logs

    kind = "services"
    try:
        client.get(f"/services/{segment(args.name)}")
    except DaemonError as error:
        if error.status != 404:
            raise
        kind = "tasks"
        try:
            client.get(f"/tasks/{segment(args.name)}")
        except DaemonError as missing:
            if missing.status != 404:
                raise
            raise ClientError(f"no such task or service: {args.name}") from missing
    show_service_logs(client, f"/{kind}/{segment(args.name)}/logs", args)
    return 0


_HISTORY = {"Version": "VERSION", "State": "STATE", "Image": "IMAGE", "Replicas": "REPLICAS"}


def _configure_history(parser: Parser) -> None:
    parser.add_argument("--format")
    parser.add_argument("-q", "--quiet", action="store_true", help="only print the versions")
    parser.add_argument("service", metavar="SERVICE")


def _history(client: Client, args: Namespace) -> int:
    identity = client.get(f"/services/{segment(args.service)}")["ID"]
    records = client.get(f"/swarm/v1/services/{identity}/specs")
    if args.quiet and not args.format:
        for record in records:
            print(record["Version"])
        return 0
    table.show([_version(r, first=r is records[0]) for r in records], _HISTORY, args.format)
    return 0


def _version(record: Any, *, first: bool) -> table.Row:
    spec = record["Spec"]
    container = spec["TaskTemplate"].get("ContainerSpec") or {}
    replicated = (spec.get("Mode") or {}).get("Replicated") or {}
    return {
        "Version": str(record["Version"]),
        "State": "in force" if first else "kept",
        "Image": container.get("Image", "").partition("@")[0],
        "Replicas": str(replicated.get("Replicas", "")),
    }


def _configure_story(parser: Parser) -> None:
    from swarmctl.story import configure_service

    configure_service(parser)


def _story(client: Client, args: Namespace) -> int:
    from swarmctl.story import tell_service

    return tell_service(client, args)


def _configure_exec(parser: Parser) -> None:
    from swarmctl.task_exec import configure_service

    configure_service(parser)


def _exec(client: Client, args: Namespace) -> int:
    from swarmctl.task_exec import exec_in_service

    return exec_in_service(client, args)


COMMANDS = {
    "exec": Command(
        "run a command in a service's running task, on any node", _configure_exec, _exec
    ),
    "history": Command("list the specs a rollback may return to", _configure_history, _history),
    "ls": Command("list services", _configure_ls, _ls),
    "ps": Command("list a service's tasks", _configure_ps, _ps),
    "inspect": Command("show services in full", _configure_inspect, _inspect),
    "rm": Command("remove services", _configure_rm, _rm),
    "story": Command("tell what happened to a service and why", _configure_story, _story),
    "logs": Command("show what a service's containers print", _configure_logs, _logs),
}
