"""The vfs storage driver: a container's root is a copy of its image, where overlayfs cannot be.

What a container changed is told by the inode change times: a mark is made when the copy is done,
and whatever is younger was changed. Nothing in a container can set those times.
"""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from runtime.image.durable import open_in_root
from runtime.image.pack import TarWriter, describe, read_xattrs, tree_prefixes
from runtime.image.squash import merge
from runtime.image.unpack import LAYER, WHITEOUT_PREFIX, unpack
from runtime.image.view import Entry, LayeredView
from runtime.image.walking import directories

MARK = "copied"
_TICK_S = 0.02
"""Longer than the kernel's step of file times."""

MODIFIED, ADDED, DELETED = 0, 1, 2


class Difference(NamedTuple):
    """A path (without a leading slash) and what happened to it; `entry` is None where deleted."""

    path: str
    kind: int
    entry: Entry | None


def is_copied(root: Path) -> bool:
    """Tell whether `root` is a copy, and not an overlay's upper directory."""
    return (root.parent / MARK).exists()


def lower_of(root: Path) -> tuple[Path, ...]:
    """Return the layers that a copy was made from, topmost first."""
    return tuple(Path(path) for path in json.loads((root.parent / MARK).read_text()))


def make_copy(lower: tuple[Path, ...], root: Path) -> None:
    """Fill an empty directory with the merged layers, topmost first, unless that is done."""
    mark = root.parent / MARK
    if mark.exists():
        return
    if lower:
        with tempfile.TemporaryFile(dir=root.parent) as spool:
            merge(lower, spool)
            spool.seek(0)
            unpack(spool, root, LAYER)
    time.sleep(_TICK_S)
    temporary = mark.with_suffix(".new")
    temporary.write_text(json.dumps([str(path) for path in lower]))
    temporary.rename(mark)
    time.sleep(_TICK_S)


def differences(root: Path) -> list[Difference]:
    """Compare a copy with the layers it was made from."""
    mark = root.parent / MARK
    made_ns = mark.stat().st_mtime_ns
    below = LayeredView(lower_of(root))
    befores: dict[str, Entry | None] = {"": below.root()}
    found: list[Difference] = []
    with _opened(root) as root_fd:
        for path, _, held in directories(root_fd):
            before = befores.pop(path)
            for name, status in held.items():
                child = _entry(root, f"{path}/{name}" if path else name, status)
                old = below.child(before, name) if before is not None else None
                if old is None:
                    found.append(Difference(child.path, ADDED, child))
                elif status.st_ctime_ns > made_ns:
                    found.append(Difference(child.path, MODIFIED, child))
                if child.is_directory:
                    befores[child.path] = old if old is not None and old.is_directory else None
            found += [
                Difference(gone.path, DELETED, None)
                for gone in (below.children(before) if before is not None else ())
                if posixpath.basename(gone.path) not in held
            ]
    return sorted(found, key=lambda difference: difference.path)


@contextmanager
def _opened(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _entry(root: Path, path: str, status: os.stat_result) -> Entry:
    return Entry(path, root / path, status)


def _directory(root: Path, path: str) -> Entry | None:
    """Return what is at a path, without a symlink on the way out of the root; None for nothing."""
    try:
        with _opened(root) as root_fd:
            fd = open_in_root(root_fd, path, os.O_PATH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return _entry(root, path, os.fstat(fd))
    finally:
        os.close(fd)


def pack_differences(root: Path, out: IO[bytes], hidden: tuple[str, ...] = ()) -> None:
    """Write what differs as an OCI layer; directories on the way keep their attributes."""
    places = tree_prefixes(hidden)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        writer = TarWriter(tar)
        written: set[str] = set()
        tar.addfile(describe("./", root.lstat(), read_xattrs(str(root))))
        for difference in differences(root):
            if difference.path.startswith(places):
                continue
            for parent in _parents(difference.path):
                entry = None if parent in written else _directory(root, parent)
                if entry is not None:
                    written.add(parent)
                    tar.addfile(describe(parent + "/", entry.status, entry.xattrs()))
            if difference.entry is None:
                head, slash, name = difference.path.rpartition("/")
                writer.add_mark(f"{head}{slash}{WHITEOUT_PREFIX}{name}")
            elif difference.path not in written:
                written.add(difference.path)
                _add(writer, difference.entry)


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    for depth in range(1, len(parts)):
        yield "/".join(parts[:depth])


def _add(writer: TarWriter, entry: Entry) -> None:
    name = entry.path + "/" if entry.is_directory else entry.path
    info = describe(name, entry.status, entry.xattrs())
    if info.issym():
        info.linkname = entry.link()
    if not info.isreg():
        writer.tar.addfile(info)
        return
    with entry.open() as file:
        info.size = os.fstat(file.fileno()).st_size
        writer.add_stream(info, file)
