"""network: create, ls, inspect, rm, connect, disconnect, prune."""

from argparse import Namespace
from typing import Any

from swarmctl import confirm, table
from swarmctl.command import Command, Parser, each
from swarmctl.errors import DaemonError, UsageError
from swarmctl.flags import addresses, filter_query, filters, pairs
from swarmctl.http import Client, segment

_COLUMNS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE"}


def _configure_create(parser: Parser) -> None:
    parser.add_argument("-d", "--driver", default="bridge")
    parser.add_argument("--subnet", action="append", metavar="CIDR")
    parser.add_argument("--gateway", action="append", metavar="ADDRESS")
    parser.add_argument("--ip-range", action="append", metavar="CIDR")
    parser.add_argument("--aux-address", action="append", metavar="NAME=ADDRESS")
    parser.add_argument("--ipam-driver", default="default")
    parser.add_argument("--ipam-opt", action="append", metavar="NAME=VALUE")
    for version in ("4", "6"):
        parser.add_argument(
            f"--ipv{version}", action="store_const", const=True, help=f"IPv{version} addresses"
        )
    parser.add_argument("--attachable", action="store_true", help="also for plain containers")
    parser.add_argument("--internal", action="store_true", help="no way out")
    parser.add_argument("--ingress", action="store_true", help="the network of published ports")
    parser.add_argument("--label", action="append", metavar="NAME=VALUE")
    parser.add_argument("-o", "--opt", action="append", metavar="NAME=VALUE")
    parser.add_argument("name", metavar="NETWORK")


def _create(client: Client, args: Namespace) -> int:
    pools = _pools(args)
    body = {
        "Name": args.name,
        "Driver": args.driver,
        "Attachable": args.attachable,
        "Internal": args.internal,
        "Ingress": args.ingress,
        "Labels": pairs(args.label),
        "Options": pairs(args.opt),
        "IPAM": {"Driver": args.ipam_driver, "Options": pairs(args.ipam_opt), "Config": pools},
    }
    families = (("EnableIPv4", args.ipv4), ("EnableIPv6", args.ipv6))
    body |= {key: enabled for key, enabled in families if enabled is not None}
    print(client.call("POST", "/networks/create", body=body)["Id"])
    return 0


def _pools(args: Namespace) -> list[dict[str, Any]]:
    """Return the subnets, each with the gateway, range and reserved addresses that are in it."""
    pools: list[dict[str, Any]] = [{"Subnet": subnet} for subnet in args.subnet or []]
    for flag, key, values in (
        ("--gateway", "Gateway", args.gateway or []),
        ("--ip-range", "IPRange", args.ip_range or []),
    ):
        for value in values:
            pool = _pool_of(pools, flag, value)
            if key in pool:
                raise UsageError(
                    f"swarmctl network create: {flag} {value}: subnet {pool['Subnet']} has one", 1
                )
            pool[key] = value
    for name, address in pairs(args.aux_address).items():
        pool = _pool_of(pools, "--aux-address", address)
        pool.setdefault("AuxiliaryAddresses", {})[name] = address
    return pools


def _pool_of(pools: list[dict[str, Any]], flag: str, value: str) -> dict[str, Any]:
    """Return the pool whose subnet an address or a range is in."""
    from ipaddress import ip_interface, ip_network

    try:
        own = ip_interface(value).ip
        found = [p for p in pools if own in ip_network(p["Subnet"], strict=False)]
    except ValueError as error:
        raise UsageError(f"swarmctl network create: {error}", 1) from None
    if not found:
        raise UsageError(f"swarmctl network create: no --subnet for {flag} {value}", 1)
    return found[0]


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
        "IPv4": network.get("EnableIPv4", True),
        "IPv6": network.get("EnableIPv6", False),
        "Internal": network.get("Internal", False),
        "CreatedAt": table.stamp(network.get("Created", "")),
        "Labels": table.joined(labels),
        "Label": table.label_of(labels),
    }


def _configure_inspect(parser: Parser) -> None:
    parser.add_argument("-f", "--format")
    parser.add_argument("-v", "--verbose", action="store_true", help="with the cluster's tasks")
    parser.add_argument("networks", nargs="+", metavar="NETWORK")


def _inspect(client: Client, args: Namespace) -> int:
    query = {"verbose": "true"} if args.verbose else {}
    return table.inspect("/networks/{}", client, args.networks, args.format, "network", **query)


def _configure_connect(parser: Parser) -> None:
    parser.add_argument("--alias", action="append", metavar="NAME")
    parser.add_argument("--link", action="append", metavar="CONTAINER[:ALIAS]")
    parser.add_argument("--ip", default="", metavar="ADDRESS")
    parser.add_argument("--ip6", default="", metavar="ADDRESS")
    parser.add_argument("--gw-priority", type=int, default=0, help="the highest is the way out")
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("container", metavar="CONTAINER")


def _connect(client: Client, args: Namespace) -> int:
    endpoint: dict[str, Any] = {"Aliases": args.alias or [], "GwPriority": args.gw_priority}
    if args.ip or args.ip6:
        endpoint["IPAMConfig"] = addresses(args.ip, args.ip6)
    if args.link:
        endpoint["Links"] = args.link
    body = {"Container": args.container, "EndpointConfig": endpoint}
    client.call("POST", f"/networks/{segment(args.network)}/connect", body=body)
    return 0


def _configure_disconnect(parser: Parser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="one that is gone is fine")
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("container", metavar="CONTAINER")


def _disconnect(client: Client, args: Namespace) -> int:
    body = {"Container": args.container, "Force": args.force}
    client.call("POST", f"/networks/{segment(args.network)}/disconnect", body=body)
    return 0


def _prune(client: Client, args: Namespace) -> int:
    warning = "This will remove all custom networks not used by at least one container."
    if not confirm.confirmed(warning, force=args.force):
        return 0
    query = filter_query(filters(args.filter))
    deleted = client.call("POST", "/networks/prune", query=query).get("NetworksDeleted") or []
    if deleted:
        print("\n".join(["Deleted Networks:", *deleted, ""]))
    return 0


def _configure_rm(parser: Parser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="one that is gone is fine")
    parser.add_argument("networks", nargs="+", metavar="NETWORK")


def _rm(client: Client, args: Namespace) -> int:
    def remove(name: str) -> None:
        try:
            client.call("DELETE", f"/networks/{segment(name)}")
        except DaemonError as error:
            if not (args.force and error.status == 404):
                raise
            return
        print(name)

    return each(args.networks, remove)


COMMANDS = {
    "create": Command("create a network", _configure_create, _create),
    "ls": Command("list networks", table.add_list_flags, _ls),
    "inspect": Command("show networks in full", _configure_inspect, _inspect),
    "rm": Command("remove networks", _configure_rm, _rm),
    "connect": Command("put a container on a network", _configure_connect, _connect),
    "disconnect": Command("take a container off a network", _configure_disconnect, _disconnect),
    "prune": Command("remove unused networks", confirm.add_flags, _prune),
}
