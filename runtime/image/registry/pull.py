"""Pull: manifest, config, layers in parallel, one image registered at the end or nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from runtime.image import blobs as oci
from runtime.image.errors import BadArchive, DiskFull, ImageNotFound
from runtime.image.intake import take_layer
from runtime.image.model import Image, LayerInfo, chain_ids
from runtime.image.reference import Reference
from runtime.image.registry.auth import NOBODY, Credentials
from runtime.image.registry.disk import in_thread
from runtime.image.registry.download import download
from runtime.image.registry.endpoint import RegistrySettings, endpoints
from runtime.image.registry.errors import RegistryError, RemoteNotFound
from runtime.image.registry.flights import Flights, Report
from runtime.image.registry.manifest import (
    CONFIG_MAX_BYTES,
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose,
    diff_ids,
    json_object,
    normal,
    platform_of,
    suits,
)
from runtime.image.registry.nearby import by_address
from runtime.image.registry.progress import Emit, Layers
from runtime.image.registry.repository import Repository
from runtime.image.registry.transport import Sleep, Transport
from runtime.image.store import ImageStore

_DOWNLOADS = 3  # at a time for the whole daemon, Docker's default
_UNPACKS = max(1, min(4, os.cpu_count() or 1))
_REPORT_EVERY_S = 0.1
T = TypeVar("T")
Weigh = Callable[[Mapping[str, int]], None]
"""Told the sizes in bytes of the layers that are to be fetched, by the ids in the lines."""


def host_platform() -> Platform:
    """Return what this machine runs."""
    return normal("linux", os.uname().machine, "")


class Puller:
    """Pulls into one store; layers wanted by several pulls at once are fetched once."""

    def __init__(
        self, store: ImageStore, settings: RegistrySettings, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.store = store
        self.flights: Flights[LayerInfo] = Flights()
        self._settings = settings
        self._sleep = sleep
        self._downloads = asyncio.Semaphore(_DOWNLOADS)
        self._unpacks = asyncio.Semaphore(_UNPACKS)

    async def pull(
        self,
        reference: Reference,
        credentials: Credentials = NOBODY,
        *,
        platform: Platform | None = None,
        emit: Emit = lambda line: None,
        weigh: Weigh = lambda sizes: None,
        all_tags: bool = False,
    ) -> list[Image]:
        """Fetch an image, or with `all_tags` every one of the repository; mirrors come first.

        Raises RemoteNotFound, Unauthorized, RegistryError, BadArchive, DiskFull. A failed pull
        leaves nothing in the store.
        """
        name = reference.with_default_tag()

        async def bring(repository: Repository) -> list[Image]:
            names = [name]
            if all_tags:
                names = [replace(reference, tag=tag) for tag in await repository.tags()]
            pulls = [_Pull(self, repository, item, platform, emit, weigh) for item in names]
            done = [await pull.run() for pull in pulls]
            state = "Image is up to date for"
            if any(newer for _, newer in done):
                state = "Downloaded newer image for"
            shown = reference.familiar_name if all_tags else name.familiar
            emit({"status": f"Status: {state} {shown}"})
            return [image for image, _ in done]

        try:
            return await self._ask(name, credentials, bring)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(str(self.store.blobs.root)) from error
            raise

    async def resolve(
        self, reference: Reference, credentials: Credentials = NOBODY
    ) -> tuple[Descriptor, list[Platform]]:
        """Ask what a reference names now, without fetching it (docker service create)."""
        name = reference.with_default_tag()

        async def look(repository: Repository) -> tuple[Descriptor, list[Platform]]:
            manifest = await repository.manifest(name.digest or name.tag)
            if isinstance(manifest, Index):
                platforms = [entry[1] for entry in manifest.entries]
                return manifest.descriptor, [item for item in platforms if item.os != "unknown"]
            raw = await repository.document(manifest.config, CONFIG_MAX_BYTES)
            return manifest.descriptor, [platform_of(_config(raw, manifest))]

        return await self._ask(name, credentials, look)

    async def _ask(
        self,
        reference: Reference,
        credentials: Credentials,
        question: Callable[[Repository], Awaitable[T]],
    ) -> T:
        """Ask one endpoint after the other, mirrors first; raises what the last one said."""
        problem: RegistryError | None = None
        settings = await by_address(reference.domain, self._settings)
        for endpoint in endpoints(reference.domain, settings):
            try:
                async with Transport(endpoint, credentials, self._sleep) as transport:
                    return await question(Repository(transport, reference.path))
            except RegistryError as error:
                problem = error
        assert problem is not None
        raise _explained(problem, reference)

    async def fetch_layer(
        self, repository: Repository, blob: Descriptor, below: tuple[str, ...], report: Report
    ) -> LayerInfo:
        """Download and unpack one layer; `below` ends with its own diff id."""
        directory = self.store.blobs.temporary
        if self._downloads.locked():
            report("Waiting", 0, 0)
        async with self._downloads, repository.transport:
            path = await download(
                repository,
                blob,
                directory,
                lambda size: report("Downloading", size, blob.size),
                self._sleep,
            )
        report("Verifying Checksum", 0, 0)
        report("Download complete", 0, 0)
        stop = threading.Event()
        unpacking = _from_thread(partial(report, "Extracting"), blob.size, stop)
        try:
            async with self._unpacks:
                work = partial(take_layer, self.store, path, blob.digest, below, unpacking)
                return await in_thread(work, stop)
        finally:
            await in_thread(lambda: path.unlink(missing_ok=True))


class _Pull:
    """One image on its way."""

    def __init__(
        self,
        puller: Puller,
        repository: Repository,
        reference: Reference,
        platform: Platform | None,
        emit: Emit,
        weigh: Weigh,
    ) -> None:
        self._puller = puller
        self._store = puller.store
        self._repository = repository
        self._reference = reference
        self._platform = platform
        self._emit = emit
        self._weigh = weigh
        self._lines = Layers(emit, time.monotonic)

    async def run(self) -> tuple[Image, bool]:
        """Pull; the flag tells whether the name means another image than before."""
        tag = self._reference.digest or self._reference.tag
        manifest = await self._repository.manifest(tag)
        top = manifest.descriptor.digest
        if isinstance(manifest, Index):
            chosen = choose(manifest, self._platform or host_platform())
            manifest = await self._repository.manifest(chosen.digest)
            if isinstance(manifest, Index):
                raise RegistryError(f"index {top} names another index for a platform")
        self._emit({"status": f"Pulling from {self._reference.path}", "id": tag})
        before = await in_thread(self._present)
        repo_digest = f"{self._reference.name}@{top}"
        image = await self._fetch(manifest, repo_digest)
        self._emit({"status": f"Digest: {top}"})
        return image, before != image.id

    def _present(self) -> str:
        try:
            return self._store.resolve(self._reference.canonical).id
        except ImageNotFound:
            return ""

    async def _fetch(self, manifest: Manifest, repo_digest: str) -> Image:
        raw = await self._repository.document(manifest.config, CONFIG_MAX_BYTES)
        config = _config(raw, manifest)
        self._check_platform(config)
        try:
            ids = diff_ids(config, len(manifest.layers))
            held = [*chain_ids(ids), *(layer.digest for layer in manifest.layers)]
            self._store.hold(held)
            try:
                layers = await self._layers(manifest, ids)
                return await in_thread(
                    lambda: self._register(config, raw, layers, manifest, repo_digest)
                )
            finally:
                await in_thread(lambda: self._store.release(held))
        except BadArchive as error:
            raise RegistryError(f"image {repo_digest}: {error}") from error

    def _check_platform(self, config: Any) -> None:
        found = platform_of(config)
        if found.os != "linux":
            raise RegistryError(
                f'image operating system "{found.os}" cannot be used on this platform'
            )
        if self._platform is not None and not suits(found, self._platform):
            raise RemoteNotFound(
                f"image with reference {self._reference.familiar} was found but does not match "
                f"the specified platform: wanted {self._platform}, actual: {found}"
            )

    async def _layers(self, manifest: Manifest, ids: tuple[str, ...]) -> list[LayerInfo]:
        """Bring every layer, in parallel; the first failure ends the others."""
        tasks = []
        sizes: dict[str, int] = {}
        for position, layer in enumerate(manifest.layers):
            known = await in_thread(partial(self._store.known_layer, layer.digest, ids[position]))
            name = layer.digest.removeprefix("sha256:")[:12]
            self._lines.status(name, "Already exists" if known else "Pulling fs layer")
            if known is None:
                sizes[name] = layer.size
            below = ids[: position + 1]
            tasks.append(asyncio.ensure_future(self._layer(layer, below, name, known)))
        self._weigh(sizes)
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _layer(
        self, layer: Descriptor, below: tuple[str, ...], name: str, known: LayerInfo | None
    ) -> LayerInfo:
        if known is not None:
            return known

        def report(status: str, current: int, total: int) -> None:
            if total:
                self._lines.bytes(name, status, current, total)
            else:
                self._lines.status(name, status)

        key = f"{layer.digest} on {chain_ids(below)[-1]}"
        info = await self._puller.flights.join(
            key, partial(self._puller.fetch_layer, self._repository, layer, below), report
        )
        self._lines.status(name, "Pull complete")
        return info

    def _register(
        self,
        config: dict[str, Any],
        raw: bytes,
        layers: list[LayerInfo],
        manifest: Manifest,
        repo_digest: str,
    ) -> Image:
        self._store.sync()
        return self._store.put_image(
            config,
            layers,
            [] if self._reference.digest else [self._reference.canonical],
            raw_config=raw,
            source=manifest.raw,
            repo_digest=repo_digest,
        )


def _from_thread(
    report: Callable[[int, int], None], total: int, stop: threading.Event
) -> Callable[[int], None]:
    """Return what a worker thread may call often; it raises once `stop` is set."""
    loop = asyncio.get_running_loop()
    told_s = 0.0

    def heard(current: int) -> None:
        nonlocal told_s
        if stop.is_set():
            raise BadArchive("the pull was cancelled")
        now_s = time.monotonic()
        if now_s - told_s >= _REPORT_EVERY_S:
            told_s = now_s
            loop.call_soon_threadsafe(report, current, total)

    return heard


def _config(raw: bytes, manifest: Manifest) -> dict[str, Any]:
    if oci.digest_of(raw) != manifest.config.digest:
        raise RegistryError(f"image config verification failed for {manifest.config.digest}")
    return json_object("image config", raw)


def _explained(error: RegistryError, reference: Reference) -> RegistryError:
    """Put a registry's words into Docker's sentence about a pull."""
    words = str(error)
    if words.startswith("denied"):
        return RemoteNotFound(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may "
            f"require 'docker login': {words}"
        )
    if not isinstance(error, RemoteNotFound):
        return error
    if words.startswith("name unknown"):
        return RemoteNotFound(f"repository {reference.familiar_name} not found: {words}")
    if words.startswith(("manifest unknown", "not found")):
        return RemoteNotFound(f"manifest for {reference.familiar} not found: {words}")
    return error
