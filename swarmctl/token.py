"""api-token: create, ls, rm: what opens the API over TLS instead of a client certificate."""

from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser, each
from swarmctl.flags import duration
from swarmctl.http import Client, segment

_PATH = "/swarm/v1/api-tokens"


def _configure_create(parser: Parser) -> None:
    roles = ("viewer", "deployer", "operator")
    parser.add_argument("--role", required=True, choices=roles, help="what its bearer may do")
    parser.add_argument("--expires", type=duration, default=0, help="for how long, such as 720h")
    parser.add_argument("name", metavar="NAME")


def _create(client: Client, args: Namespace) -> int:
    body = {"Name": args.name, "Role": args.role, "ExpiresIn": args.expires}
    print(client.call("POST", _PATH, body=body)["Token"])
    return 0


def _configure_ls(parser: Parser) -> None:
    table.add_list_flags(parser, filters=False, truncates=False)


def _ls(client: Client, args: Namespace) -> int:
    found = client.get(_PATH)
    if args.quiet and not args.format:
        for one in found:
            print(one["ID"])
        return 0
    names = ("ID", "NAME", "ROLE", "CREATED", "EXPIRES")
    columns = dict(zip(("ID", "Name", "Role", "CreatedAt", "ExpiresAt"), names, strict=True))
    table.show([_row(one) for one in found], columns, args.format)
    return 0


def _row(one: Any) -> table.Row:
    created = f"{table.age(table.since(one['CreatedAt']))} ago"
    expires = table.stamp(one["ExpiresAt"]) if one["ExpiresAt"] else "never"
    return {**one, "CreatedAt": created, "ExpiresAt": expires}


def _configure_rm(parser: Parser) -> None:
    parser.add_argument("names", nargs="+", metavar="TOKEN")


def _rm(client: Client, args: Namespace) -> int:
    def remove(name: str) -> None:
        client.call("DELETE", f"{_PATH}/{segment(name)}")
        print(name)

    return each(args.names, remove)


COMMANDS = {
    "create": Command("make a token and print it, this once", _configure_create, _create),
    "ls": Command("list tokens, without what they are", _configure_ls, _ls),
    "rm": Command("remove tokens", _configure_rm, _rm),
}
