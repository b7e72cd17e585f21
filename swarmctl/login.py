"""login, logout, search."""

import sys
from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser, warn
from swarmctl.credentials import Credentials, address, auth_header, config_path, registry_of
from swarmctl.errors import ClientError, DaemonError
from swarmctl.flags import count, filter_query, filters
from swarmctl.http import Client

_SEARCH_COLUMNS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "StarCount": "STARS",
    "IsOfficial": "OFFICIAL",
}
_DESCRIPTION_WIDTH = 45


def _configure_login(parser: Parser) -> None:
    parser.add_argument("-u", "--username", default="")
    parser.add_argument("-p", "--password", default="", help="others may read it: prefer stdin")
    parser.add_argument("--password-stdin", action="store_true", help="read the password there")
    parser.add_argument("server", nargs="?", default="", help="default: Docker Hub")


def _login(client: Client, args: Namespace) -> int:
    server = address(args.server)
    store = Credentials(config_path())
    login = _given(args)
    if not login:
        login = store.get(server)
        if login and _known(client, server, login):
            return 0
        login = _asked(login.get("username", ""))
    login["serveraddress"] = server
    answer = client.call("POST", "/auth", body=login)
    token = answer.get("IdentityToken")
    if token:
        login = {**login, "password": "", "identitytoken": token}
    store.put(server, login)
    if not store.helper(server):
        warn(
            f"\nWARNING! Your credentials are stored unencrypted in '{store.path}'.\n"
            "Configure a credential helper to remove this warning.\n"
        )
    print(answer.get("Status") or "Login Succeeded")
    return 0


def _known(client: Client, server: str, login: dict[str, str]) -> bool:
    """Try the login that is kept."""
    print(f"Authenticating with existing credentials... [Username: {login.get('username', '')}]")
    try:
        answer = client.call("POST", "/auth", body={**login, "serveraddress": server})
    except DaemonError as error:
        warn(f"Login did not succeed, error: {error}")
        return False
    print(answer.get("Status") or "Login Succeeded")
    return True


def _given(args: Namespace) -> dict[str, str]:
    """Return user and password of the command line; empty where they are to be asked for."""
    if args.password_stdin:
        if args.password:
            raise ClientError("--password and --password-stdin are mutually exclusive")
        if not args.username:
            raise ClientError("Must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
        return {"username": args.username, "password": password}
    if args.password:
        warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
        if not args.username:
            raise ClientError("--password needs --username")
        return {"username": args.username, "password": args.password}
    return _asked(args.username) if args.username else {}


def _asked(username: str) -> dict[str, str]:
    if not sys.stdin.isatty():
        raise ClientError("cannot log in without a terminal: use --username and --password-stdin")
    import getpass

    username = username or input("Username: ").strip()
    password = getpass.getpass("Password: ")
    if not username or not password:
        raise ClientError("username and password are required")
    return {"username": username, "password": password}


def _configure_logout(parser: Parser) -> None:
    parser.add_argument("server", nargs="?", default="", help="default: Docker Hub")


def _logout(client: Client, args: Namespace) -> int:
    server = address(args.server)
    print(f"Removing login credentials for {server}")
    Credentials(config_path()).remove(server)
    return 0


def _configure_search(parser: Parser) -> None:
    parser.add_argument("-f", "--filter", action="append", help="is-official=true, stars=3")
    parser.add_argument("--format", help="table, json, or a Go template")
    parser.add_argument("--limit", type=count, default=0, help="at most so many (25)")
    parser.add_argument("--no-trunc", action="store_true", help="do not shorten")
    parser.add_argument("term", metavar="TERM")


def _search(client: Client, args: Namespace) -> int:
    query = {"term": args.term, **filter_query(filters(args.filter))}
    if args.limit:
        query["limit"] = str(args.limit)
    login = Credentials(config_path()).get(registry_of(args.term))
    response = client.request("GET", "/images/search", query=query, headers=auth_header(login))
    rows = [
        _search_row(found, whole=args.no_trunc) for item in response.objects() for found in item
    ]
    rows.sort(key=lambda row: -int(row["StarCount"]))
    table.show(rows, _SEARCH_COLUMNS, args.format)
    return 0


def _search_row(found: Any, *, whole: bool) -> table.Row:
    text = " ".join(str(found.get("description", "")).split())
    if not whole and len(text) > _DESCRIPTION_WIDTH:
        text = text[: _DESCRIPTION_WIDTH - 1] + "…"
    return {
        "Name": found["name"],
        "Description": text,
        "StarCount": found.get("star_count", 0),
        "IsOfficial": "[OK]" if found.get("is_official") else "",
    }


COMMANDS = {
    "login": Command("log in to a registry", _configure_login, _login),
    "logout": Command("forget the login of a registry", _configure_logout, _logout),
    "search": Command("search a registry for images", _configure_search, _search),
}
