"""cluster: update."""

from argparse import Namespace

from swarmctl.command import Command, Parser
from swarmctl.http import Client

_STRATEGY = "placement.strategy"


def _configure_update(parser: Parser) -> None:
    parser.add_argument(
        "--placement-strategy",
        choices=("spread", "binpack"),
        required=True,
        help="of services that name none: even nodes out, or fill one before the next",
    )


def _update(client: Client, args: Namespace) -> int:
    swarm = client.get("/swarm")
    labels = {**(swarm["Spec"].get("Labels") or {}), _STRATEGY: args.placement_strategy}
    query = {"version": str(swarm["Version"]["Index"])}
    client.call("POST", "/swarm/update", query=query, body={**swarm["Spec"], "Labels": labels})
    print("Cluster updated.")
    return 0


COMMANDS = {
    "update": Command("change how the cluster places tasks", _configure_update, _update),
}
