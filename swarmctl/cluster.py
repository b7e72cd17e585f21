"""cluster: update."""

from argparse import Namespace

from swarmctl.command import Command, Parser
from swarmctl.errors import UsageError
from swarmctl.http import Client

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


COMMANDS = {
    "update": Command("change how the cluster works", _configure_update, _update),
}
