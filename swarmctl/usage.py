"""system: df, prune: what images, containers and volumes take on the disk, and having it back."""

from argparse import Namespace
from typing import Any

from swarmctl import confirm, table
from swarmctl.command import Command, Parser
from swarmctl.errors import ClientError
from swarmctl.flags import filter_query, filters
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
    titles = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE"]
    table.align([[*titles, "CONTAINERS"], *map(_image_line, usage.get("Images") or [])])
    print("\nContainers space usage:\n")
    titles = ["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS"]
    table.align([[*titles, "NAMES"], *map(_container_line, usage.get("Containers") or [])])
    print("\nLocal Volumes space usage:\n")
    volumes = sorted(usage.get("Volumes") or [], key=lambda one: one["Name"])
    table.align([["VOLUME NAME", "LINKS", "SIZE"], *map(_volume_line, volumes)])
    size = sum(one.get("Size", 0) for one in usage.get("BuildCache") or [])
    print(f"\nBuild cache usage: {table.bytes_decimal(size)}\n")
    titles = ["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE"]
    table.align([[*titles, "SHARED"], *map(_cache_line, usage.get("BuildCache") or [])])


def _age(moment: str | float | None) -> str:
    return f"{table.age(table.since(moment))} ago" if moment else ""


def _image_line(image: Any) -> list[str]:
    name, _, tag = (image.get("RepoTags") or ["<none>:<none>"])[0].rpartition(":")
    size, shared = image.get("Size", 0), max(image.get("SharedSize", 0), 0)
    return [
        *(name, tag, table.short(image["Id"]), _age(image.get("Created"))),
        *(table.bytes_decimal(size, 3), table.bytes_decimal(shared)),
        *(table.bytes_decimal(size - shared), str(max(image.get("Containers", 0), 0))),
    ]


def _container_line(container: Any) -> list[str]:
    local = sum(mount.get("Driver") == "local" for mount in container.get("Mounts") or [])
    names = ",".join(name.removeprefix("/") for name in container.get("Names") or [])
    command = f'"{table.ellipsis(container.get("Command", ""), 20)}"'
    return [
        *(table.short(container["Id"]), container.get("Image", ""), command, str(local)),
        *(table.bytes_decimal(container.get("SizeRw") or 0, 3), _age(container.get("Created"))),
        *(container.get("Status", ""), names),
    ]


def _volume_line(volume: Any) -> list[str]:
    usage = volume.get("UsageData") or {}
    size = table.bytes_decimal(max(usage.get("Size", 0), 0))
    return [volume["Name"], str(usage.get("RefCount", 0)), size]


def _cache_line(entry: Any) -> list[str]:
    return [
        *(table.short(entry["ID"]), entry.get("Type", ""), table.bytes_decimal(entry["Size"])),
        *(_age(entry.get("CreatedAt")), _age(entry.get("LastUsedAt"))),
        *(str(entry.get("UsageCount", 0)), str(bool(entry.get("Shared"))).lower()),
    ]


def _configure_prune(parser: Parser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="all unused images")
    parser.add_argument("--volumes", action="store_true", help="anonymous volumes too")
    confirm.add_flags(parser)


def _prune(client: Client, args: Namespace) -> int:
    wanted = filters(args.filter)
    if args.volumes and "until" in wanted:
        raise ClientError('ERROR: The "until" filter is not supported with "--volumes"')
    images = "images without at least one container associated to them"
    goes = [
        "all stopped containers",
        "all networks not used by at least one container",
        *(["all anonymous volumes not used by at least one container"] if args.volumes else []),
        f"all {images if args.all else 'dangling images'}",
        "unused build cache",
    ]
    listed = "".join(f"  - {what}\n" for what in goes)
    if not confirm.confirmed(f"This will remove:\n{listed}", force=args.force):
        return 0
    dangling = {"dangling": {"false" if args.all else "true": True}}
    steps: list[tuple[str, str, dict[str, dict[str, bool]]]] = [
        ("containers", "Containers", wanted),
        ("networks", "Networks", wanted),
        *([("volumes", "Volumes", wanted)] if args.volumes else []),
        ("images", "Images", wanted | dangling),
    ]
    freed = 0
    for path, title, criteria in steps:
        answer = client.call("POST", f"/{path}/prune", query=filter_query(criteria))
        freed += answer.get("SpaceReclaimed", 0)
        deleted = answer.get(f"{title}Deleted") or []
        if deleted:
            print(f"Deleted {title}:")
            print("\n".join([*(_deleted(one) for one in deleted), ""]))
    answer = client.call("POST", "/build/prune", query={"all": "1"} if args.all else {})
    freed += answer.get("SpaceReclaimed", 0)
    print(f"Total reclaimed space: {table.bytes_decimal(freed)}")
    return 0


def _deleted(one: Any) -> str:
    if isinstance(one, str):
        return one
    return "\n".join(f"{kind.lower()}: {name}" for kind, name in one.items())


COMMANDS = {
    "df": Command("show what takes space on the disk", _configure, _df),
    "prune": Command("remove all that is not in use", _configure_prune, _prune),
}
