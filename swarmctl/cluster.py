"""cluster: check, update, rebalance."""

import time
from argparse import Namespace
from typing import Any

from swarmctl import plan, table
from swarmctl.command import Command, Parser, warn
from swarmctl.errors import UsageError
from swarmctl.http import Client

_REBALANCE = "/swarm/v1/rebalance"
_POLL_S = 0.5
_PAIRS = {
    "From": "FROM",
    "To": "TO",
    "Underlay": "UNDERLAY",
    "Overlay": "OVERLAY",
    "RoundTrip": "ROUND TRIP",
}
_LABELS = {
    "placement_strategy": "placement.strategy",
    "specs_kept": "specs.kept",
    "disappearance_share": "disappearance.share",
}


def _configure_update(parser: Parser) -> None:
    parser.add_argument(
        "--placement-strategy",
        choices=("spread", "binpack"),
        help="of services that name none: even nodes out, or fill one before the next",
    )
    parser.add_argument("--specs-kept", metavar="N", help="specs a rollback may return to")
    parser.add_argument(
        "--disappearance-share",
        metavar="SHARE",
        help="nodes lost within a minute, of all, that pause rescheduling; 1 is never",
    )


def _update(client: Client, args: Namespace) -> int:
    given = {label: value for name, label in _LABELS.items() if (value := getattr(args, name))}
    if not given:
        raise UsageError("nothing to update: give a flag", 1)
    swarm = client.get("/swarm")
    labels = {**(swarm["Spec"].get("Labels") or {}), **given}
    query = {"version": str(swarm["Version"]["Index"])}
    client.call("POST", "/swarm/update", query=query, body={**swarm["Spec"], "Labels": labels})
    print("Cluster updated.")
    return 0


def _configure_rebalance(parser: Parser) -> None:
    plan.add_flags(parser)
    parser.add_argument("--stop", action="store_true", help="begin no more moves")
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")


def _rebalance(client: Client, args: Namespace) -> int:
    if args.plan:
        found = client.get(f"{_REBALANCE}/plan")
        if not found["Services"]:
            print("Everything is balanced.")
        return plan.print_plan(found)
    if args.stop:
        state = client.call("DELETE", _REBALANCE)
    else:
        state = client.call("POST", _REBALANCE, query=plan.query(args))
    if args.detach:
        return 0
    return _follow(client, state, quiet=args.quiet)


def _follow(client: Client, state: dict[str, Any], *, quiet: bool) -> int:
    """Wait for the end of the rebalancing, telling each move; 1 where a service was skipped."""
    shown = 0
    while True:
        if state["Moved"] != shown and not quiet:
            shown = state["Moved"]
            print(f"{shown} moved", flush=True)
        if state["State"] == "done":
            break
        time.sleep(_POLL_S)
        state = client.get(_REBALANCE)
    if state["Skipped"]:
        names = ", ".join(state["Skipped"])
        warn(f"a move failed or an update is not over, left as they are: {names}")
        return 1
    if not quiet:
        print("Everything is balanced.")
    return 0


def _configure_check(parser: Parser) -> None:
    parser.add_argument("what", choices=("network",), help="what is to be tried out")
    table.add_list_flags(parser, filters=False, truncates=False)


def _check(client: Client, args: Namespace) -> int:
    """Print pairs and problems; 1 where something is broken. `--quiet` leaves the problems."""
    found = client.call("POST", "/swarm/v1/network/check")
    problems = found["Problems"]
    if args.format:
        table.show([_pair_row(pair) for pair in found["Pairs"]], _PAIRS, args.format)
    elif not args.quiet:
        table.show([_pair_row(pair) for pair in found["Pairs"]], _PAIRS, None)
        for node in found["Nodes"]:
            if node["Answered"]:
                asked, well = node["Services"], node["ServicesWell"]
                print(f"node {node['Node']}: {well} of {asked} services answer from its containers")
    for one in problems if not args.format else ():
        print(f"{one['Where']}: {one['What']}\n    {one['Remedy']}")
    if not problems and not args.format and not args.quiet:
        print("The network is whole.")
    return int(bool(problems))


def _pair_row(pair: dict[str, Any]) -> dict[str, Any]:
    def passed(kind: str) -> str:
        largest, full = pair[kind], pair[f"{kind}Full"]
        return "-" if largest is None else "ok" if largest >= full else f"{largest} of {full}"

    trip = f"{pair['RoundTripMicros'] / 1000:.2f} ms" if pair["RoundTripMicros"] else "-"
    return {**pair, "Underlay": passed("Underlay"), "Overlay": passed("Overlay"), "RoundTrip": trip}


COMMANDS = {
    "check": Command("try out the network between all nodes", _configure_check, _check),
    "rebalance": Command("even out services over the nodes", _configure_rebalance, _rebalance),
    "update": Command("change how the cluster works", _configure_update, _update),
}
