"""network: create, ls, inspect, rm."""

from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser, each
from swarmctl.errors import UsageError
from swarmctl.flags import filter_query, filters, pairs
from swarmctl.http import Client, segment

_COLUMNS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE"}


def _configure_create(parser: Parser) -> None:
    parser.add_argument("-d", "--driver", default="bridge")
    parser.add_argument("--subnet", action="append", metavar="CIDR")
    parser.add_argument("--gateway", action="append", metavar="ADDRESS")
    parser.add_argument("--attachable", action="store_true", help="also for plain containers")
    parser.add_argument("--internal", action="store_true", help="no way out")
    parser.add_argument("--ingress", action="store_true", help="the network of published ports")
    parser.add_argument("--label", action="append", metavar="NAME=VALUE")
    parser.add_argument("-o", "--opt", action="append", metavar="NAME=VALUE")
    parser.add_argument("name", metavar="NETWORK")


def _create(client: Client, args: Namespace) -> int:
    subnets, gateways = args.subnet or [], args.gateway or []
    if len(gateways) > len(subnets):
        raise UsageError("swarmctl network create: every --gateway needs a --subnet")
    pools: list[dict[str, str]] = [{"Subnet": subnet} for subnet in subnets]
    for pool, gateway in zip(pools, gateways, strict=False):
        pool["Gateway"] = gateway
    body = {
        "Name": args.name,
        "Driver": args.driver,
        "Attachable": args.attachable,
        "Internal": args.internal,
        "Ingress": args.ingress,
        "Labels": pairs(args.label),
        "Options": pairs(args.opt),
        "IPAM": {"Driver": "default", "Config": pools},
    }
    print(client.call("POST", "/networks/create", body=body)["Id"])
    return 0


def _ls(client: Client, args: Namespace) -> int:
    networks = client.call("GET", "/networks", query=filter_query(filters(args.filter)))
    networks.sort(key=lambda network: network["Name"])
    rows = [_row(network, whole=args.no_trunc) for network in networks]
    if args.quiet and not args.format:
        for row in rows:
            print(row["ID"])
        return 0
    table.show(rows, _COLUMNS, args.format)
    return 0


def _row(network: Any, *, whole: bool) -> table.Row:
    labels = network.get("Labels") or {}
    return {
        "ID": table.short(network["Id"], whole=whole),
        "Name": network["Name"],
        "Driver": network.get("Driver", ""),
        "Scope": network.get("Scope", ""),
        "Internal": network.get("Internal", False),
        "CreatedAt": network.get("Created", ""),
        "Labels": ",".join(f"{name}={value}" for name, value in labels.items()),
    }


def _configure_inspect(parser: Parser) -> None:
    parser.add_argument("-f", "--format")
    parser.add_argument("-v", "--verbose", action="store_true", help="with the cluster's tasks")
    parser.add_argument("networks", nargs="+", metavar="NETWORK")


def _inspect(client: Client, args: Namespace) -> int:
    query = {"verbose": "true"} if args.verbose else {}
    return table.inspect("/networks/{}", client, args.networks, args.format, "network", **query)


def _configure_rm(parser: Parser) -> None:
    parser.add_argument("networks", nargs="+", metavar="NETWORK")


def _rm(client: Client, args: Namespace) -> int:
    def remove(name: str) -> None:
        client.call("DELETE", f"/networks/{segment(name)}")
        print(name)

    return each(args.networks, remove)


COMMANDS = {
    "create": Command("create a network", _configure_create, _create),
    "ls": Command("list networks", table.add_list_flags, _ls),
    "inspect": Command("show networks in full", _configure_inspect, _inspect),
    "rm": Command("remove networks", _configure_rm, _rm),
}
