"""The files of secrets and configs: on one tmpfs of the machine, bound into containers read-only.

The tmpfs is the machine's and not a process's: `swarmd` and the supervisor may end and begin again,
and a container that is started once more finds its files. No byte of them is on a disk; where the
kernel can (6.4), they are kept from swap too.
"""

import json
import os
import posixpath
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from runtime.supervisor.ids import IdMap
from swarmapi.errors import InvalidArgument
from swarmapi.model import defaults
from swarmapi.model.defaults import swapped_directories
from swarmapi.model.objects import SpecVersion
from swarmapi.model.spec import Reference, ReferenceFile
from worker.engine import volume_mount
from worker.engine.spec import Mount

DEFAULT_MODE = 0o444
_HELD: Final = "held"
"""The ids of what is in the files that are swapped: a file beside them."""
_OPTIONS = "mode=700,nosuid,nodev,noexec"


def mount_tmpfs(directory: Path) -> None:
    """Mount the tmpfs of all secrets, once."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {"type": "tmpfs", "device": "tmpfs"}
    try:
        volume_mount.mount({**options, "o": f"{_OPTIONS},noswap"}, str(directory))
    except InvalidArgument:  # an older kernel
        volume_mount.mount({**options, "o": _OPTIONS}, str(directory))


class Place(NamedTuple):
    """Where a reference's file is, and what of it is bound to which target."""

    file: Path
    bound: Path
    target: str


class SecretFiles:
    """One directory for each task, in it one file for each reference of its spec, numbered.

    Files that are swapped while the container runs are, with all others of their target's
    directory, in a directory that is bound as a whole.
    """

    def __init__(
        self,
        directory: Path,
        mount: Callable[[Path], None] = mount_tmpfs,
        ids: IdMap | None = None,
    ) -> None:
        """Keep files below `directory`; `ids` are those of the user namespaces tasks run in."""
        self._directory = directory
        self._ids = ids
        self._mount = mount
        self._mounting = threading.Lock()

    def mounts(self, task_id: str, spec: SpecVersion) -> list[Mount]:
        """Return the mounts of a task's container that bind its files."""
        bound = {place.target: place.bound for _, place in self._places(task_id, spec)}
        return [
            Mount(type="bind", source=str(path), target=target, read_only=True)
            for target, path in bound.items()
        ]

    def _places(self, task_id: str, spec: SpecVersion) -> list[tuple[Reference, Place]]:
        """Return each reference with its place.

        A rename is seen through a bind of the file's directory, not through one of the file.
        """
        own = self._directory / task_id
        whole = {d: own / f"d{n}" for n, d in enumerate(sorted(swapped_directories(spec.spec)))}
        places = []
        for number, (kind, reference) in enumerate(defaults.references(spec.spec)):
            if reference.file is None:
                continue
            target = defaults.reference_target(kind, reference.file.name)
            directory, name = posixpath.split(target)
            if directory in whole:
                place = Place(whole[directory] / name, whole[directory], directory)
            else:
                place = Place(own / str(number), own / str(number), target)
            places.append((reference, place))
        return places

    def are_there(self, task_id: str, spec: SpecVersion) -> bool:
        """Tell whether a task has all its files."""
        return all(place.file.exists() for _, place in self._places(task_id, spec))

    def outdated(self, task_id: str, spec: SpecVersion) -> list[Reference]:
        """Return the references whose files hold what was replaced, or were not noted; blocking."""
        try:
            held = json.loads((self._directory / task_id / _HELD).read_text())
        except (OSError, ValueError):
            held = {}
        return [
            reference
            for reference, place in self._places(task_id, spec)
            if reference.swap and held.get(str(place.file)) != reference.id
        ]

    def write(self, task_id: str, spec: SpecVersion, contents: Sequence[bytes]) -> None:
        """Write a task's files, each appearing whole; blocking."""
        with self._mounting:  # a second tmpfs would hide the files of the first
            self._mount(self._directory)
        own = self._directory / task_id
        own.mkdir(mode=0o700, exist_ok=True)
        for (reference, place), content in zip(self._places(task_id, spec), contents, strict=True):
            if place.file.parent != own and not place.file.parent.is_dir():
                place.file.parent.mkdir()
                self._give(place.file.parent, 0, 0, 0o755)
            self._write(own / "new", place.file, reference, content)

    def note(self, task_id: str, spec: SpecVersion) -> None:
        """Note what a task's files hold: nothing of them is outdated; blocking."""
        places = self._places(task_id, spec)
        if held := {str(place.file): r.id for r, place in places if r.swap}:
            (self._directory / task_id / _HELD).write_text(json.dumps(held))

    def _write(self, begun: Path, path: Path, reference: Reference, content: bytes) -> None:
        file = reference.file or ReferenceFile()
        begun.unlink(missing_ok=True)
        descriptor = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0)
        with open(descriptor, "wb") as out:
            out.write(content)
            mode = DEFAULT_MODE if file.mode is None else file.mode
            self._give(descriptor, int(file.uid or 0), int(file.gid or 0), mode)
        begun.replace(path)

    def _give(self, path: int | Path, uid: int, gid: int, mode: int) -> None:
        owner = self._ids.outside(uid, gid) if self._ids else (uid, gid)
        os.chown(path, *owner)
        os.chmod(path, mode)

    def drop(self, task_id: str) -> None:
        """Remove a task's files; none is fine; blocking."""
        if task_id:
            shutil.rmtree(self._directory / task_id, ignore_errors=True)

    def task_ids(self) -> list[str]:
        """Return the ids of the tasks that have files."""
        return sorted(os.listdir(self._directory)) if self._directory.is_dir() else []
