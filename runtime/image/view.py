"""Reads a stack of overlay layers as one tree, without mounting it.

Symlinks are resolved inside the tree, component by component; the host's own symlinks are never
followed, as every physical path looked at has only real directories above its last component.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.image.errors import ImageError
from runtime.image.pack import is_opaque, is_whiteout

_SYMLINKS_MAX = 40  # as path_resolution(7)


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


class LayeredView:
    """The merged tree of directories, topmost first."""

    def __init__(self, layers: tuple[Path, ...]) -> None:
        self._layers = layers

    def root(self) -> Entry | None:
        """The root directory; None where there is no layer."""
        if not self._layers:
            return None
        return Entry("", self._layers[0], self._layers[0].lstat(), self._layers)

    def child(self, parent: Entry, name: str) -> Entry | None:
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

    def children(self, parent: Entry) -> Iterator[Entry]:
        """The entries of a directory, by name."""
        names: set[str] = set()
        for directory in parent.directories:
            names.update(os.listdir(directory))
        for name in sorted(names):
            entry = self.child(parent, name)
            if entry is not None:
                yield entry

    def locate(self, path: str) -> tuple[str, Entry | None]:
        """Follow a path with its symlinks; return its real path and what is there, if anything.

        Raises ImageError for a loop of symlinks or a file used as a directory.
        """
        todo = [part for part in reversed(path.split("/")) if part]
        trail = [self.root()]
        real: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == ".":
                continue
            if part == "..":
                if real:
                    real.pop()
                    trail.pop()
                continue
            here = trail[-1]
            if here is not None and not here.is_directory:
                raise ImageError(f"{here.path!r} is not a directory")
            entry = self.child(here, part) if here is not None else None
            if entry is None or not stat.S_ISLNK(entry.status.st_mode):
                real.append(part)
                trail.append(entry)
                continue
            links += 1
            if links > _SYMLINKS_MAX:
                raise ImageError(f"{path!r} has too many levels of symbolic links")
            target = os.readlink(entry.physical)
            todo += [item for item in reversed(target.split("/")) if item]
            if target.startswith("/"):
                real, trail = [], [self.root()]
        return "/".join(real), trail[-1]


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name
