"""Files of containers, running or not: copied in and out, exported, compared with the image."""

import asyncio
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import IO

from runtime import rootview
from runtime.errors import BadStatus, RuntimeFailure
from runtime.image.copied import ADDED, DELETED, MODIFIED, differences
from runtime.image.durable import open_in_root
from runtime.image.pack import is_opaque, is_whiteout, pack_entry, pack_rootfs
from runtime.image.unpack import UnpackOptions, unpack
from runtime.image.view import Entry, LayeredView
from runtime.image.walking import directories
from runtime.oci import Overlay
from runtime.supervisor import userns
from runtime.supervisor.ids import IdMap
from swarmapi.errors import Conflict, InvalidArgument, NotFound
from worker.engine import paths
from worker.engine.launcher import Launcher
from worker.engine.record import Container, Record

Change = tuple[int, str]
"""(MODIFIED, ADDED or DELETED; absolute path)."""


class Files:
    """The file trees of all containers; nothing here leaves a container's own root."""

    def __init__(
        self,
        get: Callable[[str], Container],
        launcher: Launcher,
        lower_dirs: Callable[[str], Sequence[str]],
    ) -> None:
        self._get = get
        self._launcher = launcher
        self._lower_dirs = lower_dirs

    async def stat(self, reference: str, path: str) -> paths.Found:
        """Return what a path of the container names.

        Raises:
            NotFound: when it names nothing.
        """
        async with self._seen(self._get(reference)) as root:
            return await asyncio.to_thread(_lookup, reference, root, path)

    @asynccontextmanager
    async def packing(
        self, reference: str, path: str
    ) -> AsyncIterator[tuple[paths.Found, Callable[[IO[bytes]], None]]]:
        """Yield what a path names and the function that writes it as a tar.

        Raises:
            NotFound: when it names nothing.
        """
        async with self._seen(self._get(reference)) as root:
            found = await asyncio.to_thread(_lookup, reference, root, path)
            shown = paths.base(paths.clean(path)).removeprefix("/")

            def pack(out: IO[bytes]) -> None:
                parent = open_in_root(root, found.parent, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    pack_entry(parent, found.name, shown, out)
                finally:
                    os.close(parent)

            yield found, pack

    async def unpack(
        self, reference: str, path: str, source: IO[bytes], *, keep_kinds: bool, own: bool
    ) -> None:
        """Unpack a tar into a directory of the container; `own` gives all to its user.

        Raises:
            NotFound: when there is no such directory.
            InvalidArgument: when it is none, is read-only or the tar is refused.
        """
        container = self._get(reference)
        owner = await asyncio.to_thread(self._owner, container.record) if own else None
        ids = _ids_outside(container.record)
        options = UnpackOptions(owner=owner, ids=ids, keep_kinds=keep_kinds)

        def work(root: int) -> None:
            with userns.acting_as(*ids.outside(0, 0)) if ids else nullcontext():
                put(root)

        def put(root: int) -> None:
            target = paths.follow(root, paths.clean(path))
            if not _lookup(reference, root, target).is_directory:
                raise InvalidArgument("extraction point is not a directory")
            _refuse_read_only(container.record, target)
            unpack(source, root, options, below=target)

        async with self._seen(container, ids is not None) as root:
            await asyncio.to_thread(work, root)

    @asynccontextmanager
    async def exporting(self, reference: str) -> AsyncIterator[Callable[[IO[bytes]], None]]:
        """Yield the function that writes the whole root, without mounts, as a tar."""
        overlay = await asyncio.to_thread(self._overlay, self._get(reference).record)
        view = await asyncio.to_thread(rootview.assemble, overlay, writable=False)
        try:
            yield lambda out: pack_rootfs(view.root_fd, out)
        finally:
            view.close()

    async def changes(self, reference: str) -> list[Change]:
        """Return what the container changed in its image, by path."""
        overlay = await asyncio.to_thread(self._overlay, self._get(reference).record)
        if overlay.copied:
            found = await asyncio.to_thread(differences, Path(overlay.upper))
            return [(change.kind, f"/{change.path}") for change in found]
        return await asyncio.to_thread(changes, Path(overlay.upper), overlay.lower)

    async def upper(self, reference: str) -> Path:
        """Return the directory of what the container changed, made if it was never started."""
        overlay = await asyncio.to_thread(self._overlay, self._get(reference).record)
        return Path(overlay.upper)

    def _overlay(self, record: Record) -> Overlay:
        return self._launcher.overlay(
            record.id, self._lower_dirs(record.image_id), record.host.storage_opt
        )

    @asynccontextmanager
    async def _seen(self, container: Container, live: bool = False) -> AsyncIterator[int]:
        """Yield the root; a container that does not run cannot be started meanwhile.

        Files have the container's ids; only `live`, where it runs in a user namespace and the tree
        can be written to, the host's.
        """
        record = container.record
        async with container.lock:
            if record.status in ("removing", "dead"):
                raise Conflict(f"container {record.id} is being removed")
            overlay = await asyncio.to_thread(self._overlay, record)
            binds = self._binds(record)
            layers = not live and _ids_outside(record) is not None
            view = await asyncio.to_thread(
                rootview.assemble, overlay, binds, pid=0 if layers else record.pid,
                writable=not layers,
            )  # fmt: skip
            if not record.pid:
                with view:
                    yield view.root_fd
                return
        with view:
            yield view.root_fd

    def _owner(self, record: Record) -> tuple[int, int]:
        user = self._launcher.exec_user(record, "", self._lower_dirs(record.image_id))
        return int(user["uid"]), int(user["gid"])

    def _binds(self, record: Record) -> list[rootview.BindMount]:
        binds = [
            rootview.BindMount(
                mount.source,
                mount.target,
                mount.read_only,
                mount.subpath,
                mapped=mount.translated,
            )
            for mount in record.mounts
            if mount.kind != "tmpfs"
        ]
        files = self._launcher.files_of(record.id)
        taken = {bind.target for bind in binds}
        return binds + [
            rootview.BindMount(source, target, mapped=True)
            for target, source in files.items()
            if target not in taken and os.path.exists(source)
        ]


def _ids_outside(record: Record) -> IdMap | None:
    """Return the ids of a container that runs in a user namespace."""
    if not record.pid:
        return None
    try:
        return userns.ids_of(record.pid) if userns.of_other(record.pid) else None
    except (FileNotFoundError, ProcessLookupError):
        raise BadStatus("ending", "running or stopped") from None


def _refuse_read_only(record: Record, path: str) -> None:
    inside = [
        mount
        for mount in record.mounts
        if path == mount.target or path.startswith(mount.target.rstrip("/") + "/")
    ]
    if any(mount.read_only for mount in inside[-1:]):
        raise InvalidArgument("mounted volume is marked read-only")
    if not inside and record.host.readonly_rootfs:
        raise InvalidArgument("container rootfs is marked read-only")


def _lookup(reference: str, root: int, path: str) -> paths.Found:
    try:
        return paths.lookup(root, paths.clean(path))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"Could not find the file {path} in container {reference}") from None
    except OSError as error:
        raise RuntimeFailure(f"{path}: {(error.strerror or str(error)).lower()}") from error


def changes(upper: Path, lower: Sequence[str]) -> list[Change]:
    """Compare an overlay's upper directory with its lower layers, topmost first.

    A directory that is only the way to something changed is not listed, as with Docker.
    """
    below = LayeredView(tuple(Path(path) for path in lower))
    before: dict[str, Entry | None] = {"": below.root()}
    found: list[Change] = []
    root = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path, fd, held in directories(root):
            parent = before.pop(path)
            if path and parent is not None and is_opaque(fd):
                gone = {posixpath.basename(old.path) for old in below.children(parent)} - set(held)
                found += [(DELETED, f"/{path}/{name}") for name in gone]
            for name, status in held.items():
                inner = f"{path}/{name}" if path else name
                old = below.child(parent, name) if parent is not None else None
                if stat.S_ISDIR(status.st_mode):
                    before[inner] = old
                kind = _kind(old, status)
                if kind is not None:
                    found.append((kind, f"/{inner}"))
    finally:
        os.close(root)
    return sorted(found, key=lambda change: change[1])


def _kind(old: Entry | None, status: os.stat_result) -> int | None:
    if is_whiteout(status):
        return None if old is None else DELETED
    if old is None:
        return ADDED
    return None if old.is_directory and _same(old.status, status) else MODIFIED


def _same(old: os.stat_result, new: os.stat_result) -> bool:
    return (old.st_mode, old.st_mtime_ns) == (new.st_mode, new.st_mtime_ns)
