"""One repository of a registry: manifests, tags, blobs and uploads."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import quote, urlencode, urljoin

import aiohttp
import msgspec

from runtime.image.registry.errors import Interrupted, RegistryError, RemoteNotFound
from runtime.image.registry.manifest import (
    ACCEPTED,
    MANIFEST_MAX_BYTES,
    Descriptor,
    Index,
    Manifest,
    decode,
)
from runtime.image.registry.transport import Transport

_TAGS_MAX_BYTES = 16 << 20
_PAGES_MAX = 1000
_NEXT = re.compile(r'<([^>]+)>\s*;[^,]*\brel="?next"?')
Content = Callable[[], AsyncIterator[bytes]]


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class Repository:
    """`path` of the registry behind a transport; `actions` are what tokens are asked for."""

    def __init__(self, transport: Transport, path: str, actions: str = "pull") -> None:
        self.transport = transport
        self.path = path
        self._scopes: tuple[str, ...] = (f"repository:{path}:{actions}",)

    async def manifest(self, reference: str) -> Manifest | Index:
        """Fetch what a tag or digest names; a digest is verified. Raises RegistryError."""
        raw, headers = await self.transport.read(
            f"/v2/{self.path}/manifests/{reference}",
            MANIFEST_MAX_BYTES,
            scopes=self._scopes,
            headers={"Accept": ", ".join(ACCEPTED)},
        )
        expected = reference if reference.startswith("sha256:") else ""
        return decode(raw, headers.get("Content-Type", ""), expected)

    async def tags(self) -> list[str]:
        """List all tags, page by page."""
        found: list[str] = []
        path = f"/v2/{self.path}/tags/list"
        for _ in range(_PAGES_MAX):
            raw, headers = await self.transport.read(path, _TAGS_MAX_BYTES, scopes=self._scopes)
            try:
                found += msgspec.json.decode(raw, type=_Tags).tags or []
            except msgspec.DecodeError as error:
                raise RegistryError(f"list of tags of {self.path}: {error}") from None
            following = _NEXT.search(headers.get("Link", ""))
            if following is None:
                return found
            path = _local(path, following[1]).removeprefix(self.transport.endpoint.prefix)
        raise RegistryError(f"{self.path} has more than {_PAGES_MAX} pages of tags")

    async def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """Fetch a small blob whole, such as an image config; its digest is not checked here."""
        if descriptor.size > limit:
            raise RegistryError(
                f"blob {descriptor.digest} is {descriptor.size} bytes, more than {limit}"
            )
        raw, _ = await self.transport.read(
            self._blob(descriptor.digest), limit, scopes=self._scopes
        )
        return raw

    @asynccontextmanager
    async def blob(self, digest: str, offset: int) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a blob from `offset` on; a registry without ranges starts at 0 (status 200)."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self.transport.open(
            "GET", self._blob(digest), scopes=self._scopes, headers=headers
        ) as response:
            yield response

    async def has(self, digest: str) -> bool:
        """Tell whether the repository has a blob."""
        try:
            async with self.transport.open("HEAD", self._blob(digest), scopes=self._scopes):
                return True
        except RemoteNotFound:
            return False

    async def begin_upload(self, digest: str, mount_from: str = "") -> str:
        """Begin an upload and return where it goes; empty where the blob could be mounted."""
        query, scopes = "", self._scopes
        if mount_from:
            query = "?" + urlencode({"mount": digest, "from": mount_from})
            scopes = (*scopes, f"repository:{mount_from}:pull")
        path = f"/v2/{self.path}/blobs/uploads/{query}"
        async with self.transport.open("POST", path, scopes=scopes) as response:
            if response.status == 201:
                return ""
            location = response.headers.get("Location", "")
            if response.status != 202 or not location:
                raise RegistryError(f"{self.path}: no upload was begun: {response.status}")
            return urljoin(str(response.url), location)

    async def upload(self, location: str, digest: str, size: int, content: Content) -> None:
        """Send a whole blob; raises Interrupted where the connection broke on the way."""
        url = location + ("&" if "?" in location else "?") + "digest=" + quote(digest, safe="")
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        try:
            async with self.transport.open(
                "PUT", url, scopes=self._scopes, headers=headers, body=content, tries=1
            ) as response:
                if response.status != 201:
                    raise RegistryError(f"upload of {digest}: {response.status} {response.reason}")
        except RegistryError as error:
            if isinstance(error.__cause__, aiohttp.ClientError | TimeoutError):
                raise Interrupted(str(error)) from error
            raise

    async def put_manifest(self, reference: str, manifest: Manifest) -> None:
        """Publish a manifest under a tag; raises RegistryError where another digest comes back."""
        async with self.transport.open(
            "PUT",
            f"/v2/{self.path}/manifests/{reference}",
            scopes=self._scopes,
            headers={"Content-Type": manifest.descriptor.media_type},
            body=lambda: manifest.raw,
        ) as response:
            digest = response.headers.get("Docker-Content-Digest", manifest.descriptor.digest)
        if digest != manifest.descriptor.digest:
            raise RegistryError(f"registry stored {digest} for {manifest.descriptor.digest}")

    def _blob(self, digest: str) -> str:
        return f"/v2/{self.path}/blobs/{digest}"


def _local(path: str, link: str) -> str:
    """Resolve a Link header; it may not lead to another host."""
    target = urljoin(f"http://here{path}", link)
    if not target.startswith("http://here/"):
        # an absolute link: only its path and query count
        target = "http://here/" + link.partition("://")[2].partition("/")[2]
    return target.removeprefix("http://here")
