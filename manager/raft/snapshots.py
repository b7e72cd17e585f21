"""The snapshot of a member on its disk, written by a worker thread."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from pathlib import Path

from manager.raft.ports import Frozen
from manager.raft.snapshot import SnapshotHeader, read_snapshot, write_snapshot


class FileSnapshots:
    """One file. Every method is for the core's thread; `executor` has a single worker.

    `freeze` asks for the state machine's state, which `offer` later brings.
    """

    def __init__(self, path: Path, executor: Executor, freeze: Callable[[], None]) -> None:
        self._path = path
        self._executor = executor
        self._freeze = freeze
        self._header: SnapshotHeader | None = None
        self._asked = False
        self._frozen: Frozen | None = None
        self._job: Future[SnapshotHeader] | None = None

    @property
    def busy(self) -> bool:
        return self._asked or self._frozen is not None or self._job is not None

    def load(self) -> tuple[SnapshotHeader, list[bytes]] | None:
        if not self._path.exists():
            return None
        found = read_snapshot(self._path.read_bytes())
        self._header = found[0]
        return found

    def raw(self) -> tuple[SnapshotHeader, bytes] | None:
        if self._header is None:
            return None
        data = self._path.read_bytes()
        return read_snapshot(data)[0], data

    def install(self, data: bytes) -> tuple[SnapshotHeader, list[bytes]]:
        header, parts = read_snapshot(data)
        self._discard_job()
        write_snapshot(self._path, header, parts)
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
        def work() -> SnapshotHeader:
            write_snapshot(self._path, header, parts)
            return header

        self._job = self._executor.submit(work)

    def written(self) -> SnapshotHeader | None:
        if self._job is None or not self._job.done():
            return None
        job, self._job = self._job, None
        self._header = job.result()
        return self._header

    def _discard_job(self) -> None:
        """Wait for an older snapshot under way: it must not replace the newer one."""
        if self._job is not None:
            self._job.result()
            self._job = None
