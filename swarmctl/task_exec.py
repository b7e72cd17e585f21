"""exec in a task's container, on whatever node that is: through the managers."""

import argparse
from argparse import Namespace
from typing import Any

from swarmctl import attach, flags
from swarmctl.command import Parser
from swarmctl.errors import UsageError
from swarmctl.http import Client, segment

_NOT_SEEN = 1
"""The exit code where the process's own is not known."""


def add_flags(parser: Parser) -> None:
    """Add the flags of every exec."""
    add = parser.add_argument
    add("-d", "--detach", action="store_true", help="do not wait: leave it alone once it runs")
    add("-i", "--interactive", action="store_true", help="pass stdin")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("-e", "--env", action="append", metavar="NAME=VALUE")
    add("--env-file", action="append", metavar="FILE")
    add("-u", "--user", default="")
    add("-w", "--workdir", default="")
    add("--privileged", action="store_true")


def add_command(parser: Parser) -> None:
    """Add the words of the command, behind the name of where it runs."""
    add = parser.add_argument
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARG...]")


def configure_task(parser: Parser) -> None:
    add_flags(parser)
    parser.add_argument("name", metavar="TASK", help="id, or SERVICE.SLOT")
    add_command(parser)


def configure_service(parser: Parser) -> None:
    add_flags(parser)
    parser.add_argument(
        "name", metavar="SERVICE[.SLOT]", help="of several tasks the running one of the lowest slot"
    )
    add_command(parser)


def exec_in_task(client: Client, args: Namespace) -> int:
    return run(client, "tasks", args.name, args)


def exec_in_service(client: Client, args: Namespace) -> int:
    return run(client, "services", args.name, args)


def body_of(args: Namespace) -> dict[str, Any]:
    """Return what is to run, from the flags of every exec.

    Raises:
        UsageError: there is no command.
        ClientError: a terminal is asked for where there is none.
    """
    if not args.command:
        raise UsageError("swarmctl exec: the command is missing", 1)
    body: dict[str, Any] = {
        "User": args.user,
        "Privileged": args.privileged,
        "Tty": args.tty,
        "AttachStdin": args.interactive,
        "Env": flags.environment(args.env, args.env_file),
        "WorkingDir": args.workdir,
        "Cmd": args.command,
    }
    if args.tty and not args.detach:
        body["ConsoleSize"] = attach.console_size()
    return body


def run(client: Client, kind: str, name: str, args: Namespace) -> int:
    """Run a command in a task's container; returns its exit code, 0 for one that is left alone."""
    if not args.detach:
        attach.check_terminal(interactive=args.interactive, terminal=args.tty)
    made = client.call("POST", f"/swarm/v1/{kind}/{segment(name)}/exec", body=body_of(args))
    path = f"/swarm/v1/exec/{made['Id']}"
    if args.detach:
        client.call("POST", f"{path}/start", body={"Detach": True, "Tty": args.tty})
        return 0
    streams = frozenset({"stdin"} if args.interactive else ())
    stay(client, path, attach.Wish(streams, args.tty, detach=b""))
    code = client.get(path).get("ExitCode")
    return _NOT_SEEN if code is None else int(code)


def stay(client: Client, path: str, wish: attach.Wish) -> None:
    """Start a prepared exec and stay to its end; raises Detached when the user leaves."""
    stream = client.hijack(f"{path}/start", body={"Detach": False, "Tty": wish.terminal})
    attachment = attach.Attachment(stream, wish)
    with (
        attach.raw_terminal(wanted=wish.interactive and wish.terminal),
        attach.resized(client, path, wanted=wish.terminal),
    ):
        attachment.run()
