"""Push: layers the registry lacks are mounted or sent, then the manifest names them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

from runtime.image import blobs as oci
from runtime.image.errors import ImageNotFound
from runtime.image.model import Image, LayerInfo
from runtime.image.reference import Reference, parse
from runtime.image.registry.auth import NOBODY, Credentials
from runtime.image.registry.disk import in_thread
from runtime.image.registry.endpoint import RegistrySettings, endpoints
from runtime.image.registry.errors import Interrupted
from runtime.image.registry.manifest import (
    DOCKER_LAYER,
    Descriptor,
    Manifest,
    compose,
    decode,
)
from runtime.image.registry.nearby import by_address
from runtime.image.registry.progress import Emit, Layers
from runtime.image.registry.repository import Repository
from runtime.image.registry.transport import TRIES, Sleep, Transport
from runtime.image.store import ImageStore

_UPLOADS = 5  # at a time for the whole daemon, Docker's default
_PIECE_BYTES = 1 << 20
_GZIP_LEVEL = 6


@dataclass(frozen=True)
class Pushed:
    """What one tag is at the registry now."""

    tag: str
    image_id: str
    descriptor: Descriptor


class Pusher:
    """Pushes from one store. A blob goes out as it is here; only plain layers are compressed."""

    def __init__(
        self, store: ImageStore, settings: RegistrySettings, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.store = store
        self.uploads = asyncio.Semaphore(_UPLOADS)
        self.sleep = sleep
        self.compressed: dict[str, Descriptor] = {}
        """What plain layers become, by their digest: asked for before compressing again."""
        self._settings = settings

    async def push(
        self,
        reference: Reference,
        credentials: Credentials = NOBODY,
        *,
        emit: Emit = lambda line: None,
        all_tags: bool = False,
    ) -> list[Pushed]:
        """Publish an image under its name, or with `all_tags` every tag of the repository.

        Raises ImageNotFound where the name is not here, Unauthorized, RegistryError.
        """
        tags = [reference.with_default_tag().tag]
        if all_tags:
            tags = await in_thread(partial(self._tags, reference))
        settings = await by_address(reference.domain, self._settings)
        (endpoint,) = endpoints(reference.domain, settings, push=True)
        done = []
        async with Transport(endpoint, credentials, self.sleep) as transport:
            repository = Repository(transport, reference.path, "pull,push")
            for tag in tags:
                image = await in_thread(partial(self.store.resolve, f"{reference.name}:{tag}"))
                push = _Push(self, repository, reference, image, emit)
                done.append(Pushed(tag, image.id, await push.run(tag)))
        return done

    def _tags(self, reference: Reference) -> list[str]:
        names = [parse(name) for image in self.store.list() for name in image.repo_tags]
        found = sorted(name.tag for name in names if name.name == reference.name)
        if not found:
            raise ImageNotFound(reference.familiar_name)
        return found


class _Push:
    """One image on its way out."""

    def __init__(
        self,
        pusher: Pusher,
        repository: Repository,
        reference: Reference,
        image: Image,
        emit: Emit,
    ) -> None:
        self._pusher = pusher
        self._store = pusher.store
        self._repository = repository
        self._reference = reference
        self._image = image
        self._emit = emit
        self._lines = Layers(emit, time.monotonic)

    async def run(self, tag: str) -> Descriptor:
        """Send what is missing, then the manifest; return what the tag is now."""
        image = self._image
        for layer in reversed(image.layers):
            self._lines.status(_name(layer), "Preparing")
        unique = {layer.digest: layer for layer in image.layers}
        tasks = [asyncio.ensure_future(self._layer(layer)) for layer in unique.values()]
        try:
            found = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        sent = dict(zip(unique, found, strict=True))
        config = await in_thread(partial(self._store.blobs.get, image.id))
        manifest = await in_thread(
            lambda: self._manifest([sent[layer.digest] for layer in image.layers], len(config))
        )
        if not await self._repository.has(image.id):
            await self._send(image.id, len(config), partial(_whole, config))
        await self._repository.put_manifest(tag, manifest)
        own = manifest.descriptor
        name = self._reference.name
        await in_thread(partial(self._store.add_repo_digest, image.id, name, own.digest))
        self._emit({"status": f"{tag}: digest: {own.digest} size: {own.size}"})
        aux = {"Tag": tag, "Digest": own.digest, "Size": own.size}
        self._emit({"progressDetail": {}, "aux": aux})
        return own

    def _manifest(self, layers: list[Descriptor], config_size: int) -> Manifest:
        """The manifest the image came with where it still fits: its digest stays the same."""
        if self._image.source_digest:
            raw = self._store.blobs.get(self._image.source_digest)
            source = decode(raw, "")
            if isinstance(source, Manifest) and [layer.digest for layer in source.layers] == [
                layer.digest for layer in layers
            ]:
                return source
        return compose(Descriptor("", self._image.id, config_size), layers)

    async def _layer(self, layer: LayerInfo) -> Descriptor:
        name = _name(layer)
        if layer.media_type == oci.LAYER:
            known = self._pusher.compressed.get(layer.digest)
            if known is not None and await self._is_there(known, name):
                return known
            async with self._pusher.uploads:
                work = partial(_compress, self._store, layer.digest)
                path, descriptor = await in_thread(work)
                try:
                    self._pusher.compressed[layer.digest] = descriptor
                    if known is not None or not await self._is_there(descriptor, name):
                        await self._upload(descriptor, path, name)
                finally:
                    await in_thread(partial(path.unlink, missing_ok=True))
            return descriptor
        media_type = DOCKER_LAYER if layer.media_type.endswith("gzip") else layer.media_type
        descriptor = Descriptor(media_type, layer.digest, layer.size_bytes)
        if await self._is_there(descriptor, name):
            return descriptor
        async with self._pusher.uploads:
            await self._upload(descriptor, self._store.blobs.path(layer.digest), name)
        return descriptor

    async def _is_there(self, blob: Descriptor, name: str) -> bool:
        there = await self._repository.has(blob.digest)
        if there:
            self._lines.status(name, "Layer already exists")
        return there

    async def _upload(self, blob: Descriptor, path: Path, name: str) -> None:
        """Mount from another repository of this registry, or send."""
        for other in await in_thread(partial(self._other_homes, blob.digest)):
            location = await self._repository.begin_upload(blob.digest, other)
            if not location:
                self._lines.status(name, f"Mounted from {other}")
                return
            break  # an upload was begun instead: use a fresh one, it may lack our scope
        sent = 0

        def progress(piece: int) -> None:
            nonlocal sent
            sent += piece
            self._lines.bytes(name, "Pushing", sent, blob.size)

        def content() -> AsyncIterator[bytes]:
            nonlocal sent
            sent = 0
            return _pieces(path, progress)

        await self._send(blob.digest, blob.size, content)
        self._lines.status(name, "Pushed")

    def _other_homes(self, digest: str) -> list[str]:
        """Repositories of this registry that our images say have the blob."""
        homes: dict[str, None] = {}
        for image in self._store.list():
            if any(layer.digest == digest for layer in image.layers):
                for name in image.repo_digests:
                    home = parse(name)
                    if home.domain == self._reference.domain:
                        homes[home.path] = None
        homes.pop(self._reference.path, None)
        return list(homes)[:1]

    async def _send(
        self, digest: str, size: int, content: Callable[[], AsyncIterator[bytes]]
    ) -> None:
        """Upload whole; a broken connection begins anew."""
        for left in reversed(range(TRIES)):
            location = await self._repository.begin_upload(digest)
            try:
                await self._repository.upload(location, digest, size, content)
                return
            except Interrupted:
                if not left:
                    raise
                await self._pusher.sleep(0.2 * (TRIES - left))


def _name(layer: LayerInfo) -> str:
    return layer.diff_id.removeprefix("sha256:")[:12]


async def _pieces(path: Path, progress: Callable[[int], None]) -> AsyncIterator[bytes]:
    file = await in_thread(lambda: path.open("rb"))
    try:
        while piece := await in_thread(partial(file.read, _PIECE_BYTES)):
            yield piece
            progress(len(piece))
    finally:
        file.close()


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content


class _Counting:
    """Writes through and hashes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hasher = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> int:
        self.hasher.update(piece)
        self.size += len(piece)
        return self._file.write(piece)

    def flush(self) -> None:
        self._file.flush()


def _compress(store: ImageStore, digest: str) -> tuple[Path, Descriptor]:
    """Gzip a plain layer into a file; the same layer always gives the same bytes."""
    fd, name = tempfile.mkstemp(prefix="push-", dir=store.blobs.temporary)
    path = Path(name)
    try:
        with os.fdopen(fd, "wb") as file, store.blobs.open(digest) as source:
            out = _Counting(file)
            packed = gzip.GzipFile("", "wb", _GZIP_LEVEL, fileobj=cast("IO[bytes]", out), mtime=0)
            with packed:
                shutil.copyfileobj(source, packed, _PIECE_BYTES)
    except BaseException:
        path.unlink()
        raise
    return path, Descriptor(DOCKER_LAYER, "sha256:" + out.hasher.hexdigest(), out.size)
