"""image: history, import, prune, squash."""

import sys
from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser
from swarmctl.errors import ClientError
from swarmctl.flags import filter_query, filters, platform, platform_query, with_tag
from swarmctl.http import Client, segment
from swarmctl.image import send
from swarmctl.progress import follow

_CREATED_BY_WIDTH = 45
_HISTORY = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def _configure_history(parser: Parser) -> None:
    table.add_list_flags(parser, filters=False)
    parser.add_argument("-H", "--human", action="store_true", default=True)
    parser.add_argument("--no-human", dest="human", action="store_false", help="exact figures")
    parser.add_argument("--platform", type=platform, metavar="OS/ARCH", help="only of this one")
    parser.add_argument("image", metavar="IMAGE")


def _history(client: Client, args: Namespace) -> int:
    query = platform_query(args.platform)
    found = client.get(f"/images/{segment(args.image)}/history", **query)
    rows = [_history_row(row, args) for row in found]
    if args.quiet and not args.format:
        for row in rows:
            print(row["ID"])
        return 0
    columns = _HISTORY if args.human else {**_HISTORY, "CreatedSince": "CREATED AT"}
    table.show(rows, columns, args.format)
    return 0


def _history_row(row: Any, args: Namespace) -> table.Row:
    from datetime import UTC, datetime

    created = row.get("Created", 0)
    stamp = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = row.get("CreatedBy", "").replace("\t", " ")
    size = row.get("Size", 0)
    missing = row["Id"] == "<missing>"
    return {
        "ID": row["Id"] if missing else table.short(row["Id"], whole=args.no_trunc),
        "CreatedAt": stamp,
        "CreatedSince": f"{table.age(table.since(created))} ago" if args.human else stamp,
        "CreatedBy": text if args.no_trunc else table.ellipsis(text, _CREATED_BY_WIDTH),
        "Size": table.bytes_decimal(size, 3) if args.human else str(size),
        "Comment": row.get("Comment", ""),
    }


def _configure_import(parser: Parser) -> None:
    parser.add_argument("-c", "--change", action="append", metavar="INSTRUCTION")
    parser.add_argument("-m", "--message", default="")
    parser.add_argument("--platform", default="", help="os/arch[/variant] of the image")
    parser.add_argument("source", metavar="FILE|URL|-")
    parser.add_argument("repository", nargs="?", default="", metavar="REPOSITORY[:TAG]")


def _import(client: Client, args: Namespace) -> int:
    from urllib.parse import urlencode

    remote = args.source.startswith(("http://", "https://"))
    query = [("fromSrc", args.source if remote else "-"), ("repo", args.repository)]
    query += [("message", args.message)] if args.message else []
    query += [("platform", args.platform)] if args.platform else []
    query += [("changes", change) for change in args.change or []]
    url = "/images/create?" + urlencode(query)
    if remote:
        follow(client.request("POST", url).objects())
        return 0
    if args.source == "-":
        return send(client, url, sys.stdin.buffer)
    try:
        with open(args.source, "rb") as file:
            return send(client, url, file)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ClientError(f"cannot read {args.source}: {reason}") from error


def _configure_prune(parser: Parser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="all unused ones")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument("--filter", action="append", help="name=value")


def _prune(client: Client, args: Namespace) -> int:
    which = "all images without at least one container associated to them"
    warning = f"WARNING! This will remove {which if args.all else 'all dangling images'}."
    if not args.force:
        print(f"{warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
    wanted = filters(args.filter)
    wanted["dangling"] = {"false" if args.all else "true": True}
    answer = client.call("POST", "/images/prune", query=filter_query(wanted))
    deleted = answer.get("ImagesDeleted") or []
    if deleted:
        print("Deleted Images:")
    for row in deleted:
        for kind in ("Untagged", "Deleted"):
            if kind in row:
                print(f"{kind.lower()}: {row[kind]}")
    if deleted:
        print()
    print(f"Total reclaimed space: {table.bytes_decimal(answer.get('SpaceReclaimed', 0))}")
    return 0


def _configure_squash(parser: Parser) -> None:
    parser.add_argument("-t", "--tag", default="", metavar="NAME[:TAG]", help="name of the result")
    parser.add_argument("--from", dest="base", default="", metavar="IMAGE", help="keep its layers")
    parser.add_argument("image", metavar="IMAGE")


def _squash(client: Client, args: Namespace) -> int:
    query = {"tag": with_tag(args.tag)} if args.tag else {}
    query |= {"from": args.base} if args.base else {}
    answer = client.call("POST", f"/swarm/v1/images/{segment(args.image)}/squash", query=query)
    print(answer["Id"])
    return 0


COMMANDS = {
    "history": Command("show how an image was made", _configure_history, _history),
    "import": Command("make an image of a root file system", _configure_import, _import),
    "prune": Command("remove unused images", _configure_prune, _prune),
    "squash": Command("make one layer of an image's layers", _configure_squash, _squash),
}
