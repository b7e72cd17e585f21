"""Whether an image store holds what it says: every blob by its digest, and nothing besides."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from runtime.image.blobs import BlobStore
from runtime.image.errors import ImageError
from runtime.image.store import ImageStore

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be; `kind` says of what `name` is the name."""

    kind: str
    name: str
    problem: str
    repaired: bool = False


def verify(store: ImageStore, *, repair: bool) -> list[Finding]:
    """Read every blob; with `repair`, delete what nothing needs. Blocking, and long."""
    wanted = store.wanted()
    findings = []
    for digest, image_id in wanted.blobs.items():
        if image_id and (problem := _problem_of(store.blobs, digest)):
            advice = f"{problem}: remove image {image_id[:19]} and pull or load it again"
            findings.append(Finding("blob", digest, advice))
    if wanted.busy:
        return findings
    blobs = [digest for digest in store.blobs.digests() if digest not in wanted.blobs]
    layers = [chain for chain in store.layers() if chain not in wanted.chains]
    if repair and (blobs or layers):
        store.collect()
    left = {*store.blobs.digests(), *store.layers()}
    for kind, names in (("blob", blobs), ("layer", layers)):
        findings += [Finding(kind, name, "no image needs it", name not in left) for name in names]
    return findings


def _problem_of(blobs: BlobStore, digest: str) -> str:
    hasher = hashlib.sha256()
    try:
        with blobs.open(digest) as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
    except ImageError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return "" if digest == "sha256:" + hasher.hexdigest() else "its content has another digest"
