"""Plans of services: asked for instead of doing, and printed."""

import sys
from argparse import Namespace
from typing import Any

from swarmctl import flags
from swarmctl.command import Parser
from swarmctl.http import Client

_SIGNS = {"create": "+", "replace": "~", "remove": "-", "keep": "="}
DOES_NOT_FIT = 4
"""Exit code of a plan with tasks that fit nowhere."""


def add_flags(parser: Parser) -> None:
    """Add --plan and --plan-version."""
    parser.add_argument("--plan", action="store_true", help="print what would happen, do nothing")
    parser.add_argument(
        "--plan-version",
        type=flags.count,
        metavar="N",
        help="refuse where the plan is another one by now",
    )


def query(args: Namespace) -> dict[str, str]:
    """Return what a request that follows a plan says."""
    return {} if args.plan_version is None else {"planVersion": str(args.plan_version)}


def show(client: Client, wish: dict[str, Any]) -> int:
    """Print the plan of one request; return the exit code, 4 where a task fits nowhere."""
    return print_plan(make(client, [wish]))


def make(client: Client, wishes: list[dict[str, Any]], **contents: Any) -> dict[str, Any]:
    """Return the daemon's plan of requests about services, made one after the other.

    `contents` are lists of Secrets and Configs that are stored first.
    """
    body = {"Services": wishes, **contents}
    plan: dict[str, Any] = client.call("POST", "/swarm/v1/plan", body=body)
    return plan


def print_plan(plan: dict[str, Any]) -> int:
    """Print a plan; return its exit code."""
    for service in plan["Services"]:
        _show_service(service)
    print(f"Plan version: {plan['Version']}")
    return 0 if plan["Fits"] else DOES_NOT_FIT


def _show_service(service: dict[str, Any]) -> None:
    counts = [f"{service[name]} to {name.lower()}" for name in ("Create", "Replace", "Remove")]
    kept = "changed in place" if service["Changes"] else "kept"
    print(f"{service['Action']} {service['Name']}: {', '.join(counts)}, {service['Keep']} {kept}")
    for change in service["Changes"]:
        print(f"    {change}")
    for task in service["Tasks"]:
        if task["Action"] == "keep" and not task["Unplaced"]:
            continue
        name = f"{service['Name']}.{task['Slot'] or task['Node'] or task['FromNode']}"
        came = f" (from {task['FromNode']})" if _moves(task) else ""
        where = f"on {task['Node']}{came}" if task["Node"] else f"was on {task['FromNode']}"
        if task["Unplaced"]:
            where = task["Unplaced"]
        print(f"  {_SIGNS[task['Action']]} {name} {task['Action']} {where}")
    sys.stdout.flush()


def _moves(task: dict[str, Any]) -> bool:
    return bool(task["FromNode"]) and task["FromNode"] != task["Node"]
