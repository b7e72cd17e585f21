"""system df: what images, containers and volumes take on the disk."""

from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser
from swarmctl.errors import ClientError
from swarmctl.http import Client

_COLUMNS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}


def _configure(parser: Parser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="every object")
    parser.add_argument("--format", help="table, json, or a Go template")


def _df(client: Client, args: Namespace) -> int:
    if args.verbose and args.format:
        raise ClientError("the verbose and the format options conflict")
    usage = client.get("/system/df")
    if args.verbose:
        _verbose(usage)
        return 0
    rows = [_images(usage), _containers(usage), _volumes(usage), _cache(usage)]
    table.show(rows, _COLUMNS, args.format)
    return 0


def _line(kind: str, count: int, active: int, size: int, free: int) -> table.Row:
    share = f" ({free * 100 // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": count,
        "Active": active,
        "Size": table.bytes_decimal(size),
        "Reclaimable": f"{table.bytes_decimal(free)}{share}",
    }


def _images(usage: Any) -> table.Row:
    images = usage.get("Images") or []
    size = usage.get("LayersSize") or 0
    used = [one for one in images if one.get("Containers", 0) > 0]
    needed = sum(one.get("Size", 0) - max(one.get("SharedSize", 0), 0) for one in used)
    return _line("Images", len(images), len(used), size, max(size - needed, 0))


def _containers(usage: Any) -> table.Row:
    containers = usage.get("Containers") or []
    alive = [one for one in containers if one["State"] in ("running", "paused", "restarting")]
    size = sum(one.get("SizeRw") or 0 for one in containers)
    used = sum(one.get("SizeRw") or 0 for one in alive)
    return _line("Containers", len(containers), len(alive), size, size - used)


def _volumes(usage: Any) -> table.Row:
    volumes = usage.get("Volumes") or []
    data = [one.get("UsageData") or {"Size": 0, "RefCount": 0} for one in volumes]
    size = sum(max(one["Size"], 0) for one in data)
    used = [max(one["Size"], 0) for one in data if one["RefCount"]]
    return _line("Local Volumes", len(volumes), len(used), size, size - sum(used))


def _cache(usage: Any) -> table.Row:
    entries = usage.get("BuildCache") or []
    size = sum(one.get("Size", 0) for one in entries)
    used = [one for one in entries if one.get("InUse")]
    free = size - sum(one.get("Size", 0) for one in used)
    return _line("Build Cache", len(entries), len(used), size, free)


def _verbose(usage: Any) -> None:
    print("Images space usage:\n")
    rows = [
        [
            (one.get("RepoTags") or ["<none>:<none>"])[0].rpartition(":")[0],
            (one.get("RepoTags") or ["<none>:<none>"])[0].rpartition(":")[2],
            table.short(one["Id"]),
            table.bytes_decimal(one.get("Size", 0)),
            str(max(one.get("Containers", 0), 0)),
        ]
        for one in usage.get("Images") or []
    ]
    table.align([["REPOSITORY", "TAG", "IMAGE ID", "SIZE", "CONTAINERS"], *rows])
    print("\nContainers space usage:\n")
    rows = [
        [
            table.short(one["Id"]),
            one.get("Image", ""),
            table.bytes_decimal(one.get("SizeRw") or 0),
            one.get("Status", ""),
            ",".join(name.removeprefix("/") for name in one.get("Names") or []),
        ]
        for one in usage.get("Containers") or []
    ]
    table.align([["CONTAINER ID", "IMAGE", "SIZE", "STATUS", "NAMES"], *rows])
    print("\nLocal Volumes space usage:\n")
    rows = [
        [
            one["Name"],
            str((one.get("UsageData") or {}).get("RefCount", 0)),
            table.bytes_decimal(max((one.get("UsageData") or {}).get("Size", 0), 0)),
        ]
        for one in usage.get("Volumes") or []
    ]
    table.align([["VOLUME NAME", "LINKS", "SIZE"], *rows])


COMMANDS = {"df": Command("show what takes space on the disk", _configure, _df)}
