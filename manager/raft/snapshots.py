"""The snapshot of a member on its disk, written by a worker thread."""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Final

from manager.raft.disk import damaged_beside, is_full
from manager.raft.pinned import monotonic
from manager.raft.ports import Frozen
from manager.raft.snapshot import (
    SEALED_MAGIC,
    SnapshotHeader,
    pack_snapshot,
    read_snapshot,
    write_snapshot,
)
from swarmapi.keyring import Keyring

_REST_S: Final = 10.0
"""After a snapshot for which there was no room."""
_log = logging.getLogger(__name__)


class FileSnapshots:
    """One file. Every method is for the core's thread; `executor` has a single worker.

    `freeze` asks for the state machine's state, which `offer` later brings. With a `keyring` the
    file is sealed, and a plain one is turned when it is loaded.
    """

    def __init__(
        self,
        path: Path,
        executor: Executor,
        freeze: Callable[[], None],
        keyring: Keyring | None = None,
    ) -> None:
        self._path = path
        self._executor = executor
        self._freeze = freeze
        self._keyring = keyring
        self.keep_old = 0
        """Snapshots kept besides the one in force."""
        self._header: SnapshotHeader | None = None
        self._asked = False
        self._frozen: Frozen | None = None
        self._job: Future[SnapshotHeader] | None = None
        self._rests_until = float("-inf")

    @property
    def busy(self) -> bool:
        if monotonic() < self._rests_until:
            return True
        return self._asked or self._frozen is not None or self._job is not None

    def load(self) -> tuple[SnapshotHeader, list[bytes]] | None:
        if not self._path.exists():
            return None
        data = self._path.read_bytes()
        found = read_snapshot(data, self._keyring)
        self._header = found[0]
        if self._keyring is not None and (
            not data.startswith(SEALED_MAGIC) or len(self._keyring.keys) > 1
        ):
            try:
                write_snapshot(self._path, *found, self._keyring)
            except OSError as error:
                if not is_full(error):
                    raise
                _log.warning("no room to seal the snapshot anew, it stays as it was: %s", error)
        return found

    def raw(self) -> tuple[SnapshotHeader, bytes] | None:
        if self._header is None:
            return None
        header, parts = read_snapshot(self._path.read_bytes(), self._keyring)
        return header, b"".join(pack_snapshot(header, parts))

    def install(self, data: bytes) -> tuple[SnapshotHeader, list[bytes]]:
        header, parts = read_snapshot(data)
        self._discard_job()
        try:
            write_snapshot(self._path, header, parts, self._keyring)
        except OSError as error:
            damaged = damaged_beside(self._path.parent)
            if not is_full(error) or not damaged.exists():
                raise
            told = f"{error.strerror}: what was set aside in {damaged} may be removed"
            raise OSError(error.errno, told) from error
        self._header = header
        return header, parts

    def request(self) -> None:
        self._asked = True
        self._freeze()

    def offer(self, frozen: Frozen) -> None:
        """Take the state that was asked for."""
        self._asked = False
        self._frozen = frozen

    def frozen(self) -> Frozen | None:
        frozen, self._frozen = self._frozen, None
        return frozen

    def write(self, header: SnapshotHeader, parts: Iterable[bytes]) -> None:
        old, keep = self._header, self.keep_old

        def work() -> SnapshotHeader:
            if old is not None and keep:
                keep_as(self._path, old.index)
            write_snapshot(self._path, header, parts, self._keyring)
            for former in old_snapshots(self._path)[keep:]:
                former.unlink(missing_ok=True)
            return header

        self._job = self._executor.submit(work)

    def written(self) -> SnapshotHeader | None:
        if self._job is None or not self._job.done():
            return None
        return self._finish_job()

    def reseal(self) -> None:
        """Write all snapshots anew under the newest key. Raises OSError."""
        self._finish_job()
        for path in (self._path, *old_snapshots(self._path)):
            if path.exists():
                found = read_snapshot(path.read_bytes(), self._keyring)
                write_snapshot(path, *found, self._keyring)

    def _discard_job(self) -> None:
        """Wait for an older snapshot under way: it must not replace the newer one."""
        self._finish_job()

    def _finish_job(self) -> SnapshotHeader | None:
        job, self._job = self._job, None
        if job is None:
            return None
        if is_full(error := job.exception()):
            _log.warning("no snapshot, the log keeps what it has: %s", error)
            self._rests_until = monotonic() + _REST_S
            return None
        self._header = job.result()
        return self._header


def keep_as(path: Path, index: int) -> None:
    """Keep the snapshot at `path`, which covers `index`, when the next one takes its place."""
    former = path.with_name(f"{path.name}.{index}")
    former.unlink(missing_ok=True)
    former.hardlink_to(path)


def old_snapshots(path: Path) -> list[Path]:
    """Return the snapshots kept besides the one at `path`, the newest first."""
    kept = [p for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdigit()]
    return sorted(kept, key=lambda p: int(p.suffix[1:]), reverse=True)
