"""Named volumes of the local driver: one directory each, with its labels beside it."""

import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from swarmapi.errors import Conflict, InvalidArgument, NotFound
from worker.engine import volume_mount
from worker.engine.rfc3339 import format_ns

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")


class Volume(msgspec.Struct, kw_only=True):
    """A volume as remembered in `meta.json`."""

    name: str
    created_ns: int
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    """type, device and o of what is mounted on it; empty: a plain directory."""
    anonymous: bool = False


def check_name(name: str) -> None:
    """Refuse a name Docker would refuse; raises InvalidArgument with the rule in words."""
    if len(name) == 1:
        raise InvalidArgument(
            "volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _NAME.match(name):
        raise InvalidArgument(
            f'"{name}" includes invalid characters for a local volume name, '
            'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )


class Volumes:
    """The volumes below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mounting = threading.Lock()
        self._mounted: set[str] | None = None
        """Names of the volumes something may be mounted on; unknown until somebody asks."""

    def create(self, wanted: Volume) -> bool:
        """Make a volume; False when there is one of this name already, which stays as it is.

        Raises:
            InvalidArgument, Unsupported: for a bad name, or options that cannot be honoured.
        """
        check_name(wanted.name)
        volume_mount.check_options(wanted.options)
        directory = self.root / wanted.name
        if (directory / "meta.json").exists():
            return False
        (directory / "_data").mkdir(parents=True, exist_ok=True)
        fresh = directory / "meta.new"
        fresh.write_bytes(msgspec.json.encode(wanted))
        fresh.rename(directory / "meta.json")
        return True

    def get(self, name: str) -> Volume:
        """Return the volume of this name.

        Raises:
            NotFound: when there is none.
        """
        if "/" in name or name in ("", ".", ".."):
            raise InvalidArgument(f"invalid volume name {name!r}")
        try:
            raw = (self.root / name / "meta.json").read_bytes()
        except FileNotFoundError:
            raise NotFound(f"get {name}: no such volume") from None
        return msgspec.json.decode(raw, type=Volume)

    def path(self, name: str) -> str:
        """Return the directory the volume's files are in."""
        return str(self.root / name / "_data")

    def list(self) -> list[Volume]:
        """Return every volume by name."""
        if not self.root.exists():
            return []
        return [self.get(meta.parent.name) for meta in sorted(self.root.glob("*/meta.json"))]

    def mount(self, name: str) -> None:
        """Mount what the volume's options say, if any; InvalidArgument when that fails."""
        with self._mounting:
            options = self.get(name).options
            if options:
                self._maybe_mounted().add(name)
                volume_mount.mount(options, self.path(name))

    def _maybe_mounted(self) -> set[str]:
        if self._mounted is None:  # a former daemon may have left some
            self._mounted = {volume.name for volume in self.list() if volume.options}
        return self._mounted

    def unmount_unused(self, used: set[str]) -> None:
        """Unmount the volumes with options that are not among the names in use."""
        with self._mounting:
            for name in self._maybe_mounted() - used:
                volume_mount.unmount(self.path(name))
                self._maybe_mounted().discard(name)

    def remove(self, name: str, users: Sequence[str] = ()) -> None:
        """Delete a volume and its files; what is mounted on it is left alone.

        Raises:
            Conflict: when a container uses it.
            NotFound: when there is none.
        """
        with self._mounting:
            volume = self.get(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            if volume.options:
                volume_mount.unmount(self.path(name))
            # From here on nothing can be mounted on it that the removal below would empty.
            (self.root / name / "meta.json").unlink()
        shutil.rmtree(self.root / name)

    def to_json(self, volume: Volume) -> dict[str, Any]:
        """Render as Docker's Volume."""
        labels: Mapping[str, str] = volume.labels
        if volume.anonymous:
            labels = {ANONYMOUS_LABEL: "", **labels}
        return {
            "CreatedAt": format_ns(volume.created_ns),
            "Driver": "local",
            "Labels": labels or None,
            "Mountpoint": self.path(volume.name),
            "Name": volume.name,
            "Options": volume.options or None,
            "Scope": "local",
        }
