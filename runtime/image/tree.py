"""Trees of files to copy from: what is at a path, with symlinks resolved inside the tree."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import IO, Generic, Protocol, TypeVar

from runtime.image.errors import ImageError

_SYMLINKS_MAX = 40  # as path_resolution(7)


class Node(Protocol):
    """One name of a tree; `path` has no leading slash."""

    @property
    def path(self) -> str: ...
    @property
    def status(self) -> os.stat_result: ...
    @property
    def is_directory(self) -> bool: ...
    def open(self) -> IO[bytes]: ...
    def link(self) -> str: ...
    def xattrs(self) -> dict[str, bytes]: ...


_N = TypeVar("_N", bound=Node)


class Tree(ABC, Generic[_N]):
    """Nodes by path; a kind of tree says what its root and its directories hold."""

    @abstractmethod
    def root(self) -> _N | None:
        """The root directory; None where the tree is empty."""

    @abstractmethod
    def child(self, parent: _N, name: str) -> _N | None:
        """Look one name up in a directory, without following a symlink."""

    @abstractmethod
    def children(self, parent: _N) -> Iterator[_N]:
        """The entries of a directory, by name."""

    def locate(self, path: str) -> tuple[str, _N | None]:
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
            target = entry.link()
            todo += [item for item in reversed(target.split("/")) if item]
            if target.startswith("/"):
                real, trail = [], [self.root()]
        return "/".join(real), trail[-1]
