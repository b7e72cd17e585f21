"""The content-addressed half of the store: an OCI image-layout's blobs and its index."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import IO, Any

from runtime.image.bounds import Readable
from runtime.image.durable import FULL, sync_directory, write_file
from runtime.image.errors import BadArchive, ImageError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
INDEX = "application/vnd.oci.image.index.v1+json"
_DIGEST = re.compile(r"sha256:([a-f0-9]{64})")
_CHUNK = 1 << 20
_RESERVE_BYTES = 1 << 20


def digest_of(content: bytes) -> str:
    """The digest of some bytes: `sha256:…`."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def encode(value: Any) -> bytes:
    """JSON as we store it: compact, keys sorted, so equal values have equal digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class BlobStore:
    """Blobs by digest below `root`, in the layout skopeo reads as `oci:root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self.temporary = root / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self._reserve = root / "reserve"
        self.fill_reserve()
        if not (root / "oci-layout").exists():
            write_file(root / "oci-layout", encode({"imageLayoutVersion": "1.0.0"}))

    def path(self, digest: str) -> Path:
        """Where the blob of this digest is or would be."""
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise ImageError(f"unsupported digest {digest!r}: only sha256 is")
        return self._blobs / match[1]

    def put(self, content: bytes) -> str:
        """Store bytes durably; return their digest."""
        digest = digest_of(content)
        path = self.path(digest)
        if not path.exists():
            write_file(path, content)
        return digest

    def put_stream(self, source: Readable, expected: str = "") -> tuple[str, int]:
        """Store a stream durably; return digest and size in bytes.

        Raises BadArchive where it does not have the expected digest.
        """
        hasher, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self.temporary, delete=False) as file:
            try:
                while chunk := source.read(_CHUNK):
                    hasher.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
                digest = "sha256:" + hasher.hexdigest()
                if expected and digest != expected:
                    raise BadArchive(f"content has digest {digest}, expected {expected}")
                file.flush()
                os.fsync(file.fileno())
                os.rename(file.name, self.path(digest))
            except BaseException:
                os.unlink(file.name)
                raise
        sync_directory(self._blobs)
        return digest, size

    def get(self, digest: str) -> bytes:
        """Read a small blob; raises ImageError where it is missing."""
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            raise ImageError(f"blob {digest} is missing from the image store") from None

    def get_json(self, digest: str) -> dict[str, Any]:
        """Read a JSON object."""
        value = json.loads(self.get(digest))
        if not isinstance(value, dict):
            raise ImageError(f"blob {digest} is not a JSON object")
        return value

    def open(self, digest: str) -> IO[bytes]:
        """Open a blob for reading; raises ImageError where it is missing."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise ImageError(f"blob {digest} is missing from the image store") from None

    def size(self, digest: str) -> int:
        """The bytes a blob takes, 0 where it is missing."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def digests(self) -> list[str]:
        """The digests of all blobs, as their files are named."""
        return sorted("sha256:" + path.name for path in self._blobs.iterdir())

    def keep_only(self, digests: set[str]) -> int:
        """Delete every other blob; return the bytes freed."""
        freed = 0
        for path in list(self._blobs.iterdir()):
            if "sha256:" + path.name not in digests:
                freed += path.stat().st_size
                path.unlink()
        return freed

    def read_index(self) -> list[dict[str, Any]]:
        """The manifest descriptors of `index.json`."""
        try:
            value = json.loads((self.root / "index.json").read_bytes())
        except FileNotFoundError:
            return []
        return list(value.get("manifests", []))

    def write_index(self, manifests: list[dict[str, Any]], *, from_reserve: bool = False) -> None:
        """Replace `index.json` durably; with `from_reserve` also on a disk that is full."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        content = encode(index)
        try:
            write_file(self.root / "index.json", content)
        except OSError as error:
            if not from_reserve or error.errno not in FULL:
                raise
            self._reserve.unlink(missing_ok=True)
            write_file(self.root / "index.json", content)

    def fill_reserve(self) -> None:
        """Set room aside for the index of a removal, which must work when nothing else does."""
        if self._reserve.exists():
            return
        try:
            with self._reserve.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)
        except OSError:
            self._reserve.unlink(missing_ok=True)  # no room now: a later removal makes some
