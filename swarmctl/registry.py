"""image: pull, push."""

import sys
from argparse import Namespace

from swarmctl.command import Command, Parser
from swarmctl.credentials import HUB, header_for, registry_of
from swarmctl.errors import ClientError
from swarmctl.flags import platform, platform_query, with_tag
from swarmctl.http import Client, segment
from swarmctl.progress import follow


def pull(
    client: Client,
    image: str,
    *,
    quiet: bool = False,
    to_stderr: bool = True,
    platform: str = "",
    all_tags: bool = False,
) -> None:
    """Fetch an image, showing progress; raises ClientError where that fails."""
    query = {"fromImage": image}
    if not all_tags:
        name, at, digest = image.partition("@")
        repository, _, tag = with_tag(image).rpartition(":")
        query = {"fromImage": name, "tag": digest} if at else {"fromImage": repository, "tag": tag}
    if platform:
        query["platform"] = platform
    response = client.request("POST", "/images/create", query=query, headers=header_for(image))
    follow(response.objects(), quiet=quiet, out=sys.stderr if to_stderr else None)


def _add_transfer_flags(parser: Parser, what: str) -> None:
    parser.add_argument("-a", "--all-tags", action="store_true", help=f"{what} all tagged images")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.add_argument("image", metavar="NAME[:TAG|@DIGEST]")


def _configure_pull(parser: Parser) -> None:
    _add_transfer_flags(parser, "download")
    parser.add_argument("--platform", default="", help="os/arch[/variant] of a many-platform image")


def _named(args: Namespace) -> str:
    """Return what a transfer is about, saying which tag is meant where none is given."""
    tagged = "@" in args.image or ":" in args.image.rpartition("/")[2]
    if args.all_tags:
        if tagged:
            raise ClientError("tag can't be used with --all-tags/-a")
        return str(args.image)
    if not tagged and not args.quiet:
        print("Using default tag: latest")
    return with_tag(args.image)


def _canonical(image: str) -> str:
    """Return an image's name with Docker Hub's parts, as `docker pull` ends with."""
    if registry_of(image) != HUB or image.startswith("docker.io/"):
        return image
    return f"docker.io/{image if '/' in image else 'library/' + image}"


def _pull(client: Client, args: Namespace) -> int:
    name = _named(args)
    pull(
        client,
        name,
        quiet=args.quiet,
        to_stderr=False,
        platform=args.platform,
        all_tags=args.all_tags,
    )
    print(_canonical(name))
    return 0


def _configure_push(parser: Parser) -> None:
    _add_transfer_flags(parser, "push")
    parser.add_argument("--platform", type=platform, metavar="OS/ARCH", help="only of this one")


def _push(client: Client, args: Namespace) -> int:
    name = _named(args)
    if "@" in name:
        raise ClientError("cannot push a digest reference: name a tag")
    query = platform_query(args.platform)
    path = name
    if not args.all_tags:
        path, _, query["tag"] = name.rpartition(":")
    response = client.request(
        "POST", f"/images/{segment(path)}/push", query=query, headers=header_for(name)
    )
    follow(response.objects(), quiet=args.quiet)
    if args.quiet:
        print(_canonical(name))
    return 0


COMMANDS = {
    "pull": Command("fetch an image", _configure_pull, _pull),
    "push": Command("publish an image", _configure_push, _push),
}
