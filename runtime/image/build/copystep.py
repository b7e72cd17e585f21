"""One COPY or ADD: its sources, its checksum for the cache, and writing it."""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.image.bounds import DEFAULT_LIMITS, UnpackLimits
from runtime.image.build.copying import Chosen, LayerWriter, Owner, Source, lookup_owner
from runtime.image.build.dockerfile import Instruction
from runtime.image.build.remote import fetch, is_url
from runtime.image.build.words import expand
from runtime.image.errors import BadArchive, BuildError
from runtime.image.tarstream import TarReader, decompress
from runtime.image.tree import Node
from runtime.image.unpack import UnpackOptions, unpack
from runtime.image.view import LayeredView

_UNNAMED = "__unnamed__"
_MODE = re.compile("0*[0-7]{1,4}")


class CopyStep:
    """A COPY or ADD of a stage; `work` is a directory for what it fetches and unpacks.

    Raises BuildError where a source is missing or the destination does not fit.
    """

    def __init__(
        self,
        step: Instruction,
        source: Source,
        variables: Mapping[str, str],
        config: Mapping[str, Any],
        work: Path,
        limits: UnpackLimits = DEFAULT_LIMITS,
    ) -> None:
        self._name = step.name
        self._work = work
        self._limits = limits
        self._chown = expand(step.flag("chown"), variables, step.escape)
        self._chmod = expand(step.flag("chmod"), variables, step.escape)
        *sources, target = (expand(word, variables, step.escape) for word in step.words())
        self._chosen = [chosen for name in sources for chosen in self._select(source, name, target)]
        if not self._chosen:
            raise BuildError(f"{self._name} failed: no source files were specified")
        if len(self._chosen) > 1 and not target.endswith("/"):
            raise BuildError(
                f"When using {self._name} with more than one source file, the destination must be"
                " a directory and end with a /"
            )
        self._shown_target = target
        self._target = target
        if not target.startswith("/"):
            self._target = posixpath.join("/", config.get("WorkingDir") or "", target)

    @property
    def comment(self) -> str:
        """The text of the history, with the checksum of what is copied."""
        sums = [chosen.checksum for chosen in self._chosen]
        if len(sums) > 1:
            import hashlib

            sums = ["multi:" + hashlib.sha256("\0".join(sums).encode()).hexdigest()]
        flags = f"--chown={self._chown} " if self._chown else ""
        flags += f"--chmod={self._chmod} " if self._chmod else ""
        return f"{self._name} {flags}{sums[0]} in {self._shown_target} "

    def write(self, writer: LayerWriter, below: LayeredView) -> None:
        """Write every source onto the layers below."""
        asked = lookup_owner(below, self._chown) if self._chown else Owner()
        if self._chmod:
            if not _MODE.fullmatch(self._chmod):
                raise BuildError(
                    f"invalid chmod parameter: '{self._chmod}'. it should be octal string and"
                    " between 0 and 07777"
                )
            asked = replace(asked, mode=int(self._chmod, 8))
        owner = asked if self._chown else replace(asked, uid=0, gid=0)
        for chosen in self._chosen:
            real, is_directory = writer.locate(self._target)
            if chosen.entry.is_directory:
                writer.tree(chosen, real, owner)
                continue
            if self._name == "ADD" and chosen.unpacks and _is_archive(chosen.entry):
                writer.tree(self._unpacked(chosen), real, asked)
                continue
            if self._target.endswith("/") or is_directory:
                real = posixpath.join(real, chosen.name)
            writer.file(chosen, real, owner)

    def _select(self, source: Source, name: str, target: str) -> list[Chosen]:
        if self._name == "ADD" and is_url(name):
            return [self._fetched(name, target)]
        if self._name == "ADD" and name.startswith(("git://", "git@", "ssh://")):
            raise BuildError(f"ADD of a git repository is not supported: {name}")
        inside = name.lstrip("/")
        if posixpath.normpath(inside).split("/")[0] == "..":
            raise BuildError(
                f"{self._name} failed: forbidden path outside the build context: {inside} ()"
            )
        try:
            return source.select(name)
        except FileNotFoundError:
            shown = posixpath.normpath("/" + name.lstrip("/"))[1:] or "."
            raise BuildError(
                f"{self._name} failed: file not found in build context or excluded by"
                f" .dockerignore: stat {shown}: file does not exist"
            ) from None

    def _fetched(self, url: str, target: str) -> Chosen:
        directory = self._work / f"url{len(list(self._work.iterdir()))}"
        directory.mkdir()
        name, path = fetch(url, directory)
        if not name:
            if target.endswith("/"):
                raise BuildError(f"ADD failed: cannot determine filename for source {url}")
            name = _UNNAMED
        tree = Source(LayeredView((directory,)))
        (found,) = tree.select(path.name)
        return replace(found, name=name, unpacks=False)

    def _unpacked(self, chosen: Chosen) -> Chosen:
        directory = self._work / f"tar{len(list(self._work.iterdir()))}"
        directory.mkdir(mode=0o755)
        with chosen.entry.open() as file:
            unpack(file, directory, UnpackOptions(devices=True, limits=self._limits))
        tree = Source(LayeredView((directory,)))
        root = tree.view.root()
        assert root is not None
        return Chosen(tree, "", root)


def _is_archive(entry: Node) -> bool:
    """Tell a tar, plain or compressed, by its first header."""
    if not stat.S_ISREG(entry.status.st_mode):
        return False
    with entry.open() as file:
        try:
            return next(iter(TarReader(decompress(file)[0])), None) is not None
        except (BadArchive, OSError, EOFError, ValueError):
            return False
