"""Volumes as containers use them: made and filled at create, mounted while they run."""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from runtime.supervisor.ids import IdMap
from swarmapi.errors import InvalidArgument, NotFound
from worker.engine import volume_mount
from worker.engine.copyup import copy_up
from worker.engine.events import EventBus
from worker.engine.mounts import VolumeWish, inherit, resolve_mounts
from worker.engine.record import MountPoint, Record
from worker.engine.volumes import Volume, Volumes

LowerDirs = Callable[[str], Sequence[str]]


class Storage:
    """The volumes of this machine's containers."""

    def __init__(
        self,
        volumes: Volumes,
        bus: EventBus,
        now_ns: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        records: Callable[[], Iterable[Record]],
        find: Callable[[str], Record],
        ids_of: Callable[[Record], IdMap | None],
    ) -> None:
        """Serve those `records` and `find` know; `ids_of` says what a container's ids are here."""
        self._volumes = volumes
        self._bus = bus
        self._now_ns = now_ns
        self._random_bytes = random_bytes
        self._records = records
        self._find = find
        self._ids_of = ids_of
        self._lock = threading.Lock()
        self._filling = threading.Lock()
        self._held: dict[str, set[str]] = {}
        """Names of volumes by who needs them mounted: above all containers that run."""

    def hold(self, record: Record) -> None:
        """Keep a container's volumes mounted until its `release`."""
        names = {point.name for point in record.mounts if point.kind == "volume"}
        with self._lock:
            self._held[record.id] = names

    def release(self, holder: str = "") -> None:
        """Let go of a container's volumes; unmount what no other holds; blocking."""
        with self._lock:
            self._held.pop(holder, None)
            used = {name for names in self._held.values() for name in names}
            self._volumes.unmount_unused(used)

    def users(self, name: str) -> list[str]:
        """Return the ids of the containers that mount a volume, running or not."""
        return [
            record.id
            for record in self._records()
            if any(mount.name == name for mount in record.mounts)
        ]

    def furnish(self, record: Record, layers: Sequence[str]) -> list[str]:
        """Resolve a new record's mounts, make their volumes and fill the empty ones; blocking.

        Returns the names of the volumes made. On failure none of them remains.
        """
        made: list[str] = []

        def open_volume(wish: VolumeWish) -> str:
            volume = Volume(
                name=wish.name or self._random_bytes(32).hex(),
                created_ns=self._now_ns(),
                labels=dict(wish.labels),
                options=dict(wish.options),
                anonymous=not wish.name,
            )
            if self._volumes.create(volume):
                made.append(volume.name)
            return volume.name

        inherited = inherit(record.host.volumes_from, self._mounts_of)
        ids = self._ids_of(record)
        try:
            image_volumes = record.image_config.get("Volumes") or {}
            record.mounts = resolve_mounts(
                record.config,
                record.host,
                image_volumes,
                open_volume,
                self._volumes.path,
                inherited,
                ids.outside(0, 0) if ids else None,
            )
            for point in record.mounts:
                if point.kind == "volume":
                    self._furnish_volume(point, layers, ids)
        except BaseException:
            for name in made:
                self._volumes.remove(name)
            raise
        return made

    def _mounts_of(self, reference: str) -> list[MountPoint]:
        return self._find(reference).mounts

    def _furnish_volume(self, point: MountPoint, layers: Sequence[str], ids: IdMap | None) -> None:
        options = self._volumes.get(point.name).options
        point.of_host = volume_mount.is_bind(options)
        ends_with_its_last_container = options.get("type") == "tmpfs"
        if not (point.no_copy or point.subpath or ends_with_its_last_container):
            self._fill(point, layers, None if point.translated else ids)

    def _fill(self, point: MountPoint, layers: Sequence[str], ids: IdMap | None) -> None:
        holder = f"filling {point.name}"
        with self._filling:
            with self._lock:
                self._held[holder] = {point.name}
                self._volumes.mount(point.name)
            try:
                copy_up(layers, point.target, Path(point.source), ids)
            finally:
                self.release(holder)

    def announce(self, names: Iterable[str]) -> None:
        """Tell which volumes were made."""
        for name in names:
            self._bus.emit("volume", "create", name, {"driver": "local"})

    def prepare(self, record: Record) -> None:
        """Hold the record's volumes and mount what they need; blocking.

        Raises InvalidArgument when one is gone or cannot be mounted.
        """
        self.hold(record)
        try:
            for point in record.mounts:
                if point.kind == "volume":
                    self._volumes.mount(point.name)
        except NotFound as error:
            self.release(record.id)
            raise InvalidArgument(error.message) from error
        except BaseException:
            self.release(record.id)
            raise

    def remove_anonymous(self, record: Record) -> list[str]:
        """Delete a removed container's anonymous volumes that no other has; blocking."""
        removed = []
        for mount in record.mounts:
            if mount.anonymous and self.users(mount.name) in ([], [record.id]):
                with suppress(NotFound):
                    self._volumes.remove(mount.name)
                    removed.append(mount.name)
        return removed
