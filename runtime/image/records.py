"""The records of the store: one per image, kept as descriptors of `index.json`. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from runtime.image import blobs as oci
from runtime.image.model import LayerInfo
from runtime.image.reference import Reference, parse

REF_NAME = "org.opencontainers.image.ref.name"
_PARENT = "io.swarm.image.parent"
_CACHE_KEY = "io.swarm.image.cache-key"
_REPO_DIGESTS = "io.swarm.image.repo-digests"
_SOURCE = "io.swarm.image.source-manifest"
_REMOVED = "io.swarm.image.removed"
_UNPACKED = "io.swarm.layer.unpacked-bytes"


@dataclass
class Record:
    """One image of the index."""

    image_id: str
    manifest: dict[str, Any]  # the descriptor, without annotations
    refs: list[str]  # canonical
    repo_digests: list[str]
    parent: str
    cache_key: str
    source: str = ""  # digest of the manifest a registry had for it
    removed: bool = False  # for the user; a stopped container still rests on its layers


def read_records(
    index: Iterable[dict[str, Any]], manifest: Callable[[str], dict[str, Any]]
) -> dict[str, Record]:
    """Read the descriptors of an index; `manifest` fetches one by digest."""
    records: dict[str, Record] = {}
    for item in index:
        notes = item.get("annotations", {})
        image_id = manifest(item["digest"])["config"]["digest"]
        record = records.setdefault(
            image_id,
            Record(
                image_id,
                {key: item[key] for key in ("mediaType", "digest", "size")},
                [],
                json.loads(notes.get(_REPO_DIGESTS, "[]")),
                notes.get(_PARENT, ""),
                notes.get(_CACHE_KEY, ""),
                notes.get(_SOURCE, ""),
                _REMOVED in notes,
            ),
        )
        if REF_NAME in notes:
            record.refs.append(notes[REF_NAME])
    return records


def descriptors(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the descriptors of an index: one per image and reference."""
    manifests = []
    for record in records:
        notes = {
            _PARENT: record.parent,
            _CACHE_KEY: record.cache_key,
            _SOURCE: record.source,
            _REMOVED: "1" if record.removed else "",
        }
        if record.repo_digests:
            notes[_REPO_DIGESTS] = json.dumps(record.repo_digests)
        notes = {key: value for key, value in notes.items() if value}
        for ref in record.refs or [""]:
            named = {**notes, REF_NAME: ref} if ref else notes
            manifests.append({**record.manifest, **({"annotations": named} if named else {})})
    return manifests


def answers_to(record: Record, name: Reference) -> bool:
    """Tell whether an image is what a reference names."""
    if name.canonical in record.refs:
        return True
    if not name.digest:
        return False
    same_repo = any(parse(ref).name == name.name for ref in record.refs)
    return f"{name.name}@{name.digest}" in record.repo_digests or (
        same_repo and record.manifest["digest"] == name.digest
    )


def manifest_of(config_digest: str, size: int, layers: tuple[LayerInfo, ...]) -> dict[str, Any]:
    """Return our manifest of an image; it keeps what a layer unpacks to."""
    return {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": {"mediaType": oci.CONFIG, "digest": config_digest, "size": size},
        "layers": [
            {
                "mediaType": layer.media_type,
                "digest": layer.digest,
                "size": layer.size_bytes,
                "annotations": {_UNPACKED: str(layer.unpacked_bytes)},
            }
            for layer in layers
        ],
    }


def layers_of(manifest: dict[str, Any], config: dict[str, Any]) -> tuple[LayerInfo, ...]:
    """Return the layers a manifest and its config tell of, bottom first."""
    return tuple(
        LayerInfo(
            item["digest"],
            diff_id,
            item["size"],
            item["mediaType"],
            int(item.get("annotations", {}).get(_UNPACKED, item["size"])),
        )
        for item, diff_id in zip(
            manifest["layers"], config.get("rootfs", {}).get("diff_ids", []), strict=True
        )
    )
