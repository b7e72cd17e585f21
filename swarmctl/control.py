"""container: attach, pause, prune, rename, stats, top, unpause, update."""

from argparse import Namespace
from typing import Any

from swarmctl import confirm, flags, table
from swarmctl.command import Command, Parser, each
from swarmctl.errors import ClientError
from swarmctl.flags import filter_query, filters
from swarmctl.http import Client, segment

_TOP_WIDTH, _TOP_GAP = 20, 3


def _names(parser: Parser) -> None:
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def _one(parser: Parser) -> None:
    parser.add_argument("container", metavar="CONTAINER")


def _pause(client: Client, args: Namespace) -> int:
    return _post_each(client, args.containers, "pause")


def _unpause(client: Client, args: Namespace) -> int:
    return _post_each(client, args.containers, "unpause")


def _post_each(client: Client, names: list[str], action: str) -> int:
    def post(name: str) -> None:
        client.call("POST", f"/containers/{segment(name)}/{action}")
        print(name)

    return each(names, post)


def _configure_rename(parser: Parser) -> None:
    _one(parser)
    parser.add_argument("name", metavar="NEW_NAME")


def _rename(client: Client, args: Namespace) -> int:
    if not args.container.strip() or not args.name.strip():
        raise ClientError("Error: Neither old nor new names may be empty")
    path = f"/containers/{segment(args.container)}/rename"
    client.call("POST", path, query={"name": args.name})
    return 0


def _configure_update(parser: Parser) -> None:
    add = parser.add_argument
    add("-m", "--memory", type=flags.size)
    add("--memory-swap", type=_swap, metavar="BYTES|-1")
    add("--memory-reservation", type=flags.size)
    add("-c", "--cpu-shares", type=int)
    add("--cpu-period", type=int)
    add("--cpu-quota", type=int)
    add("--cpus", type=flags.cpus)
    add("--cpuset-cpus")
    add("--cpuset-mems")
    add("--blkio-weight", type=int, metavar="10-1000")
    add("--pids-limit", type=int)
    add("--restart", metavar="POLICY[:MAX]")
    _names(parser)


def _swap(text: str) -> int:
    return -1 if text == "-1" else flags.size(text)


def _update(client: Client, args: Namespace) -> int:
    changes: dict[str, Any] = {
        "Memory": args.memory,
        "MemorySwap": args.memory_swap,
        "MemoryReservation": args.memory_reservation,
        "CpuShares": args.cpu_shares,
        "CpuPeriod": args.cpu_period,
        "CpuQuota": args.cpu_quota,
        "NanoCpus": args.cpus,
        "CpusetCpus": args.cpuset_cpus,
        "CpusetMems": args.cpuset_mems,
        "BlkioWeight": args.blkio_weight,
        "PidsLimit": args.pids_limit,
    }
    if args.restart:
        policy, _, retries = args.restart.partition(":")
        count = flags.count(retries or "0")
        changes["RestartPolicy"] = {"Name": policy, "MaximumRetryCount": count}
    body = {name: value for name, value in changes.items() if value is not None}
    if not body:
        raise ClientError("you must provide one or more flags when using this command")

    def update(name: str) -> None:
        client.call("POST", f"/containers/{segment(name)}/update", body=body)
        print(name)

    return each(args.containers, update)


def _configure_top(parser: Parser) -> None:
    import argparse

    _one(parser)
    parser.add_argument("ps", nargs=argparse.REMAINDER, metavar="PS_OPTION")


def _top(client: Client, args: Namespace) -> int:
    query = {"ps_args": " ".join(args.ps)} if args.ps else {}
    found = client.get(f"/containers/{segment(args.container)}/top", **query)
    lines = [found["Titles"], *(found["Processes"] or [])]
    widths = [
        max(_TOP_WIDTH, max(len(line[column]) for line in lines) + _TOP_GAP)
        for column in range(len(found["Titles"]))
    ]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        print("".join(cells) + line[-1])
    return 0


def _prune(client: Client, args: Namespace) -> int:
    query = filter_query(filters(args.filter))
    if not confirm.confirmed("This will remove all stopped containers.", force=args.force):
        return 0
    found = client.call("POST", "/containers/prune", query=query)
    if deleted := found.get("ContainersDeleted"):
        print("\n".join(["Deleted Containers:", *deleted, ""]))
    print(f"Total reclaimed space: {table.bytes_decimal(found.get('SpaceReclaimed', 0))}")
    return 0


def _configure_attach(parser: Parser) -> None:
    from swarmctl.attach import add_flags

    add_flags(parser)
    parser.add_argument("--no-stdin", action="store_true", help="do not pass stdin")
    _one(parser)


def _attach(client: Client, args: Namespace) -> int:
    from swarmctl import attach

    path = f"/containers/{segment(args.container)}"
    found = client.get(f"{path}/json")
    state, config = found["State"], found["Config"]
    if not state.get("Running"):
        raise ClientError("cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise ClientError("cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise ClientError("cannot attach to a restarting container, wait until it is running")
    streams = {"stdout", "stderr"}
    if config.get("OpenStdin") and not args.no_stdin:
        attach.check_terminal(interactive=True, terminal=config.get("Tty", False))
        streams.add("stdin")
    wish = attach.Wish.of(args, streams, terminal=config.get("Tty", False))
    waiting = client.request("POST", f"{path}/wait")
    stream = client.hijack(f"{path}/attach", query=wish.query)
    return attach.follow(client, found["Id"], stream, waiting, wish)


COMMANDS = {
    "attach": Command("join a running container's streams", _configure_attach, _attach),
    "pause": Command("freeze containers", _names, _pause),
    "prune": Command("remove all stopped containers", confirm.add_flags, _prune),
    "rename": Command("give a container another name", _configure_rename, _rename),
    "top": Command("show a container's processes", _configure_top, _top),
    "unpause": Command("let frozen containers go on", _names, _unpause),
    "update": Command("change limits of containers", _configure_update, _update),
}
