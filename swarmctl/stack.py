"""stack: deploy, ls, ps, services, rm, config."""

import re
from argparse import Namespace
from typing import Any, Final

from swarmctl import flags, plan, table
from swarmctl.command import Command, Parser, each, warn
from swarmctl.compose.names import NAMESPACE
from swarmctl.errors import ClientError, UsageError
from swarmctl.flags import filter_query, filters
from swarmctl.http import Client
from swarmctl.rollout import Options, Rollout, remove, watch_all
from swarmctl.stackquery import of_stack

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]*")


def _file_flags(parser: Parser) -> None:
    parser.add_argument(
        "-c", "--compose-file", action="append", metavar="FILE", help="- is standard input"
    )
    parser.add_argument("--env-file", action="append", metavar="FILE", help="values of variables")


def _configure_deploy(parser: Parser) -> None:
    _file_flags(parser)
    parser.add_argument("--profile", action="append", metavar="NAME", help="its services too")
    parser.add_argument("--prune", action="store_true", help="remove services not in the file")
    parser.add_argument("--resolve-image", choices=("always", "changed", "never"), default="always")
    parser.add_argument(
        "--with-registry-auth", action="store_true", help="let the nodes pull with your login"
    )
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("--timeout", type=flags.duration, help="give up waiting; exit code 3")
    plan.add_flags(parser)
    parser.add_argument("stack", metavar="STACK")


def _deploy(client: Client, args: Namespace) -> int:
    from swarmctl import stackplan
    from swarmctl.compose import load
    from swarmctl.compose.stackfile import stack_of

    _check_name(args.stack)
    paths, variables = _paths(args), load.variables_of(args.env_file)
    document = load.load(paths, variables=variables)
    profiles = frozenset(args.profile or ())
    stack = stack_of(document, args.stack, load.directory_of(paths), variables, profiles)
    if args.plan:
        return stackplan.show(client, stack, prune=args.prune)
    if args.plan_version is not None:
        stackplan.require(client, stack, args.plan_version, prune=args.prune)
    timeout_s = None if args.timeout is None else args.timeout / 1e9
    options = Options(args.prune, args.resolve_image, args.with_registry_auth, timeout_s)
    identities = Rollout(client, stack, options).run()
    if args.detach:
        return 0
    return watch_all(client, identities, quiet=args.quiet, timeout_s=timeout_s)


def _paths(args: Namespace) -> list[str]:
    if not args.compose_file:
        raise UsageError("swarmctl stack: name a Compose file with --compose-file")
    paths: list[str] = args.compose_file
    return paths


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ClientError(f"invalid stack name {name!r}: letters, digits, - and _ only")


def _configure_config(parser: Parser) -> None:
    _file_flags(parser)
    parser.add_argument("--skip-interpolation", action="store_true", help="leave variables alone")


def _config(_: Client, args: Namespace) -> int:
    import yaml

    from swarmctl.compose import load
    from swarmctl.compose.stackfile import stack_of

    paths, variables = _paths(args), load.variables_of(args.env_file)
    document = load.load(paths, variables=None if args.skip_interpolation else variables)
    if not args.skip_interpolation:
        stack_of(document, "stack", load.directory_of(paths), variables)  # refuses what is wrong
    print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), end="")
    return 0


def _configure_ls(parser: Parser) -> None:
    parser.add_argument("--format", help="table, json, or a Go template")
    parser.add_argument("-q", "--quiet", action="store_true", help="only print names")


def _ls(client: Client, args: Namespace) -> int:
    query = filter_query({"label": {NAMESPACE: True}})
    counts: dict[str, int] = {}
    for service in client.call("GET", "/services", query=query):
        name = service["Spec"]["Labels"][NAMESPACE]
        counts[name] = counts.get(name, 0) + 1
    rows: list[table.Row] = [
        {"Name": name, "Services": str(count), "Orchestrator": "Swarm", "Namespace": ""}
        for name, count in sorted(counts.items())
    ]
    if args.quiet and not args.format:
        for row in rows:
            print(row["Name"])
        return 0
    table.show(rows, {"Name": "NAME", "Services": "SERVICES"}, args.format)
    return 0


def _configure_services(parser: Parser) -> None:
    table.add_list_flags(parser, truncates=False)
    parser.add_argument("stack", metavar="STACK")


def _services(client: Client, args: Namespace) -> int:
    from swarmctl.service import show_services

    wanted = _with_stack(args)
    found = client.call("GET", "/services", query={"status": "true", **filter_query(wanted)})
    if not found and not args.filter:
        return _nothing(args.stack)
    show_services(found, args)
    return 0


def _configure_ps(parser: Parser) -> None:
    from swarmctl.task import add_ps_flags

    add_ps_flags(parser)
    parser.add_argument("stack", metavar="STACK")


def _ps(client: Client, args: Namespace) -> int:
    from swarmctl.task import show_tasks

    if not args.filter and not of_stack(client, "tasks", args.stack):
        return _nothing(args.stack)
    show_tasks(client, _with_stack(args), args)
    return 0


def _with_stack(args: Namespace) -> dict[str, dict[str, bool]]:
    _check_name(args.stack)
    wanted: dict[str, Any] = filters(args.filter)
    wanted.setdefault("label", {})[f"{NAMESPACE}={args.stack}"] = True
    return wanted


def _nothing(stack: str) -> int:
    warn(f"nothing found in stack: {stack}")
    return 1


def _configure_rm(parser: Parser) -> None:
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait for the tasks")
    parser.add_argument("stacks", nargs="+", metavar="STACK")


def _rm(client: Client, args: Namespace) -> int:
    def one(stack: str) -> None:
        _check_name(stack)
        if not remove(
            client, stack, wait=not args.detach, say=lambda line: print(line, flush=True)
        ):
            warn(f"nothing found in stack: {stack}")

    return each(args.stacks, one)


COMMANDS = {
    "deploy": Command("create or update a stack from Compose files", _configure_deploy, _deploy),
    "ls": Command("list stacks", _configure_ls, _ls),
    "ps": Command("list a stack's tasks", _configure_ps, _ps),
    "services": Command("list a stack's services", _configure_services, _services),
    "rm": Command("remove stacks", _configure_rm, _rm),
    "config": Command("print Compose files as one, with variables", _configure_config, _config),
}
