"""Stories of tasks and services: what happened, when and why."""

from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Parser
from swarmctl.http import Client, segment


def _flags(parser: Parser, what: str) -> None:
    parser.add_argument("--format", help="json, or a Go template over each line")
    parser.add_argument("name", metavar=what)


def configure_task(parser: Parser) -> None:
    """Add the flags of `task story`."""
    _flags(parser, "TASK")


def configure_service(parser: Parser) -> None:
    """Add the flags of `service story`."""
    _flags(parser, "SERVICE")


def tell_task(client: Client, identity: str, args: Namespace) -> int:
    """Print what happened to a task."""
    lines = client.get(f"/swarm/v1/tasks/{segment(identity)}/story")
    return _show(lines, {"Time": "TIME", "What": "WHAT", "Reason": "REASON"}, args)


def tell_service(client: Client, args: Namespace) -> int:
    """Print what happened to a service and its tasks."""
    lines = client.get(f"/swarm/v1/services/{segment(args.name)}/story")
    columns = {"Time": "TIME", "Task": "TASK", "TaskID": "ID", "What": "WHAT", "Reason": "REASON"}
    return _show(lines, columns, args)


def _show(lines: list[Any], columns: dict[str, str], args: Namespace) -> int:
    if not args.format:
        for line in lines:
            line["Time"] = line["Time"][:19].replace("T", " ")
            line["TaskID"] = table.short(line["TaskID"])
    table.show(lines, columns, args.format)
    return 0
