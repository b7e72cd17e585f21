"""The members of a tar as a tree, without unpacking it: how a build sees its context.

Names and links mean what they mean when the tar is unpacked: a later member replaces an earlier
one, a name that goes through a symlink ends where the link leads, inside the tree.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, cast

from runtime.image.bounds import DEFAULT_LIMITS, UnpackLimits
from runtime.image.errors import BadArchive
from runtime.image.tarstream import decompress, mtime_ns, open_archive, xattrs
from runtime.image.tree import Tree
from runtime.image.unpack import clean_name

_CHUNK_BYTES = 1 << 20
_KINDS = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


@contextmanager
def open_tree(
    file: IO[bytes], temporary: Path, limits: UnpackLimits = DEFAULT_LIMITS
) -> Iterator[TarTree]:
    """Open the tree of a tar in a file, plain or compressed; raises BadArchive."""
    file.seek(0)
    plain, compression = decompress(file, limits)
    if compression == "none":
        yield TarTree(file, limits)
        return
    with tempfile.TemporaryFile(dir=temporary) as spool:
        while chunk := plain.read(_CHUNK_BYTES):
            spool.write(chunk)
        yield TarTree(spool, limits)


@dataclass
class TarNode:
    """One name; `member` is None for a directory nothing describes."""

    path: str
    tar: tarfile.TarFile
    member: tarfile.TarInfo | None = None
    names: dict[str, TarNode] = field(default_factory=dict)

    @property
    def status(self) -> os.stat_result:
        """What lstat would say of the unpacked member."""
        if self.member is None:
            return os.stat_result((stat.S_IFDIR | 0o755, 0, 0, 1, 0, 0, 0, 0, int(time.time()), 0))
        member = self.member
        mode = _KINDS.get(member.type, stat.S_IFREG) | (member.mode & 0o7777)
        mtime_s = mtime_ns(member) // 1_000_000_000
        owner = (member.uid, member.gid)
        return os.stat_result((mode, 0, 0, 1, *owner, member.size, mtime_s, mtime_s, mtime_s))

    @property
    def is_directory(self) -> bool:
        """Tell a directory."""
        return self.member is None or self.member.isdir()

    def open(self) -> IO[bytes]:
        """Open a file for reading; raises BadArchive where its content is cut short."""
        if self.member is None or not self.member.size:
            return io.BytesIO()
        file = self.tar.extractfile(self.member)
        if file is None:
            raise BadArchive(f"tar member {self.path!r} has no content")
        return file

    def link(self) -> str:
        """Where a symlink leads."""
        return self.member.linkname if self.member else ""

    def xattrs(self) -> dict[str, bytes]:
        """The attributes worth carrying in a layer."""
        found = xattrs(self.member) if self.member else {}
        return {
            key: value
            for key, value in found.items()
            if key.startswith(("user.", "security.capability"))
            and not key.startswith("user.overlay.")
        }


class TarTree(Tree[TarNode]):
    """A plain tar in an open file, which stays open as long as the tree is used."""

    def __init__(self, file: IO[bytes], limits: UnpackLimits = DEFAULT_LIMITS) -> None:
        """Read the headers; raises BadArchive as unpacking would."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            self._root = TarNode("", cast("tarfile.TarFile", None))
            return
        file.seek(0)
        try:
            self._tar = open_archive(cast("IO[bytes]", _Padded(file, size)))
            self._root = TarNode("", self._tar)
            self._fill(limits, size)
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            raise BadArchive(f"damaged tar stream: {error}") from error

    def root(self) -> TarNode | None:  # type: ignore[explicit-override]  # 3.11 has none
        return self._root

    def child(self, parent: TarNode, name: str) -> TarNode | None:  # type: ignore[explicit-override]  # 3.11 has none
        return parent.names.get(name)

    def children(self, parent: TarNode) -> Iterator[TarNode]:  # type: ignore[explicit-override]  # 3.11 has none
        for name in sorted(parent.names):
            yield parent.names[name]

    def _fill(self, limits: UnpackLimits, size: int) -> None:
        total = 0
        for count, member in enumerate(self._tar, 1):
            total += member.size if member.isreg() else 0
            if count > limits.entries or total > limits.size_bytes:
                raise BadArchive("tar has too many members or bytes")
            if member.issparse() and member.size > limits.ratio_from_bytes:
                raise BadArchive("tar has sparse files of too many bytes")
            if member.isreg() and not member.issparse() and member.offset_data + member.size > size:
                raise BadArchive("damaged tar stream: unexpected end of data")
            if len(os.fsencode(member.name)) > limits.path_bytes or "\0" in member.name:
                raise BadArchive(f"tar member name is not a path: {member.name[:64]!r}")
            if "\0" in member.linkname:
                raise BadArchive(f"tar member {member.name!r} links to what is no path")
            self._add(member)

    def _add(self, member: tarfile.TarInfo) -> None:
        parts = clean_name(member.name)
        if not parts:
            self._root.member = member if member.isdir() else None
            return
        parent = self._directory(parts[:-1], member.name)
        path = posixpath.join(parent.path, parts[-1])
        before = parent.names.get(parts[-1])
        if member.islnk():
            target = clean_name(member.linkname)
            there = self._directory(target[:-1], member.name) if target else None
            linked = there.names.get(target[-1]) if there else None
            if linked is None or linked.is_directory:
                raise BadArchive(f"hard link {member.name!r} leads to no file")
            parent.names[parts[-1]] = replace(linked, path=path)
        elif member.isdir() and before is not None and before.is_directory:
            before.member = member
        elif member.isreg() or member.type in _KINDS:
            parent.names[parts[-1]] = TarNode(path, self._tar, member)
        else:
            raise BadArchive(f"tar member {member.name!r} is a device or of unknown type")

    def _directory(self, parts: tuple[str, ...], name: str) -> TarNode:
        """The directory at a path, through symlinks, made where it is missing."""
        node = self._root
        for depth, part in enumerate(parts, 1):
            found = node.names.get(part)
            if found is not None and stat.S_ISLNK(found.status.st_mode):
                found = self.locate("/".join(parts[:depth]))[1]
                if found is None:
                    raise BadArchive(f"tar member {name!r} goes through a link to nowhere")
            if found is None:
                found = TarNode(posixpath.join(node.path, part), self._tar)
                node.names[part] = found
            if not found.is_directory:
                raise BadArchive(f"tar member {name!r} goes through a file")
            node = found
        return node


class _Padded:
    """A file whose last block is filled with zeros: docker's `build -f -` does not pad."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self._end = size + -size % tarfile.BLOCKSIZE
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes."""
        size = self._end - self._at if size < 0 else max(0, min(size, self._end - self._at))
        self._file.seek(min(self._at, self._size))
        data = self._file.read(size).ljust(size, b"\0")
        self._at += size
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Where we are."""
        return self._at
