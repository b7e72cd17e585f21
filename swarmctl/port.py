"""container port: where a container's ports appear on the host."""

from argparse import Namespace

from swarmctl.command import Command, Parser
from swarmctl.errors import ClientError
from swarmctl.http import Client, segment


def _configure(parser: Parser) -> None:
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("port", nargs="?", default="", metavar="PORT[/PROTOCOL]")


def _port(client: Client, args: Namespace) -> int:
    found = client.get(f"/containers/{segment(args.container)}/json")
    ports = found["NetworkSettings"].get("Ports") or {}
    if not args.port:
        lines = [
            f"{port} -> {_address(binding)}"
            for port, bindings in ports.items()
            for binding in bindings or []
        ]
        for line in sorted(lines, key=lambda line: (int(line.partition("/")[0]), line)):
            print(line)
        return 0
    wanted = args.port if "/" in args.port else f"{args.port}/tcp"
    bindings = ports.get(wanted)
    if not bindings:
        raise ClientError(f"Error: No public port '{args.port}' published for {args.container}", 1)
    for binding in bindings:
        print(_address(binding))
    return 0


def _address(binding: dict[str, str]) -> str:
    address = binding["HostIp"]
    return f"{f'[{address}]' if ':' in address else address}:{binding['HostPort']}"


COMMANDS = {"port": Command("show published ports", _configure, _port)}
