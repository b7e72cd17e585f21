"""secret and config: create, ls, inspect, update, rm. The two differ in what is shown."""

import base64
import sys
from argparse import Namespace
from functools import partial
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser, each
from swarmctl.errors import ClientError
from swarmctl.flags import filter_query, filters, pairs
from swarmctl.http import Client, segment


def commands_of(kind: str) -> dict[str, Command]:
    """Return the commands of the group `secret` or `config`."""
    return {
        "create": Command(
            f"create a {kind}, or the next one of its name",
            partial(_configure_create, kind),
            partial(_create, kind),
        ),
        "ls": Command(f"list {kind}s", _configure_ls, partial(_ls, kind)),
        "inspect": Command(
            f"show {kind}s in full", partial(_configure_inspect, kind), partial(_inspect, kind)
        ),
        "update": Command(
            f"change the labels of a {kind}",
            partial(_configure_update, kind),
            partial(_update, kind),
        ),
        "rm": Command(f"remove {kind}s", partial(_configure_rm, kind), partial(_rm, kind)),
    }


def _configure_create(kind: str, parser: Parser) -> None:
    parser.add_argument("-l", "--label", action="append", metavar="NAME=VALUE")
    parser.add_argument("--template-driver", choices=("golang",), help="the data is a template")
    parser.add_argument(
        "--replace",
        action="store_true",
        help=f"take over the name; services that follow the {kind} are updated",
    )
    parser.add_argument("name", metavar=kind.upper())
    parser.add_argument("file", metavar="FILE", help="- is standard input")


def _create(kind: str, client: Client, args: Namespace) -> int:
    data = base64.b64encode(_content(args.file)).decode()
    body: dict[str, Any] = {"Name": args.name, "Labels": pairs(args.label), "Data": data}
    if args.template_driver:
        body["Templating"] = {"Name": args.template_driver}
    query = {"replace": "true"} if args.replace else {}
    print(client.call("POST", f"/{kind}s/create", query=query, body=body)["ID"])
    return 0


def _content(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror}") from None


def _configure_ls(parser: Parser) -> None:
    table.add_list_flags(parser, truncates=False)


def _ls(kind: str, client: Client, args: Namespace) -> int:
    found = client.call("GET", f"/{kind}s", query=filter_query(filters(args.filter)))
    if args.quiet and not args.format:
        for one in found:
            print(one["ID"])
        return 0
    columns = {
        "ID": "ID",
        "Name": "NAME",
        "Revision": "REVISION",
        "CreatedAt": "CREATED",
        "UpdatedAt": "UPDATED",
    }
    table.show([_row(one) for one in found], columns, args.format)
    return 0


def _row(one: Any) -> table.Row:
    labels = one["Spec"].get("Labels") or {}
    return {
        "ID": one["ID"],
        "Name": one["Spec"]["Name"],
        "Driver": "",
        "Revision": one.get("Revision", 1),
        "CreatedAt": f"{table.age(table.since(one['CreatedAt']))} ago",
        "UpdatedAt": f"{table.age(table.since(one['UpdatedAt']))} ago",
        "Labels": ",".join(f"{name}={value}" for name, value in labels.items()),
    }


def _configure_inspect(kind: str, parser: Parser) -> None:
    parser.add_argument("-f", "--format")
    parser.add_argument("--pretty", action="store_true", help="for people")
    parser.add_argument("names", nargs="+", metavar=kind.upper())


def _inspect(kind: str, client: Client, args: Namespace) -> int:
    path = f"/{kind}s/{{}}"
    if not args.pretty:
        return table.inspect(path, client, args.names, args.format, kind)
    if args.format:
        raise ClientError("--format is incompatible with human friendly format")
    return each(args.names, lambda name: _print_pretty(client.get(path.format(segment(name)))))


def _print_pretty(one: Any) -> None:
    spec = one["Spec"]
    rows = [("ID:", one["ID"]), ("Name:", spec["Name"]), ("Revision:", one.get("Revision", 1))]
    if spec.get("Labels"):
        rows.append(("Labels:", ""))
        rows += [("", f"- {name}={value}") for name, value in sorted(spec["Labels"].items())]
    if spec.get("Templating"):
        rows.append(("Template:", spec["Templating"]["Name"]))
    rows += [("Created at:", one["CreatedAt"]), ("Updated at:", one["UpdatedAt"])]
    for heading, value in rows:
        print(f"{heading:<16}{value}".rstrip())
    if spec.get("Data"):
        print("Data:")
        sys.stdout.flush()
        sys.stdout.buffer.write(base64.b64decode(spec["Data"]) + b"\n")
        sys.stdout.buffer.flush()


def _configure_update(kind: str, parser: Parser) -> None:
    parser.add_argument("--label-add", action="append", metavar="NAME=VALUE")
    parser.add_argument("--label-rm", action="append", metavar="NAME")
    parser.add_argument("name", metavar=kind.upper())


def _update(kind: str, client: Client, args: Namespace) -> int:
    one = client.get(f"/{kind}s/{segment(args.name)}")
    labels = one["Spec"].get("Labels") or {}
    labels = {k: v for k, v in labels.items() if k not in (args.label_rm or [])}
    body = {**one["Spec"], "Labels": labels | pairs(args.label_add)}
    query = {"version": str(one["Version"]["Index"])}
    client.call("POST", f"/{kind}s/{one['ID']}/update", query=query, body=body)
    print(args.name)
    return 0


def _configure_rm(kind: str, parser: Parser) -> None:
    parser.add_argument("names", nargs="+", metavar=kind.upper())


def _rm(kind: str, client: Client, args: Namespace) -> int:
    def remove(name: str) -> None:
        client.call("DELETE", f"/{kind}s/{segment(name)}")
        print(name)

    return each(args.names, remove)


COMMANDS = commands_of("secret")
