"""Named volumes of the local driver: one directory each, with its labels beside it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from swarmapi.errors import Conflict, InvalidArgument, NotFound
from worker.engine.names import check_name
from worker.engine.rfc3339 import format_ns


class Volume(msgspec.Struct, kw_only=True):
    """A volume as remembered in `meta.json`."""

    name: str
    created_ns: int
    labels: dict[str, str] = {}
    anonymous: bool = False


class Volumes:
    """The volumes below one root."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(
        self,
        name: str,
        now_ns: int,
        labels: Mapping[str, str] | None = None,
        *,
        anonymous: bool = False,
    ) -> Volume:
        """Return the volume of this name, made when it does not exist."""
        try:
            return self.get(name)
        except NotFound:
            pass
        if not anonymous:
            check_name(name)
        volume = Volume(
            name=name, created_ns=now_ns, labels=dict(labels or {}), anonymous=anonymous
        )
        (self._root / name / "_data").mkdir(parents=True, exist_ok=True)
        fresh = self._root / name / "meta.new"
        fresh.write_bytes(msgspec.json.encode(volume))
        fresh.rename(self._root / name / "meta.json")
        return volume

    def get(self, name: str) -> Volume:
        """Return the volume of this name.

        Raises:
            NotFound: when there is none.
        """
        if "/" in name or name in ("", ".", ".."):
            raise InvalidArgument(f"invalid volume name {name!r}")
        try:
            raw = (self._root / name / "meta.json").read_bytes()
        except FileNotFoundError:
            raise NotFound(f"get {name}: no such volume") from None
        return msgspec.json.decode(raw, type=Volume)

    def path(self, name: str) -> str:
        """Return the directory the volume's files are in."""
        return str(self._root / name / "_data")

    def list(self) -> list[Volume]:
        """Return every volume by name."""
        if not self._root.exists():
            return []
        return [self.get(meta.parent.name) for meta in sorted(self._root.glob("*/meta.json"))]

    def remove(self, name: str, used_by: str = "") -> None:
        """Delete a volume and its files.

        Raises:
            Conflict: when a container uses it.
            NotFound: when there is none.
        """
        self.get(name)
        if used_by:
            raise Conflict(f"remove {name}: volume is in use - [{used_by}]")
        (self._root / name / "meta.json").unlink()
        shutil.rmtree(self._root / name)

    def to_json(self, volume: Volume) -> dict[str, Any]:
        """Render as Docker's Volume."""
        return {
            "CreatedAt": format_ns(volume.created_ns),
            "Driver": "local",
            "Labels": volume.labels,
            "Mountpoint": self.path(volume.name),
            "Name": volume.name,
            "Options": None,
            "Scope": "local",
        }
