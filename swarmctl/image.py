"""image: images, load, save, tag, rmi, inspect."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from swarmctl import table
from swarmctl.command import Command, Parser, each, warn
from swarmctl.errors import ClientError, DaemonError
from swarmctl.flags import filter_query, filters, platform, platform_query, with_tag
from swarmctl.http import Client, segment
from swarmctl.progress import follow

_COLUMNS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "Size": "SIZE",
}
_CHUNK_BYTES = 1 << 18
_NONE = "<none>"
_NOT_ASKED = "N/A"


def _configure_ls(parser: Parser) -> None:
    table.add_list_flags(parser)
    parser.add_argument("-a", "--all", action="store_true", help="with intermediate images")
    parser.add_argument("--digests", action="store_true")
    parser.add_argument("reference", nargs="?", metavar="REPOSITORY[:TAG]")


def _ls(client: Client, args: Namespace) -> int:
    wanted = filters(args.filter)
    if args.reference:
        wanted.setdefault("reference", {})[args.reference] = True
    query = filter_query(wanted)
    if args.all:
        query["all"] = "1"
    images = client.call("GET", "/images/json", query=query)
    rows = [
        row for image in images for row in _rows(image, whole=args.no_trunc, digests=args.digests)
    ]
    if args.quiet and not args.format:
        for identity in dict.fromkeys(row["ID"] for row in rows):
            print(identity)
        return 0
    columns = dict(_COLUMNS)
    if args.digests:
        columns = {"Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", **columns}
    table.show(rows, columns, args.format)
    return 0


def _rows(image: Any, *, whole: bool, digests: bool) -> Iterator[table.Row]:
    """Yield a row per tag; an image without tags has one with `<none>`."""
    known = dict(item.partition("@")[::2] for item in image.get("RepoDigests") or [])
    tags = [tag for tag in image.get("RepoTags") or [] if not tag.startswith(_NONE)]
    names = [tag.rpartition(":")[::2] for tag in tags]
    if not names:
        names = [(name, _NONE) for name in known] if digests and known else [(_NONE, _NONE)]
    for repository, tag in names:
        yield {
            "Repository": repository,
            "Tag": tag,
            "Digest": known.get(repository, _NONE),
            "ID": table.short(image["Id"], whole=whole),
            "CreatedAt": table.stamp(image.get("Created", 0)),
            "CreatedSince": f"{table.age(table.since(image.get('Created', 0)))} ago",
            "Size": table.bytes_decimal(image.get("Size", 0), 3),
            "VirtualSize": table.bytes_decimal(image.get("Size", 0)),
            "SharedSize": _known(image.get("SharedSize", -1), table.bytes_decimal),
            "UniqueSize": _NOT_ASKED,
            "Containers": _known(image.get("Containers", -1), str),
        }


def _known(number: int, spelled: Callable[[int], str]) -> str:
    return _NOT_ASKED if number < 0 else spelled(number)


def _configure_load(parser: Parser) -> None:
    parser.add_argument("-i", "--input", metavar="FILE", help="default stdin")
    parser.add_argument("--platform", type=platform, metavar="OS/ARCH", help="only of this one")
    parser.add_argument("-q", "--quiet", action="store_true")


def _load(client: Client, args: Namespace) -> int:
    query = {"quiet": "1" if args.quiet else "0", **platform_query(args.platform)}
    if args.input is None:
        if sys.stdin.isatty():
            raise ClientError("requested load from stdin, but stdin is empty: use -i FILE")
        return send(client, "/images/load", sys.stdin.buffer, query)
    try:
        with open(args.input, "rb") as file:
            return send(client, "/images/load", file, query)
    except OSError as error:
        raise ClientError(f"cannot read {args.input}: {(error.strerror or '').lower()}") from error


def send(client: Client, url: str, file: BinaryIO, query: Mapping[str, str] | None = None) -> int:
    """Send an archive and show the progress that is told."""
    response = client.request(
        "POST",
        url,
        query=query,
        content=iter(lambda: file.read(_CHUNK_BYTES), b""),
        headers={"Content-Type": "application/x-tar"},
    )
    follow(response.objects())
    return 0


def _configure_save(parser: Parser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="default stdout")
    parser.add_argument("--platform", type=platform, metavar="OS/ARCH", help="only of this one")
    parser.add_argument("images", nargs="+", metavar="IMAGE")


def _save(client: Client, args: Namespace) -> int:
    if args.output is None and sys.stdout.isatty():
        raise ClientError("cowardly refusing to save to a terminal: use -o FILE or redirect")
    query = "&".join(f"names={segment(name)}" for name in args.images)
    query += "".join(
        f"&platform={segment(text)}" for text in platform_query(args.platform).values()
    )
    response = client.request("GET", f"/images/get?{query}")
    if args.output is None:
        for chunk in response.chunks():
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return 0
    partial = f"{args.output}.part{os.getpid()}"
    try:
        with open(partial, "wb") as file:
            for chunk in response.chunks():
                file.write(chunk)
        os.replace(partial, args.output)
    except OSError as error:
        raise ClientError(
            f"cannot write {args.output}: {(error.strerror or '').lower()}"
        ) from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    return 0


def _configure_tag(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE_IMAGE")
    parser.add_argument("target", metavar="TARGET_IMAGE")


def _tag(client: Client, args: Namespace) -> int:
    repository, _, tag = with_tag(args.target).rpartition(":")
    query = {"repo": repository, "tag": tag}
    client.call("POST", f"/images/{segment(args.source)}/tag", query=query)
    return 0


def _configure_rm(parser: Parser) -> None:
    parser.add_argument("-f", "--force", action="store_true")
    parser.add_argument("--no-prune", action="store_true", help="keep untagged parents")
    parser.add_argument("--platform", type=platform, action="append", metavar="OS/ARCH")
    parser.add_argument("images", nargs="+", metavar="IMAGE")


def _rm(client: Client, args: Namespace) -> int:
    from urllib.parse import urlencode

    switches = (("force", args.force), ("noprune", args.no_prune))
    asked = [(name, "1") for name, wanted in switches if wanted]
    query = urlencode([*asked, *(("platforms", text) for text in args.platform or ())])

    def remove(name: str) -> None:
        try:
            gone = client.call("DELETE", f"/images/{segment(name)}?{query}".rstrip("?"))
        except DaemonError as error:
            if not args.force or error.status != 404:
                raise
            warn(str(error))  # gone is what was wanted
            return
        for item in gone:
            for kind in ("Untagged", "Deleted"):
                if kind in item:
                    print(f"{kind}: {item[kind]}")

    return each(args.images, remove)


def _configure_inspect(parser: Parser) -> None:
    parser.add_argument("-f", "--format")
    parser.add_argument("--platform", type=platform, metavar="OS/ARCH", help="only of this one")
    parser.add_argument("images", nargs="+", metavar="IMAGE")


def _inspect(client: Client, args: Namespace) -> int:
    query = platform_query(args.platform)
    return table.inspect("/images/{}/json", client, args.images, args.format, "image", **query)


COMMANDS = {
    "images": Command("list images", _configure_ls, _ls),
    "ls": Command("list images", _configure_ls, _ls),
    "load": Command("read images from a tar", _configure_load, _load),
    "save": Command("write images to a tar", _configure_save, _save),
    "tag": Command("give an image another name", _configure_tag, _tag),
    "rmi": Command("remove images", _configure_rm, _rm),
    "rm": Command("remove images", _configure_rm, _rm),
    "inspect": Command("show images in full", _configure_inspect, _inspect),
}
