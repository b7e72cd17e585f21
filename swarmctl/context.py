"""The folder of a build as a tar, without what .dockerignore names, sent while it is read."""

import os
import re
import stat
import tarfile
from collections.abc import Iterator

from swarmctl.errors import ClientError

_CHUNK_BYTES = 1 << 18


def ignore_lines(root: str, dockerfile: str) -> list[str]:
    """Return the lines of the Dockerfile's own ignore file, else of the folder's."""
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


def context(
    root: str, ignored: Ignored, extra: dict[str, str], texts: dict[str, bytes] | None = None
) -> Iterator[bytes]:
    """Yield a tar of a folder in sorted order, owned by root as Docker's builder wants it.

    `extra` adds files under other names, `texts` such that are in memory. Sockets are left out.
    """
    for name, path in [*_walk(root, ignored), *extra.items()]:
        yield from _member(name, path)
    for name, content in (texts or {}).items():
        yield _text(name, content)
    yield bytes(2 * tarfile.BLOCKSIZE)


def single(name: str, content: bytes) -> Iterator[bytes]:
    """Yield a tar of one file."""
    yield _text(name, content)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _text(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o600
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.PAX_FORMAT) + content + padding


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
