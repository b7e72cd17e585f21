"""COPY and ADD: chosen sources of a tree, written as one layer tar.

Where files land follows moby's builder/dockerfile/copy.go: the destination is resolved through
the image's symlinks, what a copied directory holds replaces names one by one.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from runtime.image.build.ignore import IgnoreRules, compiled
from runtime.image.errors import BuildError, ImageError
from runtime.image.pack import TarWriter, describe
from runtime.image.tree import Node, Tree
from runtime.image.view import LayeredView

_ACCOUNTS_BYTES = 1 << 20
_LARGEST_ID = (1 << 31) - 1
_CHUNK_BYTES = 1 << 18
_WILDCARD = re.compile(r"(?<!\\)[*?\[]")


@dataclass(frozen=True)
class Owner:
    """What `--chown` and `--chmod` ask for; None keeps what the source has."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    def apply(self, info: tarfile.TarInfo) -> None:
        """Set owner and mode of a header."""
        info.uid = info.uid if self.uid is None else self.uid
        info.gid = info.gid if self.gid is None else self.gid
        if self.mode is not None and not info.issym():
            info.mode = self.mode


@dataclass(frozen=True)
class Chosen:
    """One source of a COPY: the name it was asked for by, and what is there."""

    source: Source
    name: str
    entry: Node
    unpacks: bool = True  # an archive that came over the network is never unpacked

    @property
    def checksum(self) -> str:
        """Hash of names, kinds, modes and contents, not times: what the cache compares."""
        kind = "dir" if self.entry.is_directory else "file"
        return f"{kind}:{self.source.checksum(self)}"


class Source:
    """A tree to copy from, without what `.dockerignore` names."""

    def __init__(self, view: Tree[Any], ignore: IgnoreRules | None = None) -> None:
        self.view = view
        self._ignore = ignore or IgnoreRules()

    def select(self, pattern: str) -> list[Chosen]:
        """What a path or wildcard names; empty where a wildcard matches nothing.

        Raises FileNotFoundError where a path without wildcards is missing or ignored.
        """
        wanted = [part for part in posixpath.normpath("/" + pattern).split("/") if part]
        found = []
        for path in self._names(wanted):
            entry = self._at(path)
            if entry is not None and not self._hidden(path, entry):
                found.append(Chosen(self, posixpath.basename(path), entry))
        if not found and not _WILDCARD.search(pattern):
            raise FileNotFoundError(pattern)
        return found

    def walk(self, top: Node, relative: str = "") -> Iterator[tuple[str, Node]]:
        """Yield an entry and everything below, each with its path relative to it."""
        yield relative, top
        if top.is_directory:
            for child in self.view.children(top):
                if not self._hidden(child.path, child):
                    name = posixpath.basename(child.path)
                    yield from self.walk(child, f"{relative}/{name}" if relative else name)

    def checksum(self, chosen: Chosen) -> str:
        """Hash what a copy of an entry depends on."""
        hasher = hashlib.sha256()
        for relative, entry in self.walk(chosen.entry):
            name = posixpath.join(chosen.name, relative)
            hasher.update(f"{name}\0{entry.status.st_mode}\0".encode("utf-8", "surrogateescape"))
            if stat.S_ISREG(entry.status.st_mode):
                content = hashlib.sha256()
                with entry.open() as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        content.update(chunk)
                hasher.update(content.digest())
            elif stat.S_ISLNK(entry.status.st_mode):
                hasher.update(os.fsencode(entry.link()))
            for key, value in sorted(entry.xattrs().items()):
                hasher.update(key.encode() + b"\0" + value)
        return hasher.hexdigest()

    def _hidden(self, path: str, entry: Node) -> bool:
        """Tell whether a path is ignored (a directory may still hold files taken back)."""
        if not path or not self._ignore.ignores(path):
            return False
        if not entry.is_directory or not self._ignore.takes_back:
            return True
        return all(self._hidden(child.path, child) for child in self.view.children(entry))

    def _at(self, path: str) -> Node | None:
        try:
            return self.view.locate(path)[1]
        except ImageError:
            return None  # below a file, or a loop of links

    def _names(self, wanted: list[str]) -> list[str]:
        """The paths a pattern stands for, one component after the other."""
        paths = [""]
        for part in wanted:
            if not _WILDCARD.search(part):
                paths = [posixpath.join(path, part.replace("\\", "")) for path in paths]
                continue
            expression = compiled(part)
            following = []
            for path in paths:
                place = self._at(path)
                if place is None or not place.is_directory:
                    continue
                names = [posixpath.basename(child.path) for child in self.view.children(place)]
                following += [
                    posixpath.join(path, name) for name in names if expression.fullmatch(name)
                ]
            paths = following
        return paths


class LayerWriter(TarWriter):
    """Writes files onto a tree of lower layers; parents keep what they have below."""

    def __init__(self, out: IO[bytes], below: LayeredView) -> None:
        super().__init__(tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT))  # noqa: SIM115 - closed by close()
        self._below = below
        self._written: set[str] = set()

    def close(self) -> None:
        """End the tar."""
        self.tar.close()

    def locate(self, path: str) -> tuple[str, bool]:
        """Resolve a destination through the image's symlinks; tell whether it is a directory.

        Raises BuildError where a parent is no directory.
        """
        real, entry = self._below.locate(path)
        made_here = real in self._written
        return real, made_here or (entry is not None and entry.is_directory)

    def directory(self, real: str, owner: Owner = Owner()) -> None:
        """Make sure of a directory and its parents, none of them a symlink; 0755 where new."""
        parts = real.split("/") if real else []
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path in self._written:
                continue
            _, entry = self._below.locate(path)
            if entry is not None and not entry.is_directory:
                raise BuildError(f"cannot copy to /{real}: /{path} is not a directory")
            if entry is not None:
                self._add(describe(path + "/", entry.status, entry.xattrs()))
                continue
            info = tarfile.TarInfo(path + "/")
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
            info.uid, info.gid = owner.uid or 0, owner.gid or 0
            self._add(info)

    def tree(self, chosen: Chosen, real: str, owner: Owner) -> None:
        """Copy what a directory holds into a directory."""
        self.directory(real, owner)
        for relative, entry in chosen.source.walk(chosen.entry):
            if relative:
                self.leaf(entry, posixpath.join(real, relative), owner)

    def file(self, chosen: Chosen, real: str, owner: Owner) -> None:
        """Copy a file to a path, making its parents."""
        self.directory(posixpath.dirname(real), owner)
        self.leaf(chosen.entry, real, owner)

    def leaf(self, entry: Node, path: str, owner: Owner) -> None:
        """Copy one entry to exactly this path; its parent is there."""
        if stat.S_ISSOCK(entry.status.st_mode):
            return
        name = path + "/" if entry.is_directory else path
        info = describe(name, entry.status, entry.xattrs())
        owner.apply(info)
        if info.issym():
            info.linkname = entry.link()
        if not info.isreg():
            self._add(info)
            return
        with entry.open() as file:
            self.add_stream(info, file)

    def _add(self, info: tarfile.TarInfo) -> None:
        if info.isdir():
            self._written.add(info.name.rstrip("/"))
        self.tar.addfile(info)


def lookup_owner(view: LayeredView, text: str) -> Owner:
    """Resolve `user[:group]` by the image's own /etc/passwd and /etc/group.

    Raises BuildError for a name that is in neither.
    """
    user, _, group = text.partition(":")
    uid = _number(view, "etc/passwd", user)
    if uid is None:
        raise BuildError(
            "unable to convert uid/gid chown string to host mapping: can't find uid for user"
            f" {user}: no such user: {user}"
        )
    gid = _number(view, "etc/group", group or user)
    if gid is None and not group:
        gid = _number(view, "etc/passwd", user, field=3)
    if gid is None:
        raise BuildError(
            "unable to convert uid/gid chown string to host mapping: can't find gid for group"
            f" {group}: no such group: {group}"
        )
    return Owner(uid, gid)


def _number(view: LayeredView, file: str, name: str, field: int = 2) -> int | None:
    if name.isdecimal():
        if int(name) > _LARGEST_ID:
            raise BuildError(f"uids and gids must be in range 0-{_LARGEST_ID}: {name}")
        return int(name)
    entry = view.locate(file)[1]
    if entry is None or not stat.S_ISREG(entry.status.st_mode):
        return None
    with entry.open() as opened:
        lines = opened.read(_ACCOUNTS_BYTES).decode(errors="replace").splitlines()
    for line in lines:
        fields = line.split(":")
        if fields[0] == name and len(fields) > field and fields[field].isdecimal():
            return int(fields[field])
    return None
