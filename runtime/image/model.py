"""What the store hands out: images and layers, as frozen values."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class LayerInfo:
    """One layer blob: its digest as stored, the digest of its plain tar, sizes in bytes."""

    digest: str
    diff_id: str
    size_bytes: int
    media_type: str
    unpacked_bytes: int


@dataclass(frozen=True)
class Image:
    """An image as stored; `config` is the OCI image config, references are familiar names."""

    id: str
    config: dict[str, Any] = field(hash=False)
    layers: tuple[LayerInfo, ...]
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    size_bytes: int
    created_ns: int
    architecture: str
    parent: str = ""
    manifest_digest: str = ""
    cache_key: str = ""
    source_digest: str = ""

    @property
    def short_id(self) -> str:
        """The twelve digits Docker prints."""
        return short_id(self.id)


def architecture() -> str:
    """This machine's architecture, in the words of image configs."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def short_id(image_id: str) -> str:
    """The first twelve hex digits of an id, with or without its algorithm."""
    return image_id.removeprefix("sha256:")[:12]


def chain_ids(diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """The chain ids of a stack of layers, bottom first (OCI image spec, config.md)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        if not chain:
            chain.append(diff_id)
            continue
        digest = hashlib.sha256(f"{chain[-1]} {diff_id}".encode()).hexdigest()
        chain.append(f"sha256:{digest}")
    return tuple(chain)


def shared_bytes(images: Iterable[Image]) -> dict[str, int]:
    """Return by image id the unpacked bytes of those layers that others of the images have too."""
    stacks = {
        image.id: dict(
            zip(chain_ids(tuple(la.diff_id for la in image.layers)), image.layers, strict=True)
        )
        for image in images
    }
    owners = Counter(chain for stack in stacks.values() for chain in stack)
    return {
        image_id: sum(layer.unpacked_bytes for chain, layer in stack.items() if owners[chain] > 1)
        for image_id, stack in stacks.items()
    }


def parse_time_ns(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time; 0 where it is missing or not one."""
    whole, _, rest = text.partition(".")
    digits = "".join(rest[: next((i for i, c in enumerate(rest) if not c.isdecimal()), len(rest))])
    zone = rest[len(digits) :] if rest else ""
    try:
        moment = datetime.fromisoformat(whole + zone)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + int(digits[:9].ljust(9, "0") or "0")


def format_time_ns(time_ns: int) -> str:
    """RFC 3339 with nanoseconds, UTC."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
