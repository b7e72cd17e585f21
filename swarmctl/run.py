"""container run, create and exec."""

import argparse
import json
from argparse import Namespace
from typing import Any

from swarmctl import attach, flags
from swarmctl.command import Command, Parser, warn
from swarmctl.errors import ClientError, DaemonError, UsageError
from swarmctl.http import Client, segment

_NOT_STARTED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127


def _configure_create(parser: Parser) -> None:
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="pass stdin")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("--rm", action="store_true", help="remove it when it ends")
    add("--name", default="")
    add("-e", "--env", action="append", metavar="NAME=VALUE")
    add("--env-file", action="append", metavar="FILE")
    add("-v", "--volume", action="append", metavar="SOURCE:TARGET[:ro]")
    add("--mount", action="append", type=flags.mount)
    add("--tmpfs", action="append", metavar="PATH[:options]")
    add("-p", "--publish", action="append", metavar="[[ADDRESS:]PORT:]PORT[/PROTOCOL]")
    add("--expose", action="append", metavar="PORT[/PROTOCOL]")
    add("--network", "--net", default="", metavar="NETWORK")
    add("--network-alias", action="append", metavar="NAME")
    add("--ip", default="", metavar="ADDRESS")
    add("-l", "--label", action="append", metavar="NAME=VALUE")
    add("-w", "--workdir", default="")
    add("-u", "--user", default="")
    add("-h", "--hostname", default="")
    add("--entrypoint")
    add("--read-only", action="store_true")
    add("--init", action="store_true")
    add("--privileged", action="store_true")
    add("--cap-add", action="append")
    add("--cap-drop", action="append")
    add("--security-opt", action="append")
    add("--ulimit", action="append", type=flags.ulimit)
    add("--sysctl", action="append", metavar="NAME=VALUE")
    add("--add-host", action="append", metavar="NAME:ADDRESS")
    add("--dns", action="append", metavar="ADDRESS")
    add("-m", "--memory", type=flags.size)
    add("--cpus", type=flags.cpus)
    add("--pids-limit", type=int)
    add("--restart", default="", metavar="POLICY[:MAX]")
    add("--stop-signal", default="")
    add("--stop-timeout", type=flags.count)
    add("--log-driver", default="")
    add("--log-opt", action="append", metavar="NAME=VALUE")
    add("image", metavar="IMAGE")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARG...]")


def _configure_run(parser: Parser) -> None:
    parser.add_argument("-d", "--detach", action="store_true", help="print the id and leave")
    _configure_create(parser)


def container_body(args: Namespace, *, detach: bool) -> dict[str, Any]:
    """Return the body of `POST /containers/create`: Config with HostConfig inside."""
    exposed, bindings = flags.container_ports(args.publish)
    for item in args.expose or []:
        exposed[item if "/" in item else f"{item}/tcp"] = {}
    binds, volumes = _volumes(args.volume)
    attached = not detach
    body: dict[str, Any] = {
        "Hostname": args.hostname,
        "User": args.user,
        "AttachStdin": attached and args.interactive,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "Tty": args.tty,
        "OpenStdin": args.interactive,
        "StdinOnce": attached and args.interactive,
        "Env": flags.environment(args.env, args.env_file),
        "Cmd": args.command or None,
        "Image": args.image,
        "Volumes": volumes,
        "WorkingDir": args.workdir,
        "Labels": flags.pairs(args.label),
        "ExposedPorts": exposed,
        "HostConfig": {
            **_host_config(args),
            "Binds": binds,
            "PortBindings": bindings,
        },
    }
    if args.entrypoint is not None:
        body["Entrypoint"] = [args.entrypoint]
    if args.stop_signal:
        body["StopSignal"] = args.stop_signal
    if args.stop_timeout is not None:
        body["StopTimeout"] = args.stop_timeout
    endpoint: dict[str, Any] = {}
    if args.network_alias:
        endpoint["Aliases"] = args.network_alias
    if args.ip:
        endpoint["IPAMConfig"] = {"IPv4Address": args.ip}
    if args.network or endpoint:
        body["NetworkingConfig"] = {"EndpointsConfig": {args.network or "default": endpoint}}
    return body


def _host_config(args: Namespace) -> dict[str, Any]:
    policy, _, retries = args.restart.partition(":")
    config: dict[str, Any] = {
        "NetworkMode": args.network or "default",
        "AutoRemove": args.rm,
        "ReadonlyRootfs": args.read_only,
        "Privileged": args.privileged,
        "CapAdd": args.cap_add,
        "CapDrop": args.cap_drop,
        "SecurityOpt": args.security_opt,
        "Ulimits": args.ulimit,
        "Sysctls": flags.pairs(args.sysctl) or None,
        "ExtraHosts": args.add_host,
        "Dns": args.dns,
        "Mounts": args.mount,
        "Memory": args.memory or 0,
        "NanoCpus": args.cpus or 0,
        "PidsLimit": args.pids_limit,
        "RestartPolicy": {
            "Name": policy or "no",
            "MaximumRetryCount": flags.count(retries or "0"),
        },
    }
    if args.init:
        config["Init"] = True
    if args.tmpfs:
        split = (item.partition(":") for item in args.tmpfs)
        config["Tmpfs"] = {path: options for path, _, options in split}
    if args.log_driver or args.log_opt:
        config["LogConfig"] = {"Type": args.log_driver, "Config": flags.pairs(args.log_opt)}
    return {name: value for name, value in config.items() if value is not None}


def _volumes(items: list[str] | None) -> tuple[list[str], dict[str, Any]]:
    """Return Binds (source:target[:mode]) and anonymous Volumes."""
    import os

    binds: list[str] = []
    volumes: dict[str, Any] = {}
    for item in items or []:
        source, colon, rest = item.partition(":")
        if not colon:
            volumes[source] = {}
        elif source.startswith((".", "~")):
            binds.append(f"{os.path.abspath(os.path.expanduser(source))}:{rest}")
        else:
            binds.append(item)
    return binds, volumes


def _create_container(client: Client, args: Namespace, *, detach: bool) -> str:
    """Create, pulling the image where it is missing; every failure is code 125."""
    body = container_body(args, detach=detach)
    query = {"name": args.name} if args.name else None
    try:
        try:
            answer = client.call("POST", "/containers/create", query=query, body=body)
        except DaemonError as error:
            if error.status != 404 or "image" not in error.reason.lower():
                raise
            warn(f"Unable to find image '{flags.with_tag(args.image)}' locally")
            from swarmctl.registry import pull

            pull(client, args.image)
            answer = client.call("POST", "/containers/create", query=query, body=body)
    except ClientError as error:
        error.code = _NOT_STARTED
        raise
    for warning in answer.get("Warnings") or []:
        warn(f"WARNING: {warning}")
    return str(answer["Id"])


def _create(client: Client, args: Namespace) -> int:
    print(_create_container(client, args, detach=False))
    return 0


def _run(client: Client, args: Namespace) -> int:
    if args.rm and args.restart not in ("", "no"):
        raise UsageError("conflicting options: cannot specify both --restart and --rm")
    if not args.detach:
        attach.check_terminal(interactive=args.interactive, terminal=args.tty)
    identity = _create_container(client, args, detach=args.detach)
    if args.detach:
        _start(client, identity)
        print(identity)
        return 0
    condition = "removed" if args.rm else "next-exit"
    return _attached(
        client, identity, interactive=args.interactive, terminal=args.tty, condition=condition
    )


def start_attached(client: Client, name: str, *, interactive: bool) -> int:
    """Start a container that exists and stay with it; returns its exit code."""
    found = client.get(f"/containers/{segment(name)}/json")
    return _attached(
        client,
        found["Id"],
        interactive=interactive and found["Config"].get("OpenStdin", False),
        terminal=found["Config"].get("Tty", False),
        condition="next-exit",
    )


def _attached(
    client: Client, identity: str, *, interactive: bool, terminal: bool, condition: str
) -> int:
    """Attach, wait, start: in this order nothing is missed, neither output nor the end."""
    path = f"/containers/{identity}"
    query = {"stream": "1", "stdout": "1", "stderr": "1"}
    if interactive:
        query["stdin"] = "1"
    stream = client.hijack(f"{path}/attach", query=query)
    attachment = attach.Attachment(stream, interactive=interactive, terminal=terminal)
    waiting = client.request("POST", f"{path}/wait", query={"condition": condition})
    _start(client, identity)
    raw = interactive and terminal
    with (
        attach.raw_terminal(wanted=raw),
        attach.resized(client, path, wanted=terminal),
        attach.signals_forwarded(client, identity, wanted=not terminal),
    ):
        try:
            attachment.run()
        except attach.Detached:
            waiting.close()
            return 0
        answer = json.loads(waiting.read())
    if answer.get("Error"):
        raise ClientError(f"Error response from daemon: {answer['Error']['Message']}", _NOT_STARTED)
    return int(answer["StatusCode"])


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
    add("-d", "--detach", action="store_true", help="do not wait")
    add("-i", "--interactive", action="store_true", help="pass stdin")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("-e", "--env", action="append", metavar="NAME=VALUE")
    add("--env-file", action="append", metavar="FILE")
    add("-u", "--user", default="")
    add("-w", "--workdir", default="")
    add("--privileged", action="store_true")
    add("container", metavar="CONTAINER")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARG...]")


def _exec(client: Client, args: Namespace) -> int:
    if not args.command:
        raise UsageError("swarmctl exec: the command is missing", 1)
    attached = not args.detach
    if attached:
        attach.check_terminal(interactive=args.interactive, terminal=args.tty)
    body = {
        "User": args.user,
        "Privileged": args.privileged,
        "Tty": args.tty,
        "AttachStdin": attached and args.interactive,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "Env": flags.environment(args.env, args.env_file),
        "WorkingDir": args.workdir,
        "Cmd": args.command,
    }
    path = f"/containers/{segment(args.container)}/exec"
    identity = client.call("POST", path, body=body)["Id"]
    start = {"Detach": args.detach, "Tty": args.tty}
    if args.detach:
        client.call("POST", f"/exec/{identity}/start", body=start)
        return 0
    stream = client.hijack(f"/exec/{identity}/start", body=start)
    attachment = attach.Attachment(stream, interactive=args.interactive, terminal=args.tty)
    with (
        attach.raw_terminal(wanted=args.interactive and args.tty),
        attach.resized(client, f"/exec/{identity}", wanted=args.tty),
    ):
        try:
            attachment.run()
        except attach.Detached:
            return 0
    return int(client.get(f"/exec/{identity}/json").get("ExitCode") or 0)


COMMANDS = {
    "run": Command("run a command in a new container", _configure_run, _run),
    "create": Command("create a container without starting it", _configure_create, _create),
    "exec": Command("run a command in a running container", _configure_exec, _exec),
}
