"""COPY and ADD: chosen sources of a tree, written as one layer tar."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import posixpath
import stat
import tarfile
import time
from dataclasses import dataclass
from typing import IO

from runtime.image.build.ignore import IgnoreRules
from runtime.image.errors import BuildError
from runtime.image.pack import TarWriter, describe, read_xattrs
from runtime.image.view import Entry, LayeredView


@dataclass(frozen=True)
class Owner:
    """What `--chown` and `--chmod` ask for; `mode` None keeps the file's."""

    uid: int = 0
    gid: int = 0
    mode: int | None = None


class Source:
    """A tree to copy from, without what `.dockerignore` names."""

    def __init__(self, view: LayeredView, ignore: IgnoreRules) -> None:
        self.view = view
        self._ignore = ignore

    def select(self, pattern: str) -> list[Entry]:
        """The entries a path or wildcard names; raises BuildError where there is none."""
        wanted = [part for part in posixpath.normpath("/" + pattern).split("/") if part]
        found = self._match(wanted)
        found = [entry for entry in found if not self.hidden(entry)]
        if not found:
            raise BuildError(f"COPY failed: file not found in build context: stat {pattern}")
        return found

    def hidden(self, entry: Entry) -> bool:
        """Tell whether the entry is ignored itself (a directory may still hold kept files)."""
        ignored = bool(entry.path) and self._ignore.ignores(entry.path)
        return ignored and not (
            entry.is_directory and any(not self.hidden(x) for x in self.view.children(entry))
        )

    def _match(self, wanted: list[str]) -> list[Entry]:
        root = self.view.root()
        places = [root] if root else []
        for part in wanted:
            following: list[Entry] = []
            for place in places:
                if any(char in part for char in "*?["):
                    names = [
                        x.path
                        for x in self.view.children(place)
                        if fnmatch.fnmatchcase(posixpath.basename(x.path), part)
                    ]
                else:
                    names = [posixpath.join(place.path, part)]
                located = (self.view.locate(name)[1] for name in names)
                following += [entry for entry in located if entry is not None]
            places = following
        return places

    def checksum(self, entries: list[Entry]) -> str:
        """Hash names, kinds, modes and contents, not times: the cache key of COPY."""
        hasher = hashlib.sha256()
        for top in entries:
            for relative, entry in self.walk(top):
                hasher.update(f"{relative}\0{entry.status.st_mode}\0".encode("utf-8", "replace"))
                if stat.S_ISREG(entry.status.st_mode):
                    with entry.physical.open("rb") as file:
                        hasher.update(hashlib.file_digest(file, "sha256").digest())
                elif stat.S_ISLNK(entry.status.st_mode):
                    hasher.update(os.fsencode(os.readlink(entry.physical)))
        return hasher.hexdigest()

    def walk(self, top: Entry, relative: str = "") -> list[tuple[str, Entry]]:
        """An entry and everything below, each with its path relative to it."""
        found = [(relative, top)]
        if top.is_directory:
            for child in self.view.children(top):
                if not self.hidden(child):
                    name = posixpath.basename(child.path)
                    found += self.walk(child, f"{relative}/{name}" if relative else name)
        return found


class LayerWriter(TarWriter):
    """Writes files onto a tree of lower layers; parents keep what they have below."""

    def __init__(self, out: IO[bytes], below: LayeredView) -> None:
        super().__init__(tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT))  # noqa: SIM115 - closed by close()
        self._below = below
        self._written: set[str] = set()

    def close(self) -> None:
        """End the tar."""
        self.tar.close()

    def directory(self, path: str, owner: Owner | None = None) -> str:
        """Make sure of a directory and its parents; return its real path."""
        real, entry = self._below.locate(path)
        if entry is not None and not entry.is_directory:
            raise BuildError(f"cannot copy to {path!r}: it is not a directory")
        parts = real.split("/") if real else []
        for depth in range(1, len(parts) + 1):
            self._one_directory("/".join(parts[:depth]), owner or Owner())
        return real

    def _one_directory(self, path: str, owner: Owner) -> None:
        if path in self._written:
            return
        self._written.add(path)
        _, entry = self._below.locate(path)
        if entry is not None:
            xattrs = read_xattrs(str(entry.physical))
            self.tar.addfile(describe(path + "/", entry.status, xattrs))
            return
        info = tarfile.TarInfo(path + "/")
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        info.uid, info.gid, info.mtime = owner.uid, owner.gid, int(time.time())
        self.tar.addfile(info)

    def copy(self, source: Source, top: Entry, target: str, owner: Owner) -> None:
        """Copy an entry to a path; a directory's contents go into it."""
        for relative, entry in source.walk(top):
            path = posixpath.join(target, relative) if relative else target
            if entry.is_directory:
                self.directory(path, owner)
                continue
            parent = self.directory(posixpath.dirname(path), owner)
            self._leaf(entry, posixpath.join(parent, posixpath.basename(path)), owner)

    def _leaf(self, entry: Entry, path: str, owner: Owner) -> None:
        info = describe(path, entry.status, read_xattrs(str(entry.physical)))
        info.uid, info.gid = owner.uid, owner.gid
        if owner.mode is not None and not info.issym():
            info.mode = owner.mode
        if info.issym():
            info.linkname = os.readlink(entry.physical)
        if not info.isreg():
            self.tar.addfile(info)
            return
        fd = os.open(entry.physical, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self.add_file(info, fd)
        finally:
            os.close(fd)


def lookup_owner(view: LayeredView, text: str) -> Owner:
    """Resolve `user[:group]` by the image's own /etc/passwd and /etc/group."""
    user, _, group = text.partition(":")
    uid, primary = _account(view, "etc/passwd", user)
    gid = _account(view, "etc/group", group)[0] if group else primary
    return Owner(uid, gid)


def _account(view: LayeredView, file: str, name: str) -> tuple[int, int]:
    if name.isdigit():
        return int(name), int(name)
    entry = view.locate(file)[1]
    lines = entry.physical.read_text(errors="replace").splitlines() if entry else []
    for line in lines:
        fields = line.split(":")
        if fields[0] == name and len(fields) > 3 - (file == "etc/group"):
            gid = int(fields[3]) if file == "etc/passwd" else int(fields[2])
            return int(fields[2]), gid
    raise BuildError(f"unable to find {name!r} in /{file} of the image: use a number")
