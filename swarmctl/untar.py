"""Unpacks a daemon's tar below a directory that nothing in the tar can leave.

A container chose the names and links: every parent is opened without following a symlink, and
the last component is made anew. Device nodes are refused.
"""

import contextlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from typing import IO, cast

from swarmctl.errors import ClientError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ChunkReader:
    """Reads like a file what comes in chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Return exactly `size` bytes, fewer only at the end."""
        parts = [self._rest]
        held = len(self._rest)
        while (size < 0 or held < size) and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            held += len(chunk)
        data = b"".join(parts)
        self._rest = data[size:] if size >= 0 else b""
        return data[:size] if size >= 0 else data


def unpack(source: ChunkReader, directory: str, name: str, *, owners: bool) -> None:
    """Unpack below a directory; the first component of every name becomes `name`, unless empty.

    Raises ClientError for a member that would leave it or cannot be made.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", source), mode="r|") as tar:
            for member in tar:
                _add(tar, member, root, name, owners=owners)
    except tarfile.TarError as error:
        raise ClientError(f"the daemon's archive is damaged: {error}") from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise ClientError(
            f"cannot write{where}: {(error.strerror or str(error)).lower()}"
        ) from error
    finally:
        os.close(root)


def _add(
    tar: tarfile.TarFile, member: tarfile.TarInfo, root: int, name: str, *, owners: bool
) -> None:
    parts = _renamed(member.name, name)
    if not parts:
        return  # the directory itself
    with _parent(root, parts) as parent:
        leaf = parts[-1]
        if member.isdir():
            _directory(parent, leaf, member)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leaf, dir_fd=parent)
            _leaf(tar, member, root, parent, leaf, name)
        if owners and os.geteuid() == 0:
            os.chown(leaf, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if not member.issym():
            os.chmod(leaf, member.mode & 0o7777, dir_fd=parent)
        if not member.isdir():
            os.utime(leaf, (member.mtime,) * 2, dir_fd=parent, follow_symlinks=False)


def _renamed(member: str, name: str) -> list[str]:
    parts = [part for part in member.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ClientError(f"the daemon's archive names {member!r}: refused")
    own = member.startswith("./") or member in (".", "")
    if not name or name == "." or (own and not parts):
        return parts
    return [name, *parts] if own else [name, *parts[1:]]


@contextlib.contextmanager
def _parent(root: int, parts: list[str]) -> Iterator[int]:
    fd = os.dup(root)
    try:
        for part in parts[:-1]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
            deeper = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        yield fd
    finally:
        os.close(fd)


def _directory(parent: int, leaf: str, member: tarfile.TarInfo) -> None:
    try:
        os.mkdir(leaf, 0o700, dir_fd=parent)
    except FileExistsError:
        os.close(os.open(leaf, _DIRECTORY, dir_fd=parent))  # a link is no directory


def _leaf(
    tar: tarfile.TarFile, member: tarfile.TarInfo, root: int, parent: int, leaf: str, name: str
) -> None:
    if member.issym():
        os.symlink(member.linkname, leaf, dir_fd=parent)
    elif member.islnk():
        target = _renamed(member.linkname, name)
        with _parent(root, target) as other:
            os.link(target[-1], leaf, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
    elif member.isfifo():
        os.mkfifo(leaf, 0o600, dir_fd=parent)
    elif member.isfile():
        content = tar.extractfile(member)
        with os.fdopen(os.open(leaf, _NEW_FILE, 0o600, dir_fd=parent), "wb") as file:
            shutil.copyfileobj(cast("IO[bytes]", content), file, 1 << 20)
    else:
        raise ClientError(f"the daemon's archive holds a device, {member.name!r}: refused")
