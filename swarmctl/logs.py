"""The logs of containers, services and tasks."""

import re
import sys
import time
from argparse import Namespace

from swarmctl import flags, table
from swarmctl.command import Parser
from swarmctl.errors import ClientError, DaemonError
from swarmctl.http import Client, segment
from swarmctl.job import slot_name
from swarmctl.streams import STDERR, SYSTEM_ERROR, copy_out, frames

_CONTEXT = re.compile(rb"((?:\S+Z )?)com\.docker\.swarm\.(\S+) ")
_SWARM = b"com.docker.swarm."
_WIDTH_MIN = 1


def add_flags(parser: Parser) -> None:
    """Add the flags of every kind of logs."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on as lines come")
    parser.add_argument("-n", "--tail", default="all", help="lines from the end, or all")
    parser.add_argument("--since", help="timestamp, or a span such as 10m")
    parser.add_argument("-t", "--timestamps", action="store_true")


def moment(text: str) -> str:
    """Return unix seconds of a timestamp, unix seconds, or a span before now.

    Raises:
        ClientError: for anything else.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return text
    if re.match(r"\d{4}-", text):
        if len(text) == 10:
            text += "T00:00:00"
        stamp = text if text[-1] == "Z" or re.search(r"[+-]\d\d:\d\d$", text) else text + "Z"
        found = table.unix(stamp)
        if not found:
            raise ClientError(f"invalid time {text!r}: want 2006-01-02T15:04:05Z")
        return f"{found:.9f}"
    try:
        return f"{time.time() - flags.duration(text) / 1e9:.9f}"
    except flags.Bad as error:
        raise ClientError(f"invalid time: {error}") from None


def query(args: Namespace) -> dict[str, str]:
    """Return the query of a request for logs."""
    if args.tail != "all" and not args.tail.lstrip("-").isdecimal():
        raise ClientError(f"invalid tail {args.tail!r}: want a number or all")
    found = {"stdout": "1", "stderr": "1", "tail": args.tail}
    if args.follow:
        found["follow"] = "1"
    if args.timestamps:
        found["timestamps"] = "1"
    if args.since:
        found["since"] = moment(args.since)
    if getattr(args, "details", False):
        found["details"] = "1"
    if getattr(args, "until", None):
        found["until"] = moment(args.until)
    return found


def show_container_logs(client: Client, name: str, args: Namespace) -> None:
    """Print a container's log: stdout to stdout, stderr to stderr."""
    path = f"/containers/{segment(name)}"
    terminal = (client.get(f"{path}/json").get("Config") or {}).get("Tty", False)
    response = client.request("GET", f"{path}/logs", query=query(args))
    copy_out(response.chunks(), multiplexed=not terminal)


def show_service_logs(client: Client, path: str, args: Namespace) -> None:
    """Print the log of a service or task, each line named for the task that wrote it.

    With `details=1` every line starts with the labels that tell node, service and task.
    """
    response = client.request("GET", path, query={**query(args), "details": "1"})
    if "raw-stream" in response.headers.get("content-type", ""):
        copy_out(response.chunks(), multiplexed=False)
        return
    names = _LineNames(client, args)
    for stream, payload in frames(response.chunks()):
        if stream == SYSTEM_ERROR:
            raise ClientError(f"Error response from daemon: {payload.decode(errors='replace')}")
        target = sys.stderr if stream == STDERR else sys.stdout
        target.buffer.write(b"".join(map(names.line, payload.splitlines(keepends=True))))
        target.buffer.flush()


def show_task_logs(client: Client, task: str, args: Namespace) -> None:
    """Print the log of a task's container on another node, with the flags of a container's."""
    as_lines = {"raw": True, "no_resolve": True, "no_trunc": True, "no_task_ids": False}
    show_service_logs(client, f"/tasks/{task}/logs", Namespace(**{**vars(args), **as_lines}))


class _LineNames:
    """Puts `service.slot.task@node    | ` before lines; the widest name so far sets the column."""

    def __init__(self, client: Client, args: Namespace) -> None:
        self._client = client
        self._raw = args.raw
        self._resolve = not args.no_resolve
        self._whole = args.no_trunc
        self._task_ids = not args.no_task_ids
        self._details = args.details
        self._prefixes: dict[bytes, str] = {}
        self._width = _WIDTH_MIN

    def line(self, line: bytes) -> bytes:
        match = _CONTEXT.match(line)
        if not match:
            return line
        text = match[1] + self._other_labels(match[2]) + line[match.end() :]
        if self._raw:
            return text
        if match[2] not in self._prefixes:
            labels = flags.fields("com.docker.swarm." + match[2].decode())
            name = self._prefix({key.split(".", 3)[-1]: labels[key] for key in labels})
            self._prefixes[match[2]] = name
            self._width = max(self._width, len(name))
        return self._prefixes[match[2]].ljust(self._width).encode() + b"    | " + text

    def _other_labels(self, context: bytes) -> bytes:
        """Return, where asked for, the labels that do not tell the task."""
        if not self._details:
            return b""
        others = [one for one in context.split(b",")[1:] if not one.startswith(_SWARM)]
        return b",".join(others) + b" " if others else b""

    def _prefix(self, labels: dict[str, str]) -> str:
        task_id, node_id = labels.get("task.id", ""), labels.get("node.id", "")
        short = table.short(task_id, whole=self._whole)
        if not self._resolve:
            return f"{short}@{node_id}"
        try:
            task = self._client.get(f"/tasks/{task_id}")
            service = self._client.get(f"/services/{task['ServiceID']}")
            node = self._client.get(f"/nodes/{node_id}")
        except DaemonError as error:
            if error.status != 404:
                raise
            return f"{short}@{node_id}"
        name = f"{service['Spec']['Name']}.{slot_name(task) or node_id}"
        if self._task_ids:
            name += f".{short}"
        return f"{name}@{node.get('Description', {}).get('Hostname', node_id)}"
