"""The files of secrets and configs: on one tmpfs of the machine, bound into containers read-only.

The tmpfs is the machine's and not a process's: `swarmd` and the supervisor may end and begin again,
and a container that is started once more finds its files. No byte of them is on a disk; where the
kernel can (6.4), they are kept from swap too.
"""

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.supervisor.ids import IdMap
from swarmapi.errors import InvalidArgument
from swarmapi.model import defaults
from swarmapi.model.objects import SpecVersion
from worker.engine import volume_mount
from worker.engine.spec import Mount

DEFAULT_MODE = 0o444
_OPTIONS = "mode=700,nosuid,nodev,noexec"


def mount_tmpfs(directory: Path) -> None:
    """Mount the tmpfs of all secrets, once."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {"type": "tmpfs", "device": "tmpfs"}
    try:
        volume_mount.mount({**options, "o": f"{_OPTIONS},noswap"}, str(directory))
    except InvalidArgument:  # an older kernel
        volume_mount.mount({**options, "o": _OPTIONS}, str(directory))


class SecretFiles:
    """One directory for each task, in it one file for each reference of its spec, numbered."""

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
        return [
            Mount(
                type="bind",
                source=str(self._directory / task_id / str(number)),
                target=defaults.reference_target(kind, reference.file.name),
                read_only=True,
            )
            for number, (kind, reference) in enumerate(defaults.references(spec.spec))
            if reference.file is not None
        ]

    def are_there(self, task_id: str, spec: SpecVersion) -> bool:
        """Tell whether a task has all its files."""
        return all(os.path.exists(mount.source) for mount in self.mounts(task_id, spec))

    def write(self, task_id: str, spec: SpecVersion, contents: Sequence[bytes]) -> None:
        """Write a task's files, each appearing whole; blocking."""
        with self._mounting:  # a second tmpfs would hide the files of the first
            self._mount(self._directory)
        directory = self._directory / task_id
        directory.mkdir(mode=0o700, exist_ok=True)
        references = (reference for _, reference in defaults.references(spec.spec))
        for number, (reference, content) in enumerate(zip(references, contents, strict=True)):
            if (file := reference.file) is None:
                continue
            mode = DEFAULT_MODE if file.mode is None else file.mode
            begun = directory / f"{number}.new"
            begun.unlink(missing_ok=True)
            descriptor = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0)
            with open(descriptor, "wb") as out:
                out.write(content)
                owner = int(file.uid or 0), int(file.gid or 0)
                os.fchown(descriptor, *(self._ids.outside(*owner) if self._ids else owner))
                os.fchmod(descriptor, mode)
            begun.replace(directory / str(number))

    def drop(self, task_id: str) -> None:
        """Remove a task's files; none is fine; blocking."""
        if task_id:
            shutil.rmtree(self._directory / task_id, ignore_errors=True)

    def task_ids(self) -> list[str]:
        """Return the ids of the tasks that have files."""
        return sorted(os.listdir(self._directory)) if self._directory.is_dir() else []
