"""build: an image of a Dockerfile and a folder, a tar or nothing but the Dockerfile."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from swarmctl import flags
from swarmctl.command import Command, Parser
from swarmctl.credentials import build_header
from swarmctl.errors import ClientError
from swarmctl.http import Client
from swarmctl.progress import follow

_CHUNK_BYTES = 1 << 18
_TAR_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_NUMBERS = {
    "memory": "memory",
    "memory_swap": "memswap",
    "cpu_shares": "cpushares",
    "cpu_period": "cpuperiod",
    "cpu_quota": "cpuquota",
    "shm_size": "shmsize",
}
_TEXTS = {
    "target": "target",
    "network": "networkmode",
    "platform": "platform",
    "cpuset_cpus": "cpusetcpus",
    "cpuset_mems": "cpusetmems",
}
_SWITCHES = {
    "no_cache": "nocache",
    "pull": "pull",
    "quiet": "q",
    "squash": "squash",
    "force_rm": "forcerm",
}


def _configure(parser: Parser) -> None:
    add = parser.add_argument
    add("-t", "--tag", action="append", metavar="NAME[:TAG]")
    add("-f", "--file", metavar="DOCKERFILE", help="default PATH/Dockerfile; - is stdin")
    add("--build-arg", action="append", metavar="NAME=VALUE")
    add("--label", action="append", metavar="NAME=VALUE")
    add("--cache-from", action="append", metavar="IMAGE", help="whose steps count as made")
    add("--no-cache", action="store_true")
    add("--pull", action="store_true", help="ask for newer base images")
    add("--squash", action="store_true", help="make one layer of all steps")
    add("--force-rm", action="store_true", help="as always: no step leaves a container")
    add("--rm", action="store_true", default=True, help="as always")
    add("--target", default="", metavar="STAGE")
    add("--network", default="", metavar="MODE")
    add("--platform", default="", metavar="OS/ARCH")
    add("--add-host", action="append", metavar="NAME:ADDRESS")
    add("--ulimit", action="append", type=flags.ulimit)
    add("--security-opt", action="append")
    add("--shm-size", type=flags.size)
    add("-m", "--memory", type=flags.size)
    add("--memory-swap", type=_swap)
    add("-c", "--cpu-shares", type=flags.count)
    add("--cpu-period", type=flags.count)
    add("--cpu-quota", type=int)
    add("--cpuset-cpus", default="")
    add("--cpuset-mems", default="")
    add("--iidfile", metavar="FILE", help="write the id there")
    add("-q", "--quiet", action="store_true", help="only print the id")
    add("path", metavar="PATH|-")


def _swap(text: str) -> int:
    return -1 if text == "-1" else flags.size(text)


def _build(client: Client, args: Namespace) -> int:
    from urllib.parse import urlencode

    dockerfile, content = _content(args)
    query = _query(args, dockerfile)
    response = client.request(
        "POST",
        "/build?" + urlencode(query),
        content=content,
        headers={"Content-Type": "application/x-tar", **build_header()},
    )
    found = follow(response.objects())
    if args.iidfile and found:
        try:
            with open(args.iidfile, "w", encoding="ascii") as file:
                file.write(found[-1]["ID"])
        except OSError as error:
            raise ClientError(f"cannot write {args.iidfile}: {error.strerror}") from error
    return 0


def _query(args: Namespace, dockerfile: str) -> list[tuple[str, str]]:
    import json

    def compact(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"))

    query = [("dockerfile", dockerfile), ("version", "1"), ("rm", str(int(args.rm)))]
    query += [(key, "1") for name, key in _SWITCHES.items() if getattr(args, name)]
    for names in (_NUMBERS, _TEXTS):
        given = ((key, getattr(args, name)) for name, key in names.items())
        query += [(key, str(value)) for key, value in given if value not in (None, "")]
    if args.build_arg:
        query.append(("buildargs", compact(flags.pairs(flags.environment(args.build_arg)))))
    if args.label:
        query.append(("labels", compact(flags.pairs(args.label))))
    if args.cache_from:
        query.append(("cachefrom", compact(args.cache_from)))
    if args.ulimit:
        query.append(("ulimits", compact(args.ulimit)))
    query += [("extrahosts", host) for host in args.add_host or []]
    query += [("securityopt", option) for option in args.security_opt or []]
    return query + [("t", flags.with_tag(tag)) for tag in args.tag or []]


def _content(args: Namespace) -> tuple[str, Iterator[bytes]]:
    """Return the Dockerfile's name in the context and the context as a tar."""
    from swarmctl.context import Ignored, context, ignore_lines

    if args.path == "-":
        return _standard_input(args)
    if "://" in args.path:
        raise ClientError(f"cannot build {args.path}: fetch it and give its folder")
    root = os.path.abspath(args.path)
    if not os.path.isdir(root):
        raise ClientError(f"cannot build {args.path}: it is not a directory")
    if args.file == "-":
        name = ".dockerfile." + os.urandom(8).hex()
        ignored = Ignored(ignore_lines(root, name), keep={".dockerignore"})
        return name, context(root, ignored, {}, {name: sys.stdin.buffer.read()})
    dockerfile = os.path.abspath(args.file or os.path.join(root, "Dockerfile"))
    if not os.path.isfile(dockerfile):
        raise ClientError(f"cannot build: there is no Dockerfile at {dockerfile}")
    name = os.path.relpath(dockerfile, root)
    outside = name.startswith("..")
    if outside:
        name = ".dockerfile." + os.urandom(8).hex()
    ignored = Ignored(ignore_lines(root, dockerfile), keep={name, ".dockerignore"})
    return name, context(root, ignored, {name: dockerfile} if outside else {})


def _standard_input(args: Namespace) -> tuple[str, Iterator[bytes]]:
    """The context on standard input: a tar as it is, anything else is a Dockerfile."""
    from swarmctl.context import single

    if args.file == "-":
        raise ClientError("invalid argument: can't use stdin for both build context and dockerfile")
    head = sys.stdin.buffer.read(512)
    if head.startswith(_TAR_MAGICS) or head[257:262] == b"ustar":
        return args.file or "Dockerfile", _rest(head)
    if args.file:
        raise ClientError("ambiguous Dockerfile source: both stdin and flag correspond to one")
    return "Dockerfile", single("Dockerfile", head + sys.stdin.buffer.read())


def _rest(head: bytes) -> Iterator[bytes]:
    yield head
    while chunk := sys.stdin.buffer.read(_CHUNK_BYTES):
        yield chunk


COMMANDS = {"build": Command("build an image of a Dockerfile", _configure, _build)}
