"""container: ps, start, stop, kill, rm, wait, inspect, logs."""

from __future__ import annotations

from argparse import Namespace

from swarmctl import table
from swarmctl.command import Command, Parser, each, warn
from swarmctl.errors import ClientError, DaemonError
from swarmctl.flags import filter_query, filters
from swarmctl.http import Client, segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COLUMNS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
}
_COMMAND_WIDTH = 20
_MOUNT_WIDTH = 15


def _configure_ps(parser: Parser) -> None:
    table.add_list_flags(parser)
    parser.add_argument("-a", "--all", action="store_true", help="also those that do not run")
    parser.add_argument("-n", "--last", type=int, default=-1, help="the last created")
    parser.add_argument("-l", "--latest", action="store_true", help="the last one created")
    parser.add_argument("-s", "--size", action="store_true", help="show what they wrote")


def _ps(client: Client, args: Namespace) -> int:
    query = filter_query(filters(args.filter))
    if args.all:
        query["all"] = "1"
    last = 1 if args.latest else args.last
    if last > 0:
        query["limit"] = str(last)
    if args.size or table.shows(args.format, "Size"):
        query["size"] = "1"
    rows = [
        _row(item, whole=args.no_trunc)
        for item in client.call("GET", "/containers/json", query=query)
    ]
    if args.quiet and not args.format:
        for row in rows:
            print(row["ID"])
        return 0
    columns = {**_COLUMNS, "Size": "SIZE"} if args.size else _COLUMNS
    table.show(rows, columns, args.format)
    return 0


def _row(item: Any, *, whole: bool) -> table.Row:
    command = item.get("Command", "")
    command = f'"{command if whole else table.ellipsis(command, _COMMAND_WIDTH)}"'
    labels = item.get("Labels") or {}
    networks = (item.get("NetworkSettings") or {}).get("Networks") or {}
    image = item.get("Image", "")
    if image.startswith("sha256:"):
        image = table.short(image, whole=whole)
    size = table.bytes_decimal(item.get("SizeRw") or 0, 3)
    if item.get("SizeRootFs"):
        size += f" (virtual {table.bytes_decimal(item['SizeRootFs'], 3)})"
    mounts = item.get("Mounts") or []
    return {
        "ID": table.short(item["Id"], whole=whole),
        "Image": image,
        "Command": command,
        "CreatedAt": table.stamp(item.get("Created", 0)),
        "RunningFor": f"{table.age(table.since(item.get('Created', 0)))} ago",
        "State": item.get("State", ""),
        "Status": item.get("Status", ""),
        "Ports": ", ".join(_ports(item.get("Ports") or [])),
        "Names": ",".join(name.removeprefix("/") for name in item.get("Names") or []),
        "Size": size,
        "Labels": table.joined(labels),
        "Label": table.label_of(labels),
        "Networks": ",".join(networks),
        "Mounts": ",".join(
            name if whole else table.ellipsis(name, _MOUNT_WIDTH)
            for name in (mount.get("Name") or mount.get("Source", "") for mount in mounts)
        ),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in mounts)),
        "Platform": (item.get("ImageManifestDescriptor") or {}).get("platform"),
    }


def _ports(ports: list[Any]) -> list[str]:
    found: list[str] = []
    for port in sorted(ports, key=lambda port: (port["PrivatePort"], port.get("IP", ""))):
        inner = f"{port['PrivatePort']}/{port.get('Type', 'tcp')}"
        if port.get("PublicPort"):
            address = port.get("IP", "")
            address = f"[{address}]" if ":" in address else address
            inner = f"{address}:{port['PublicPort']}->{inner}"
        found.append(inner)
    return found


def _names(parser: Parser) -> None:
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def _configure_start(parser: Parser) -> None:
    parser.add_argument("-a", "--attach", action="store_true", help="show output, wait for the end")
    parser.add_argument("-i", "--interactive", action="store_true", help="pass stdin")
    from swarmctl.attach import add_flags

    add_flags(parser)
    _names(parser)


def _start(client: Client, args: Namespace) -> int:
    if args.attach or args.interactive:
        if len(args.containers) > 1:
            raise ClientError("cannot start and attach to more than one container")
        from swarmctl.run import start_attached

        return start_attached(client, args.containers[0], args)

    def start(name: str) -> None:
        client.call("POST", f"/containers/{segment(name)}/start")
        print(name)

    if code := each(args.containers, start):
        warn("Error: failed to start containers")
    return code


def _configure_stop(parser: Parser) -> None:
    parser.add_argument("-t", "--time", "--timeout", type=int, help="seconds until it is killed")
    parser.add_argument("-s", "--signal")
    _names(parser)


def _stop(client: Client, args: Namespace) -> int:
    return _end(client, args, "stop")


def _end(client: Client, args: Namespace, how: str) -> int:
    query: dict[str, str] = {}
    if args.time is not None:
        query["t"] = str(args.time)
    if args.signal:
        query["signal"] = args.signal

    def end(name: str) -> None:
        client.call("POST", f"/containers/{segment(name)}/{how}", query=query)
        print(name)

    return each(args.containers, end)


def _configure_kill(parser: Parser) -> None:
    parser.add_argument("-s", "--signal")
    _names(parser)


def _kill(client: Client, args: Namespace) -> int:
    query = {"signal": args.signal} if args.signal else None

    def kill(name: str) -> None:
        client.call("POST", f"/containers/{segment(name)}/kill", query=query)
        print(name)

    return each(args.containers, kill)


def _configure_rm(parser: Parser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="also while it runs")
    parser.add_argument("-v", "--volumes", action="store_true", help="with anonymous volumes")
    parser.add_argument("-l", "--link", action="store_true", help="only the link PARENT/ALIAS")
    _names(parser)


def _rm(client: Client, args: Namespace) -> int:
    flags = (("force", args.force), ("v", args.volumes), ("link", args.link))
    query = {name: "1" for name, wanted in flags if wanted}

    def remove(name: str) -> None:
        try:
            client.call("DELETE", f"/containers/{segment(name)}", query=query)
        except DaemonError as error:
            if not args.force or error.status != 404:
                raise
            warn(str(error))  # gone is what was wanted
            return
        print(name)

    return each(args.containers, remove)


def _wait(client: Client, args: Namespace) -> int:
    def wait(name: str) -> None:
        print(client.call("POST", f"/containers/{segment(name)}/wait")["StatusCode"], flush=True)

    return each(args.containers, wait)


def _configure_inspect(parser: Parser) -> None:
    parser.add_argument("-f", "--format")
    parser.add_argument("-s", "--size", action="store_true", help="with sizes")
    _names(parser)


def _inspect(client: Client, args: Namespace) -> int:
    query = {"size": "true"} if args.size else {}
    path = "/containers/{}/json"
    return table.inspect(path, client, args.containers, args.format, "container", **query)


def _configure_logs(parser: Parser) -> None:
    from swarmctl.logs import add_flags

    add_flags(parser)
    parser.add_argument("--until", help="timestamp, or a span such as 10m")
    parser.add_argument("--details", action="store_true", help="with what the log options add")
    parser.add_argument("container", metavar="CONTAINER")


def _logs(client: Client, args: Namespace) -> int:
    from swarmctl.logs import show_container_logs, show_task_logs

    try:
        show_container_logs(client, args.container, args)
    except DaemonError as error:
        from swarmctl.task_container import find

        found = find(client, args.container, error)
        if found.here:
            show_container_logs(client, found.container, args)
        else:
            show_task_logs(client, found.task, args)
    return 0


def _configure_restart(parser: Parser) -> None:
    parser.add_argument("-t", "--time", "--timeout", type=int, help="seconds until it is killed")
    parser.add_argument("-s", "--signal")
    _names(parser)


def _restart(client: Client, args: Namespace) -> int:
    return _end(client, args, "restart")


COMMANDS = {
    "ps": Command("list containers", _configure_ps, _ps),
    "ls": Command("list containers", _configure_ps, _ps),
    "start": Command("start containers", _configure_start, _start),
    "stop": Command("stop containers", _configure_stop, _stop),
    "restart": Command("restart containers", _configure_restart, _restart),
    "kill": Command("send a signal to containers", _configure_kill, _kill),
    "rm": Command("remove containers", _configure_rm, _rm),
    "wait": Command("wait for the end, print exit codes", _names, _wait),
    "inspect": Command("show containers in full", _configure_inspect, _inspect),
    "logs": Command("show what a container prints", _configure_logs, _logs),
}
