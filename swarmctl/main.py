"""Entry point: finds the module of a command, parses its line, runs it."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from swarmctl.errors import ClientError, UsageError

TYPE_CHECKING = False  # typing would be a twelfth of the start: only type checkers import it
if TYPE_CHECKING:
    from swarmctl.command import Command

GROUPS = {
    "swarm": "the cluster: init, join, leave, keys, tokens, backup",
    "cluster": "how the cluster places tasks",
    "node": "the machines of the cluster",
    "service": "services",
    "task": "tasks, and why one is not placed",
    "stack": "services, networks, secrets and configs of a Compose file",
    "network": "networks",
    "secret": "files for tasks that nobody else may read",
    "config": "files for tasks",
    "volume": "volumes",
    "container": "containers",
    "image": "images",
    "api-token": "tokens that open the API over TLS",
    "system": "the daemon",
}
SHORT = {
    **dict.fromkeys(("ps", "start", "stop", "kill", "rm", "wait", "logs"), "container"),
    **dict.fromkeys(("run", "create", "exec", "restart"), "container"),
    **dict.fromkeys(("attach", "commit", "cp", "diff", "export", "pause", "port"), "container"),
    **dict.fromkeys(("rename", "stats", "top", "unpause", "update"), "container"),
    **dict.fromkeys(("images", "load", "save", "tag", "rmi", "build"), "image"),
    **dict.fromkeys(("history", "import"), "image"),
    **dict.fromkeys(("pull", "push"), "image"),
    **dict.fromkeys(("info", "version", "events", "inspect"), "system"),
    **dict.fromkeys(("login", "logout", "search"), "system"),
    "completion": "system",
}
MODULES = {
    "swarm": ("swarmctl.swarm", "swarmctl.swarm_state"),
    "cluster": ("swarmctl.cluster",),
    "node": ("swarmctl.node",),
    "service": ("swarmctl.service", "swarmctl.service_change"),
    "task": ("swarmctl.task",),
    "stack": ("swarmctl.stack",),
    "network": ("swarmctl.network",),
    "secret": ("swarmctl.secret",),
    "config": ("swarmctl.config",),
    "volume": ("swarmctl.volume",),
    "api-token": ("swarmctl.token",),
    "container": (
        "swarmctl.container",
        "swarmctl.run",
        "swarmctl.control",
        "swarmctl.copy",
        "swarmctl.port",
        "swarmctl.stats",
    ),
    "image": ("swarmctl.image", "swarmctl.image_change", "swarmctl.registry", "swarmctl.build"),
    "system": (
        "swarmctl.info",
        "swarmctl.system",
        "swarmctl.usage",
        "swarmctl.login",
        "swarmctl.completion",
    ),
}
_OWN_MODULES = {
    **dict.fromkeys(("ps", "start", "stop", "restart", "kill", "rm"), ("swarmctl.container",)),
    **dict.fromkeys(("wait", "logs"), ("swarmctl.container",)),
    **dict.fromkeys(("images", "load", "save", "tag", "rmi"), ("swarmctl.image",)),
    **dict.fromkeys(("info", "version"), ("swarmctl.info",)),
    "run": ("swarmctl.run",),
    "exec": ("swarmctl.run",),
    "create": ("swarmctl.run",),
    "port": ("swarmctl.port",),
    **dict.fromkeys(("attach", "pause", "rename", "top"), ("swarmctl.control",)),
    **dict.fromkeys(("unpause", "update"), ("swarmctl.control",)),
    **dict.fromkeys(("commit", "cp", "diff", "export"), ("swarmctl.copy",)),
    "stats": ("swarmctl.stats",),
    "build": ("swarmctl.build",),
    **dict.fromkeys(("history", "import", "prune", "squash"), ("swarmctl.image_change",)),
    **dict.fromkeys(("pull", "push"), ("swarmctl.registry",)),
    **dict.fromkeys(("login", "logout", "search"), ("swarmctl.login",)),
    "completion": ("swarmctl.completion",),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except ClientError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output left; a second error at exit would only confuse.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def commands(group: str, name: str = "") -> dict[str, Command]:
    """Return a group's commands by name, importing no more than `name` needs."""
    found: dict[str, Command] = {}
    own = [module for module in _OWN_MODULES.get(name, ()) if module in MODULES[group]]
    for module in own or MODULES[group]:
        found.update(import_module(module).COMMANDS)
    return found


def _run(words: list[str]) -> int:
    host, words = _global_flags(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if words[0] in ("-v", "--version"):
        words[0] = "version"
    name = words[0]
    if name in GROUPS:
        return _run_in_group(name, words[1:], host)
    if name in SHORT:
        return _execute(SHORT[name], name, f"swarmctl {name}", words[1:], host)
    raise UsageError(f"swarmctl: {name!r} is not a command\nSee 'swarmctl --help'", 1)


def _run_in_group(group: str, words: list[str], host: str | None) -> int:
    if not words or words[0] in ("-h", "--help"):
        lines = [f"Usage: swarmctl {group} COMMAND", "", "Commands:"]
        lines += [f"  {name:<12} {known.summary}" for name, known in commands(group).items()]
        print("\n".join(lines))
        return 0
    name = {"list": "ls", "remove": "rm"}.get(words[0], words[0])
    return _execute(group, name, f"swarmctl {group} {name}", words[1:], host)


def _execute(group: str, name: str, program: str, words: list[str], host: str | None) -> int:
    from argparse import ArgumentTypeError

    from swarmctl.command import Parser
    from swarmctl.http import Client, host_from

    command = commands(group, name).get(name)
    if command is None:
        raise UsageError(f"{program}: not a command\nSee 'swarmctl {group} --help'", 1)
    parser = Parser(program, command.summary)
    command.configure(parser)
    try:
        arguments = parser.parse(words)
        return command.run(Client(host_from(os.environ, host)), arguments)
    except ArgumentTypeError as error:
        raise UsageError(f"{program}: {error}") from error
    except SystemExit:
        return 0  # argparse has printed the help; wrong lines raise UsageError


def _global_flags(words: list[str]) -> tuple[str | None, list[str]]:
    host = None
    while words and words[0].startswith(("-H", "--host")):
        flag, equals, value = words[0].partition("=")
        if equals:
            words = words[1:]
        elif flag in ("-H", "--host") and len(words) > 1:
            value, words = words[1], words[2:]
        elif flag.startswith("-H") and len(flag) > 2:
            value, words = flag[2:], words[1:]
        else:
            raise UsageError(f"swarmctl: flag needs an argument: {flag}")
        host = value
    return host, words


def _usage() -> str:
    groups = [f"  {name:<12} {summary}" for name, summary in GROUPS.items()]
    short = "  " + " ".join(SHORT)
    return "\n".join(
        [
            "Usage: swarmctl [-H HOST] COMMAND",
            "",
            "Groups (swarmctl GROUP --help lists the commands):",
            *groups,
            "",
            "Short forms:",
            short,
            "",
            "HOST is unix:///path or tcp://name:port; default SWARM_HOST, DOCKER_HOST,",
            "unix:///run/swarm/swarmd.sock. Over TCP: DOCKER_TLS_VERIFY=1, DOCKER_CERT_PATH=DIR of",
            "ca.pem, cert.pem, key.pem; or ca.pem alone and SWARM_API_TOKEN.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
