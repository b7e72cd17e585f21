"""volume: create, ls, inspect, rm, prune."""

from argparse import Namespace
from typing import Any

from swarmctl import confirm, table
from swarmctl.command import Command, Parser, each
from swarmctl.errors import UsageError
from swarmctl.flags import filter_query, filters, pairs
from swarmctl.http import Client, segment

_COLUMNS = {"Driver": "DRIVER", "Name": "VOLUME NAME"}


def _configure_create(parser: Parser) -> None:
    parser.add_argument("-d", "--driver", default="local")
    parser.add_argument("--label", action="append", metavar="NAME=VALUE")
    parser.add_argument("-o", "--opt", action="append", metavar="NAME=VALUE")
    parser.add_argument("--name", default="", help="the same as VOLUME")
    parser.add_argument("volume", nargs="?", default="", metavar="VOLUME")


def _create(client: Client, args: Namespace) -> int:
    if args.name and args.volume:
        raise UsageError("swarmctl volume create: --name and VOLUME say the same: give one")
    body = {
        "Name": args.volume or args.name,
        "Driver": args.driver,
        "DriverOpts": pairs(args.opt),
        "Labels": pairs(args.label),
    }
    print(client.call("POST", "/volumes/create", body=body)["Name"])
    return 0


def _configure_ls(parser: Parser) -> None:
    table.add_list_flags(parser, truncates=False)


def _ls(client: Client, args: Namespace) -> int:
    query = filter_query(filters(args.filter))
    volumes = client.call("GET", "/volumes", query=query).get("Volumes") or []
    rows = [_row(volume) for volume in sorted(volumes, key=lambda volume: volume["Name"])]
    if args.quiet and not args.format:
        for row in rows:
            print(row["Name"])
        return 0
    table.show(rows, _COLUMNS, args.format)
    return 0


def _row(volume: Any) -> table.Row:
    labels = volume.get("Labels") or {}
    return {
        "Driver": volume.get("Driver", ""),
        "Name": volume["Name"],
        "Scope": volume.get("Scope", ""),
        "Mountpoint": volume.get("Mountpoint", ""),
        "Labels": table.joined(labels),
        "Label": table.label_of(labels),
        # Only `system df` counts; the last three are of clusters that keep volumes.
        **dict.fromkeys(("Links", "Size", "Availability", "Group", "Status"), "N/A"),
    }


def _configure_inspect(parser: Parser) -> None:
    parser.add_argument("-f", "--format")
    parser.add_argument("volumes", nargs="+", metavar="VOLUME")


def _inspect(client: Client, args: Namespace) -> int:
    return table.inspect("/volumes/{}", client, args.volumes, args.format, "volume")


def _configure_rm(parser: Parser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="one that is gone is fine")
    parser.add_argument("volumes", nargs="+", metavar="VOLUME")


def _rm(client: Client, args: Namespace) -> int:
    query = {"force": "1"} if args.force else None

    def remove(name: str) -> None:
        client.call("DELETE", f"/volumes/{segment(name)}", query=query)
        print(name)

    return each(args.volumes, remove)


def _configure_prune(parser: Parser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="named ones too")
    confirm.add_flags(parser)


def _prune(client: Client, args: Namespace) -> int:
    which = "all" if args.all else "anonymous"
    warning = f"This will remove {which} local volumes not used by at least one container."
    if not confirm.confirmed(warning, force=args.force):
        return 0
    wanted = filters(args.filter)
    if args.all:
        wanted["all"] = {"true": True}
    answer = client.call("POST", "/volumes/prune", query=filter_query(wanted))
    deleted = answer.get("VolumesDeleted") or []
    if deleted:
        print("\n".join(["Deleted Volumes:", *deleted, ""]))
    print(f"Total reclaimed space: {table.bytes_decimal(answer.get('SpaceReclaimed', 0))}")
    return 0


COMMANDS = {
    "create": Command("create a volume", _configure_create, _create),
    "ls": Command("list volumes", _configure_ls, _ls),
    "inspect": Command("show volumes in full", _configure_inspect, _inspect),
    "rm": Command("remove volumes", _configure_rm, _rm),
    "prune": Command("remove unused volumes", _configure_prune, _prune),
}
