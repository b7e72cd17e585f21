"""system: events, inspect, check."""

from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser, warn
from swarmctl.errors import ClientError, DaemonError
from swarmctl.flags import filter_query, filters
from swarmctl.http import Client, segment
from swarmctl.info import add_format, templated

_INSPECTED = (
    ("container", "/containers/{}/json"),
    ("image", "/images/{}/json"),
    ("network", "/networks/{}"),
    ("volume", "/volumes/{}"),
    ("node", "/nodes/{}"),
    ("service", "/services/{}"),
    ("task", "/tasks/{}"),
)
_AUDIT_FILTERS = "source, node, by, who, role, method, path, object, outcome, request"
_LATER_STATUS = (404, 503)
"""Not here, or a question for a manager: the next kind may still have it."""


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
            templated(event, args.format)
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
    add_format(parser)
    parser.add_argument("--type", help=", ".join(kind for kind, _ in _INSPECTED))
    parser.add_argument("-s", "--size", action="store_true", help="of containers, with sizes")
    parser.add_argument("names", nargs="+", metavar="NAME|ID")


def _inspect(client: Client, args: Namespace) -> int:
    kinds = [kind for kind, _ in _INSPECTED]
    if args.type and args.type not in kinds:
        known = ", ".join(f'"{kind}"' for kind in sorted(kinds))
        raise ClientError(f'unknown type: "{args.type}": must be one of {known}')
    code = 0
    found: list[Any] = []
    strict = True
    for name in args.names:
        try:
            kind, item = _find(client, name, args.type, size=args.size)
        except DaemonError as error:
            if error.status != 404:
                raise
            warn(str(error) if args.type else f"Error: No such object: {name}")
            code = 1
            continue
        strict = strict and kind in table.ENGINE_KINDS
        found.append(item)
    table.print_objects(found, args.format, strict=strict)
    return code


def _find(client: Client, name: str, kind: str | None, *, size: bool) -> tuple[str, Any]:
    """Return the first object of that name with its kind; raises DaemonError (404) without one."""
    for known, path in _INSPECTED:
        if kind in (None, known):
            try:
                query = {"size": "1"} if size and known == "container" else {}
                return known, client.get(path.format(segment(name)), **query)
            except DaemonError as error:
                if kind or error.status not in _LATER_STATUS:
                    raise
    raise DaemonError(404, f"No such object: {name}")


def _configure_check(parser: Parser) -> None:
    add_format(parser)
    parser.add_argument("--dry-run", action="store_true", help="repair nothing")


def _check(client: Client, args: Namespace) -> int:
    repair = {"repair": str(int(not args.dry_run))}
    findings = client.call("POST", "/swarm/v1/system/check", query=repair)["Findings"]
    if args.format:
        templated(findings, args.format)
    for found in () if args.format else findings:
        end = "repaired" if found["Repaired"] else "NOT repaired"
        print(f"{found['Kind']} {found['Name']}: {found['Problem']} ({end})")
    if not findings and not args.format:
        print("everything is in order")
    return int(any(not found["Repaired"] for found in findings))


def _configure_audit(parser: Parser) -> None:
    add_format(parser, short=False)
    parser.add_argument("-f", "--follow", action="store_true", help="go on as calls come")
    parser.add_argument("--filter", action="append", metavar="NAME=VALUE", help=_AUDIT_FILTERS)
    parser.add_argument("--since", help="timestamp, or a span such as 10m")


def _audit(client: Client, args: Namespace) -> int:
    from swarmctl.logs import moment

    query = filter_query(filters(args.filter))
    if args.follow:
        query["follow"] = "1"
    if args.since:
        query["since"] = moment(args.since)
    for entry in client.request("GET", "/swarm/v1/audit", query=query).objects():
        if args.format:
            templated(entry, args.format)
        else:
            print(_audit_line(entry), flush=True)
    return 0


def _audit_line(entry: Any) -> str:
    who = entry["Who"] or entry["By"] or "nobody"
    parts = [entry["Time"], entry["Source"], f"{entry['Role'] or '-'}:{who.replace(' ', '=')}"]
    if entry["Pid"]:
        parts.append(f"pid={entry['Pid']}")
    if entry["Peer"]:
        parts.append(f"from={entry['Peer']}")
    parts += [entry["Method"], entry["Path"], entry["Object"], entry["Outcome"]]
    parts.append(str(entry["Status"] or ""))
    if more := entry.get("More"):
        parts.append(f"(and {more} more like it)")
    return " ".join(part for part in parts if part)


COMMANDS = {
    "audit": Command("show who called what", _configure_audit, _audit),
    "events": Command("show what happens, as it happens", _configure_events, _events),
    "check": Command("compare what is here with its records, and repair", _configure_check, _check),
    "inspect": Command("show anything in full", _configure_inspect, _inspect),
}
