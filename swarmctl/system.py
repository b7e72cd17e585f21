"""system: info, version, events, inspect."""

import sys
from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser, warn
from swarmctl.errors import ClientError, DaemonError
from swarmctl.flags import filter_query, filters
from swarmctl.http import API_VERSION, Client, segment

_INSPECTED = (
    ("container", "/containers/{}/json"),
    ("image", "/images/{}/json"),
    ("network", "/networks/{}"),
    ("volume", "/volumes/{}"),
    ("node", "/nodes/{}"),
    ("service", "/services/{}"),
    ("task", "/tasks/{}"),
)
_LATER_STATUS = (404, 503)
"""Not here, or a question for a manager: the next kind may still have it."""


def _configure_format(parser: Parser) -> None:
    parser.add_argument("-f", "--format", help="json, or a Go template")


def _templated(value: Any, style: str) -> None:
    from swarmctl.template import Template

    text = "{{json .}}" if style == "json" else style
    print(Template(text, strict=False).render(value), flush=True)  # a stream's reader waits for it


def _info(client: Client, args: Namespace) -> int:
    info = client.get("/info")
    if args.format:
        _templated(info, args.format)
        return 0
    lines = [
        ("Server", ""),
        (" Containers", info.get("Containers", 0)),
        ("  Running", info.get("ContainersRunning", 0)),
        ("  Paused", info.get("ContainersPaused", 0)),
        ("  Stopped", info.get("ContainersStopped", 0)),
        (" Images", info.get("Images", 0)),
        (" Server Version", info.get("ServerVersion", "")),
        (" Storage Driver", info.get("Driver", "")),
        (" Logging Driver", info.get("LoggingDriver", "")),
        (" Cgroup Driver", info.get("CgroupDriver", "")),
        (" Cgroup Version", info.get("CgroupVersion", "")),
        *_swarm_lines(info.get("Swarm") or {}),
        (" Default Runtime", info.get("DefaultRuntime", "")),
        (" Kernel Version", info.get("KernelVersion", "")),
        (" Operating System", info.get("OperatingSystem", "")),
        (" OSType", info.get("OSType", "")),
        (" Architecture", info.get("Architecture", "")),
        (" CPUs", info.get("NCPU", 0)),
        (" Total Memory", table.bytes_binary(info.get("MemTotal", 0))),
        (" Name", info.get("Name", "")),
        (" ID", info.get("ID", "")),
        (" Data Root Dir", info.get("DockerRootDir", "")),
    ]
    for name, value in lines:
        print(f"{name}: {value}".rstrip())
    for warning in info.get("Warnings") or []:
        warn(warning)
    return 0


def _swarm_lines(swarm: Any) -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = [(" Swarm", swarm.get("LocalNodeState") or "inactive")]
    if not swarm.get("NodeID"):
        return lines
    lines.append(("  NodeID", swarm["NodeID"]))
    if swarm.get("Error"):
        lines.append(("  Error", swarm["Error"]))
    lines.append(("  Is Manager", str(bool(swarm.get("ControlAvailable"))).lower()))
    if swarm.get("ControlAvailable"):
        lines.append(("  ClusterID", (swarm.get("Cluster") or {}).get("ID", "")))
        lines.append(("  Managers", swarm.get("Managers", 0)))
        lines.append(("  Nodes", swarm.get("Nodes", 0)))
    lines.append(("  Node Address", swarm.get("NodeAddr", "")))
    managers = [manager["Addr"] for manager in swarm.get("RemoteManagers") or []]
    if managers:
        lines.append(("  Manager Addresses", " ".join(sorted(managers))))
    return lines


def _version(client: Client, args: Namespace) -> int:
    """Print both versions; the client's also where there is no daemon, with exit code 1."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("swarm-orchestrator")
    except PackageNotFoundError:
        own = "unknown"
    python = ".".join(map(str, sys.version_info[:3]))
    found: dict[str, Any] = {
        "Client": {"Version": own, "ApiVersion": API_VERSION, "Python": python},
        "Server": None,
    }
    failure: ClientError | None = None
    try:
        found["Server"] = client.get("/version")
    except ClientError as error:
        failure = error
    if args.format:
        _templated(found, args.format)
    else:
        print(f"Client:\n Version:     {own}\n API version: {API_VERSION}\n Python:      {python}")
        if found["Server"]:
            server = found["Server"]
            minimum = server.get("MinAPIVersion", "")
            print(
                f"\nServer:\n Version:     {server.get('Version', '')}\n"
                f" API version: {server.get('ApiVersion', '')} (minimum version {minimum})\n"
                f" OS/Arch:     {server.get('Os', '')}/{server.get('Arch', '')}"
            )
    if failure:
        raise failure
    return 0


def _configure_events(parser: Parser) -> None:
    parser.add_argument("-f", "--filter", action="append", help="name=value")
    parser.add_argument("--format", help="json, or a Go template")
    parser.add_argument("--since", help="timestamp, or a span such as 10m")
    parser.add_argument("--until", help="timestamp, or a span such as 10m")


def _events(client: Client, args: Namespace) -> int:
    from swarmctl.logs import moment

    query = filter_query(filters(args.filter))
    for name in ("since", "until"):
        if getattr(args, name):
            query[name] = moment(getattr(args, name))
    for event in client.request("GET", "/events", query=query).objects():
        if args.format:
            _templated(event, args.format)
        else:
            print(_event_line(event), flush=True)
    return 0


def _event_line(event: Any) -> str:
    from datetime import UTC, datetime

    nanos = event.get("timeNano") or event.get("time", 0) * 10**9
    stamp = datetime.fromtimestamp(nanos // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    inner = ", ".join(f"{name}={attributes[name]}" for name in sorted(attributes))
    text = f"{stamp}.{nanos % 10**9:09d}Z {event.get('Type', '')} {event.get('Action', '')}"
    return f"{text} {actor.get('ID', '')}" + (f" ({inner})" if inner else "")


def _configure_inspect(parser: Parser) -> None:
    _configure_format(parser)
    parser.add_argument("--type", choices=[kind for kind, _ in _INSPECTED])
    parser.add_argument("-s", "--size", action="store_true", help="of containers, with sizes")
    parser.add_argument("names", nargs="+", metavar="NAME|ID")


def _inspect(client: Client, args: Namespace) -> int:
    code = 0
    found: list[Any] = []
    for name in args.names:
        item = _find(client, name, args.type, size=args.size)
        if item is None:
            warn(f"Error: No such {args.type or 'object'}: {name}")
            code = 1
        else:
            found.append(item)
    table.print_objects(found, args.format)
    return code


def _find(client: Client, name: str, kind: str | None, *, size: bool = False) -> Any:
    for known, path in _INSPECTED:
        if kind in (None, known):
            try:
                query = {"size": "1"} if size and known == "container" else {}
                return client.get(path.format(segment(name)), **query)
            except DaemonError as error:
                if error.status not in _LATER_STATUS or (kind and error.status != 404):
                    raise
    return None


def _configure_check(parser: Parser) -> None:
    _configure_format(parser)
    parser.add_argument("--dry-run", action="store_true", help="repair nothing")


def _check(client: Client, args: Namespace) -> int:
    repair = {"repair": str(int(not args.dry_run))}
    findings = client.call("POST", "/swarm/v1/system/check", query=repair)["Findings"]
    if args.format:
        _templated(findings, args.format)
    for found in () if args.format else findings:
        end = "repaired" if found["Repaired"] else "NOT repaired"
        print(f"{found['Kind']} {found['Name']}: {found['Problem']} ({end})")
    if not findings and not args.format:
        print("everything is in order")
    return int(any(not found["Repaired"] for found in findings))


COMMANDS = {
    "info": Command("show the daemon and its machine", _configure_format, _info),
    "version": Command("show versions", _configure_format, _version),
    "events": Command("show what happens, as it happens", _configure_events, _events),
    "check": Command("compare what is here with its records, and repair", _configure_check, _check),
    "inspect": Command("show anything in full", _configure_inspect, _inspect),
}
