"""Images put into a fake registry."""

import gzip
import json
from typing import Any

from runtime.image.blobs import digest_of
from tests.fakes.registry import MANIFEST, FakeRegistry
from tests.unit.image.tars import file_member, tar_of

CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def layer(name: str, content: bytes) -> tuple[bytes, str]:
    """A gzipped layer with one file, and its diff id."""
    plain = tar_of(file_member(name, content)).getvalue()
    return gzip.compress(plain, 1, mtime=0), digest_of(plain)


def publish(
    registry: FakeRegistry,
    repository: str,
    tag: str,
    files: dict[str, bytes],
    *,
    architecture: str = "amd64",
    **changes: Any,
) -> str:
    """Publish an image with a layer per file; `changes` replace keys of its manifest."""
    layers = [layer(name, content) for name, content in files.items()]
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["x"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
        }
    ).encode()
    registry.put_blob(repository, config)
    for blob, _ in layers:
        registry.put_blob(repository, blob)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, blob) for blob, _ in layers],
    }
    return registry.put_manifest(repository, tag, {**manifest, **changes})
