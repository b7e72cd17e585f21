"""container run, create and exec."""

import os
from argparse import Namespace
from typing import Any

from swarmctl import attach, create, flags, task_exec
from swarmctl.command import Command, Parser, warn
from swarmctl.errors import ClientError, DaemonError, UsageError
from swarmctl.http import Client, segment

_NOT_STARTED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127


def _configure_run(parser: Parser) -> None:
    parser.add_argument("-d", "--detach", action="store_true", help="print the id and leave")
    attach.add_flags(parser)
    create.configure(parser)


def _create_container(client: Client, args: Namespace, *, detach: bool) -> str:
    """Create, pulling the image where it is missing."""
    body = create.container_body(args, detach=detach)
    if args.tty:
        body["HostConfig"]["ConsoleSize"] = attach.console_size()
    given = {"name": args.name, "platform": args.platform}
    query = {name: value for name, value in given.items() if value}
    if args.cidfile and os.path.exists(args.cidfile):
        create.write_cidfile(args.cidfile, "")  # says what is in the way
    if args.pull == "always":
        _pull(client, args)
    try:
        answer = client.call("POST", "/containers/create", query=query, body=body)
    except DaemonError as error:
        if error.status != 404 or "image" not in error.reason.lower() or args.pull == "never":
            raise
        warn(f"Unable to find image '{flags.with_tag(args.image)}' locally")
        _pull(client, args)
        answer = client.call("POST", "/containers/create", query=query, body=body)
    for warning in answer.get("Warnings") or []:
        warn(f"WARNING: {warning}")
    create.write_cidfile(args.cidfile, answer["Id"])
    return str(answer["Id"])


def _pull(client: Client, args: Namespace) -> None:
    from swarmctl.registry import pull

    pull(client, args.image, quiet=args.quiet, platform=args.platform)


def _create(client: Client, args: Namespace) -> int:
    print(_create_container(client, args, detach=False))
    return 0


def _run(client: Client, args: Namespace) -> int:
    if args.rm and args.restart not in ("", "no"):
        raise UsageError("conflicting options: cannot specify both --restart and --rm")
    if not args.detach:
        attach.check_terminal(interactive=args.interactive, terminal=args.tty)
    try:
        identity = _create_container(client, args, detach=args.detach)
    except DaemonError as error:
        error.code = start_code(error.reason)
        raise
    except ClientError as error:
        error.code = _NOT_STARTED
        raise
    if args.detach:
        _start(client, identity)
        print(identity)
        return 0
    return _attached(
        client,
        identity,
        attach.Wish.of(args, create.attached_streams(args, detach=False), terminal=args.tty),
        condition="removed" if args.rm else "next-exit",
    )


def start_attached(client: Client, name: str, args: Namespace) -> int:
    """Start a container that exists and stay with it; returns its exit code."""
    found = client.get(f"/containers/{segment(name)}/json")
    config = found["Config"]
    streams = {"stdout", "stderr"}
    if args.interactive and config.get("OpenStdin"):
        streams.add("stdin")
    wish = attach.Wish.of(args, streams, terminal=config.get("Tty", False))
    condition = "removed" if found["HostConfig"].get("AutoRemove") else "next-exit"
    return _attached(client, found["Id"], wish, condition=condition)


def _attached(client: Client, identity: str, wish: attach.Wish, *, condition: str) -> int:
    """Attach, wait, start: in this order nothing is missed, neither output nor the end."""
    path = f"/containers/{identity}"
    stream = client.hijack(f"{path}/attach", query=wish.query)
    waiting = client.request("POST", f"{path}/wait", query={"condition": condition})
    _start(client, identity)
    return attach.follow(client, identity, stream, waiting, wish)


def _start(client: Client, identity: str) -> None:
    try:
        client.call("POST", f"/containers/{identity}/start")
    except DaemonError as error:
        error.code = start_code(error.reason)
        raise


def start_code(reason: str) -> int:
    """Return Docker's exit code for a refused start: 127 not there, 126 not executable."""
    text = reason.lower()
    if "executable file not found" in text or "no such file or directory" in text:
        return _NOT_FOUND
    if "permission denied" in text or "is a directory" in text:
        return _NOT_EXECUTABLE
    return _NOT_STARTED


def _configure_exec(parser: Parser) -> None:
    add = parser.add_argument
    add("--detach-keys", default="", metavar="KEYS", help="leave with these, not ctrl-p,ctrl-q")
    task_exec.add_flags(parser)
    add("container", metavar="CONTAINER")
    task_exec.add_command(parser)


def _prepare(client: Client, container: str, body: dict[str, Any]) -> str:
    return str(client.call("POST", f"/containers/{segment(container)}/exec", body=body)["Id"])


def _exec(client: Client, args: Namespace) -> int:
    attached = not args.detach
    if attached:
        attach.check_terminal(interactive=args.interactive, terminal=args.tty)
    body = task_exec.body_of(args) | {
        "AttachStdin": attached and args.interactive,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "DetachKeys": args.detach_keys,
    }
    try:
        identity = _prepare(client, args.container, body)
    except DaemonError as error:
        from swarmctl.task_container import find

        found = find(client, args.container, error)
        if not found.here:
            return _exec_elsewhere(client, found.task, args)
        identity = _prepare(client, found.container, body)
    path = f"/exec/{identity}"
    if args.detach:
        client.call("POST", f"{path}/start", body={"Detach": True, "Tty": args.tty})
        return 0
    wish = attach.Wish.of(args, {"stdin"} if args.interactive else set(), terminal=args.tty)
    try:
        task_exec.stay(client, path, wish)
    except attach.Detached:
        return 0
    return int(client.get(f"{path}/json").get("ExitCode") or 0)


def _exec_elsewhere(client: Client, task: str, args: Namespace) -> int:
    if args.detach_keys:
        raise ClientError(
            f"task {task} runs on another node, where an attached command ends with its client: "
            "leave out --detach-keys"
        )
    return task_exec.run(client, "tasks", task, args)


COMMANDS = {
    "run": Command("run a command in a new container", _configure_run, _run),
    "create": Command("create a container without starting it", create.configure, _create),
    "exec": Command("run a command in a running container", _configure_exec, _exec),
}
