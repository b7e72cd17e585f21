"""Many layers made one: the merged tree of an image's upper layers as a single layer."""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from runtime.image.model import Image, format_time_ns
from runtime.image.pack import TarWriter, describe, is_opaque, is_whiteout, read_xattrs
from runtime.image.store import ImageStore
from runtime.image.unpack import OPAQUE_MARK, WHITEOUT_PREFIX


def squash(
    store: ImageStore, image: Image, keep: int = 0, now: Callable[[], int] = time.time_ns
) -> Image:
    """Make an image whose layers above the lowest `keep` are one; its history keeps the steps."""
    if len(image.layers) <= keep:
        return image
    uppers = store.lower_dirs(image)[: len(image.layers) - keep]
    with tempfile.TemporaryFile(dir=store.blobs.temporary) as spool:
        with tarfile.open(fileobj=spool, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            _Merge(tar, marks=keep > 0).directory(list(uppers), "", opaque=False)
        spool.seek(0)
        layer = store.put_layer(spool)
    created = format_time_ns(now())
    history, seen = [], 0
    for entry in image.config.get("history", []):
        seen += not entry.get("empty_layer", False)
        history.append({**entry, "empty_layer": True} if seen > keep else entry)
    history.append({"created": created, "comment": f"merge {image.id}"})
    config = {**image.config, "created": created, "history": history}
    return store.put_image(config, [*image.layers[:keep], layer])


def merge(layers: tuple[Path, ...], out: IO[bytes]) -> None:
    """Write the merged tree of a whole stack of layers, topmost first, as a plain tar."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _Merge(tar, marks=False).directory(list(layers), "", opaque=False)


class _Merge(TarWriter):
    def __init__(self, tar: tarfile.TarFile, *, marks: bool) -> None:
        super().__init__(tar)
        self._marks = marks  # without layers below there is nothing to hide
        self._linked: dict[tuple[int, int], str] = {}

    def directory(self, parts: list[Path], path: str, *, opaque: bool) -> None:
        top = parts[0]
        self.tar.addfile(describe(path or "./", top.lstat(), read_xattrs(str(top))))
        if opaque and self._marks:
            self.add_mark(f"{path}{OPAQUE_MARK}")
        for name in sorted({name for part in parts for name in os.listdir(part)}):
            self._entry([part / name for part in parts], path + name)

    def _entry(self, candidates: list[Path], path: str) -> None:
        """Write what the stack shows at one name, topmost candidate first."""
        found: list[Path] = []
        opaque = False
        for candidate in candidates:
            try:
                status = candidate.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                found.append(candidate)
                opaque = is_opaque(candidate)
            elif found:
                opaque = True  # a directory took the place of what was deleted or a file
            elif is_whiteout(status):
                self._whiteout(path)
                return
            else:
                self._leaf(candidate, status, path)
                return
            if opaque:
                break
        if found:
            self.directory(found, path + "/", opaque=opaque)

    def _whiteout(self, path: str) -> None:
        if self._marks:
            parent, slash, name = path.rpartition("/")
            self.add_mark(f"{parent}{slash}{WHITEOUT_PREFIX}{name}")

    def _leaf(self, file: Path, status: os.stat_result, path: str) -> None:
        info = describe(path, status, read_xattrs(str(file)))
        first = self._linked.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            info.type, info.size, info.linkname = tarfile.LNKTYPE, 0, first
        elif info.issym():
            info.linkname = os.readlink(file)
        elif info.isreg():
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self.add_file(info, fd)
            finally:
                os.close(fd)
            return
        self.tar.addfile(info)
