"""Walks a tree that changes meanwhile, by descriptor: nothing outside of its root is looked at."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from runtime.image.durable import open_in_root

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def directories(root_fd: int) -> Iterator[tuple[str, int, dict[str, os.stat_result]]]:
    """Yield each directory before those in it: path, descriptor until the next, what it holds.

    Paths have no leading slash, the root's is empty. What is removed or replaced by something else
    before its turn is left out.
    """
    todo = [""]
    while todo:
        path = todo.pop()
        try:
            fd = open_in_root(root_fd, path, _DIRECTORY)
        except OSError as error:
            if error.errno in _GONE:
                continue
            raise
        try:
            held = _held(fd)
            yield path, fd, held
        finally:
            os.close(fd)
        prefix = f"{path}/" if path else ""
        todo += [prefix + name for name, status in held.items() if stat.S_ISDIR(status.st_mode)]


def _held(fd: int) -> dict[str, os.stat_result]:
    held = {}
    for name in os.listdir(fd):
        try:
            held[name] = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
    return held
