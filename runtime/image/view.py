"""Reads a stack of overlay layers as one tree, without mounting it.

Symlinks are resolved inside the tree, component by component; the host's own symlinks are never
followed, as every physical path looked at has only real directories above its last component.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runtime.image.durable import open_in_root
from runtime.image.pack import is_opaque, is_whiteout, read_xattrs
from runtime.image.tree import Tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class Entry:
    """One name of the merged tree; `directories` are the layers' parts of a directory."""

    path: str  # in the tree, without a leading slash
    physical: Path
    status: os.stat_result
    directories: tuple[Path, ...] = ()

    @property
    def is_directory(self) -> bool:
        """Tell a directory."""
        return stat.S_ISDIR(self.status.st_mode)

    def open(self) -> IO[bytes]:
        """Open a file for reading; raises OSError where it is none any more.

        The topmost layer may be a running container's, which swaps names while we look: a link
        that has come meanwhile ends inside the layer, a pipe is not waited for.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with self._parent() as (parent, name):
            fd = os.open(name, flags | os.O_CLOEXEC, dir_fd=parent)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "no regular file", self.path)
        return os.fdopen(fd, "rb")

    def link(self) -> str:
        """Where a symlink leads."""
        with self._parent() as (parent, name):
            return os.readlink(name, dir_fd=parent)

    def xattrs(self) -> dict[str, bytes]:
        """The attributes worth carrying in a layer."""
        if not self.path:
            return read_xattrs(str(self.physical))
        with self._parent() as (parent, name):
            return read_xattrs(f"/proc/self/fd/{parent}/{name}")

    @contextmanager
    def _parent(self) -> Iterator[tuple[int, str]]:
        """Open the directory it is in, inside its layer; yield that and its name."""
        layer = os.open(self.physical.parents[self.path.count("/")], _DIRECTORY)
        above, _, name = self.path.rpartition("/")
        try:
            parent = open_in_root(layer, above, os.O_PATH | os.O_DIRECTORY)
        finally:
            os.close(layer)
        try:
            yield parent, name
        finally:
            os.close(parent)


class LayeredView(Tree[Entry]):
    """The merged tree of directories, topmost first."""

    def __init__(self, layers: tuple[Path, ...]) -> None:
        self._layers = layers

    def root(self) -> Entry | None:  # type: ignore[explicit-override]  # 3.11 has none
        """The root directory; None where there is no layer."""
        if not self._layers:
            return None
        return Entry("", self._layers[0], self._layers[0].lstat(), self._layers)

    def child(self, parent: Entry, name: str) -> Entry | None:  # type: ignore[explicit-override]  # 3.11 has none
        """Look one name up in a directory, without following a symlink."""
        found: list[Path] = []
        for directory in parent.directories:
            physical = directory / name
            try:
                status = physical.lstat()
            except FileNotFoundError:
                if is_opaque(directory):
                    break
                continue
            if not stat.S_ISDIR(status.st_mode):
                if found or is_whiteout(status):
                    break
                return Entry(_join(parent.path, name), physical, status)
            found.append(physical)
            if is_opaque(physical) or is_opaque(directory):
                break
        if not found:
            return None
        return Entry(_join(parent.path, name), found[0], found[0].lstat(), tuple(found))

    def children(self, parent: Entry) -> Iterator[Entry]:  # type: ignore[explicit-override]  # 3.11 has none
        """The entries of a directory, by name."""
        names: set[str] = set()
        for directory in parent.directories:
            names.update(os.listdir(directory))
        for name in sorted(names):
            entry = self.child(parent, name)
            if entry is not None:
                yield entry


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name
