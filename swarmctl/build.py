"""build: the context as a tar, sent while it is read."""

import json
import os
import re
import stat
import tarfile
from argparse import Namespace
from collections.abc import Iterator

from swarmctl import flags
from swarmctl.command import Command, Parser
from swarmctl.errors import ClientError
from swarmctl.http import Client
from swarmctl.progress import follow

_CHUNK_BYTES = 1 << 18


def _configure(parser: Parser) -> None:
    add = parser.add_argument
    add("-t", "--tag", action="append", metavar="NAME[:TAG]")
    add("-f", "--file", metavar="DOCKERFILE", help="default PATH/Dockerfile")
    add("--build-arg", action="append", metavar="NAME=VALUE")
    add("--label", action="append", metavar="NAME=VALUE")
    add("--no-cache", action="store_true")
    add("--pull", action="store_true", help="ask for newer base images")
    add("--target", default="", metavar="STAGE")
    add("--network", default="", metavar="MODE")
    add("-q", "--quiet", action="store_true", help="only print the id")
    add("path", metavar="PATH")


def _build(client: Client, args: Namespace) -> int:
    root = os.path.abspath(args.path)
    if not os.path.isdir(root):
        raise ClientError(f"cannot build {args.path}: it is not a directory")
    dockerfile = os.path.abspath(args.file or os.path.join(root, "Dockerfile"))
    if not os.path.isfile(dockerfile):
        raise ClientError(f"cannot build: there is no Dockerfile at {dockerfile}")
    name = os.path.relpath(dockerfile, root)
    outside = name.startswith("..")
    if outside:
        name = ".dockerfile." + os.urandom(8).hex()
    extra = {name: dockerfile} if outside else {}
    ignored = Ignored(_ignore_lines(root, dockerfile), keep={name, ".dockerignore"})
    query = {"dockerfile": name, "version": "1", "rm": "1"}
    for flag, key in ((args.no_cache, "nocache"), (args.pull, "pull"), (args.quiet, "q")):
        if flag:
            query[key] = "1"
    if args.target:
        query["target"] = args.target
    if args.network:
        query["networkmode"] = args.network
    if args.build_arg:
        query["buildargs"] = json.dumps(flags.pairs(flags.environment(args.build_arg)))
    if args.label:
        query["labels"] = json.dumps(flags.pairs(args.label))
    tags = "&".join("t=" + _quoted(flags.with_tag(tag)) for tag in args.tag or [])
    response = client.request(
        "POST",
        "/build" + (f"?{tags}&" if tags else "?") + _encoded(query),
        content=context(root, ignored, extra),
        headers={"Content-Type": "application/x-tar"},
    )
    found = follow(response.objects(), quiet=args.quiet)
    if args.quiet and found:
        print(found[-1]["ID"])
    return 0


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def _encoded(query: dict[str, str]) -> str:
    from urllib.parse import urlencode

    return urlencode(query)


def _ignore_lines(root: str, dockerfile: str) -> list[str]:
    for path in (f"{dockerfile}.dockerignore", os.path.join(root, ".dockerignore")):
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().splitlines()
        except FileNotFoundError:
            continue
    return []


class Ignored:
    """The rules of a .dockerignore: the last one that matches a path or its parent decides.

    `*` and `?` stay within a name, `**` crosses them, `!` takes back. `keep` is always sent.
    """

    def __init__(self, lines: list[str], keep: set[str]) -> None:
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        self._keep = keep
        for line in lines:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            back = text.startswith("!")
            pattern = os.path.normpath(text.lstrip("!").strip()).lstrip("/")
            if pattern != ".":
                self._rules.append((re.compile(_expression(pattern)), back))

    @property
    def takes_back(self) -> bool:
        """Say whether something inside an ignored folder may be wanted."""
        return any(back for _, back in self._rules)

    def __contains__(self, path: str) -> bool:
        if path in self._keep:
            return False
        ignored = False
        for expression, back in self._rules:
            if expression.fullmatch(path):
                ignored = not back
        return ignored


def _expression(pattern: str) -> str:
    parts: list[str] = []
    for piece in re.findall(r"\*\*/?|\*|\?|\[[^\]]*\]|\\.|.", pattern):
        if piece.startswith("**"):
            parts.append("(?:.*/)?" if piece.endswith("/") else ".*")
        elif piece == "*":
            parts.append("[^/]*")
        elif piece == "?":
            parts.append("[^/]")
        elif piece.startswith("[") and len(piece) > 2:
            parts.append(piece)
        else:
            parts.append(re.escape(piece.removeprefix("\\") or piece))
    return "".join(parts) + "(?:/.*)?"


def context(root: str, ignored: Ignored, extra: dict[str, str]) -> Iterator[bytes]:
    """Yield a tar of a folder in sorted order, owned by root as Docker's builder wants it.

    `extra` adds files under other names. Sockets are left out.
    """
    for name, path in [*_walk(root, ignored), *extra.items()]:
        yield from _member(name, path)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _walk(root: str, ignored: Ignored) -> Iterator[tuple[str, str]]:
    for folder, folders, files in os.walk(root):
        inside = os.path.relpath(folder, root)
        prefix = "" if inside == "." else inside + "/"
        folders.sort()
        for name in sorted(folders + files):
            if prefix + name not in ignored:
                yield prefix + name, os.path.join(folder, name)
        if not ignored.takes_back:
            folders[:] = [name for name in folders if prefix + name not in ignored]


def _member(name: str, path: str) -> Iterator[bytes]:
    try:
        status = os.lstat(path)
        info = tarfile.TarInfo(name)
        info.mode = stat.S_IMODE(status.st_mode)
        info.mtime = int(status.st_mtime)
        if stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
        elif stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISREG(status.st_mode):
            info.size = status.st_size
        elif stat.S_ISFIFO(status.st_mode):
            info.type = tarfile.FIFOTYPE
        else:
            return
        yield info.tobuf(tarfile.PAX_FORMAT)
        if info.isreg():
            yield from _content(path, info.size)
    except OSError as error:
        raise ClientError(f"cannot read {path}: {(error.strerror or '').lower()}") from error


def _content(path: str, size: int) -> Iterator[bytes]:
    """Yield a file's first `size` bytes, filled to a whole block; refuse one that shrank."""
    left = size
    with open(path, "rb") as file:
        while left:
            data = file.read(min(left, _CHUNK_BYTES))
            if not data:
                raise ClientError(f"cannot send {path}: it became shorter while it was read")
            left -= len(data)
            yield data
    if size % tarfile.BLOCKSIZE:
        yield bytes(tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE)


COMMANDS = {"build": Command("build an image of a Dockerfile", _configure, _build)}
