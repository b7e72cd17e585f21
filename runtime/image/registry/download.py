"""One blob into a file: hashed while it arrives, resumed where the connection breaks."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import aiohttp

from runtime.image.registry.disk import in_thread
from runtime.image.registry.errors import RegistryError
from runtime.image.registry.manifest import Descriptor
from runtime.image.registry.repository import Repository

TRIES_WITHOUT_PROGRESS = 5
_PIECE_BYTES = 1 << 20
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)


async def download(
    repository: Repository,
    blob: Descriptor,
    directory: Path,
    progress: Callable[[int], None],
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Path:
    """Fetch a blob into a new file of `directory` and return its path.

    `progress` is told the bytes so far. The file is gone where this raises: RegistryError for a
    wrong digest or size or a registry that gives up, OSError where the disk does.
    """
    target = _Target(directory)
    try:
        await in_thread(target.open)
        fruitless = best = 0
        while target.size < blob.size or not blob.size:
            try:
                await _receive(repository, blob, target, progress)
            except _BROKEN as error:
                fruitless = 0 if target.size > best else fruitless + 1
                best = max(best, target.size)
                if fruitless >= TRIES_WITHOUT_PROGRESS:
                    raise RegistryError(f"blob {blob.digest}: {error}") from error
                await pause(0.1 * 2**fruitless)
            if not blob.size:
                break
        found = "sha256:" + target.hasher.hexdigest()
        if found != blob.digest:
            raise RegistryError(
                f"filesystem layer verification failed for digest {blob.digest}: it has {found}"
            )
        return target.path
    except BaseException:
        await in_thread(target.remove)
        raise
    finally:
        target.close()


class _Target:
    """A file that grows and the hash of what is in it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"blob-{os.urandom(8).hex()}"
        self.size = 0
        self.hasher = hashlib.sha256()
        self._fd = -1

    def open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def write(self, pieces: list[bytes]) -> None:
        """Append; both halves release the interpreter for pieces of this size."""
        content = b"".join(pieces)
        self.hasher.update(content)
        view = memoryview(content)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(content)

    def restart(self) -> None:
        """Forget everything, for a registry that cannot resume."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size = 0
        self.hasher = hashlib.sha256()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


async def _receive(
    repository: Repository, blob: Descriptor, target: _Target, progress: Callable[[int], None]
) -> None:
    """Append what one connection brings; a piece is written while the next one arrives."""
    async with repository.blob(blob.digest, target.size) as response:
        if target.size and not _continues(response, target.size):
            await in_thread(target.restart)
        writing: asyncio.Future[None] | None = None
        received = target.size
        pieces: list[bytes] = []
        held = 0
        try:
            async for piece in response.content.iter_any():
                pieces.append(piece)
                held += len(piece)
                received += len(piece)
                if received > blob.size:
                    raise RegistryError(
                        f"blob {blob.digest} is larger than the {blob.size} bytes announced"
                    )
                if held >= _PIECE_BYTES:
                    if writing is not None:
                        await writing
                    writing = asyncio.ensure_future(in_thread(partial(target.write, pieces)))
                    pieces, held = [], 0
                    progress(received)
        finally:  # what has arrived counts, also when the connection broke
            if writing is not None:
                await writing
            if pieces:
                await in_thread(partial(target.write, pieces))
            progress(target.size)
        if received < blob.size:
            raise aiohttp.ClientPayloadError(f"ended after {received} of {blob.size} bytes")


def _continues(response: aiohttp.ClientResponse, offset: int) -> bool:
    """Tell whether an answer goes on where we stopped; raises RegistryError where elsewhere."""
    if response.status != 206:
        return False
    given = response.headers.get("Content-Range", "")
    if not given.startswith(f"bytes {offset}-"):
        raise RegistryError(f"registry resumed at {given!r} instead of byte {offset}")
    return True
