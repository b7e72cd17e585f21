"""Manifests and indexes: decoding with limits, choice of a platform, what a push sends. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runtime.image import blobs as oci
from runtime.image.errors import BadArchive
from runtime.image.registry.errors import RegistryError, RemoteNotFound

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ACCEPTED = (DOCKER_MANIFEST, DOCKER_INDEX, oci.MANIFEST, oci.INDEX)
MANIFEST_MAX_BYTES = 4 << 20
CONFIG_MAX_BYTES = 8 << 20
LAYERS_MAX = 512
ENTRIES_MAX = 1024
_CONFIGS = {DOCKER_CONFIG, oci.CONFIG, "text/html", ""}  # text/html: a quirk of old registries
_LAYERS = re.compile(
    r"application/vnd\.(docker\.image\.rootfs\.diff\.tar(\.(gzip|zstd))?"
    r"|oci\.image\.layer\.v1\.tar(\+(gzip|zstd))?)"
)
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")


@dataclass(frozen=True)
class Descriptor:
    """What a manifest says about a blob or another manifest."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Platform:
    """An operating system, an architecture and its variant, which may be empty."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:  # type: ignore[explicit-override]  # 3.11 has none
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def record(self) -> dict[str, str]:
        """Return it in the API's words."""
        found = {"architecture": self.architecture, "os": self.os}
        return {**found, "variant": self.variant} if self.variant else found


@dataclass(frozen=True)
class Manifest:
    """One image: its bytes as the registry has them, and what they name."""

    raw: bytes
    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Index:
    """Images of several platforms."""

    raw: bytes
    descriptor: Descriptor
    entries: tuple[tuple[Descriptor, Platform], ...]


def decode(raw: bytes, content_type: str, expected: str = "") -> Manifest | Index:
    """Read what a registry sent for a manifest.

    Raises RegistryError for a wrong digest, one larger than the limits, schema 1, artifacts
    that are no images, and documents whose type is ambiguous (CVE-2021-41190).
    """
    if len(raw) > MANIFEST_MAX_BYTES:
        raise RegistryError(f"manifest is larger than {MANIFEST_MAX_BYTES} bytes")
    digest = oci.digest_of(raw)
    if expected and digest != expected:
        raise RegistryError(f"manifest verification failed for digest {expected}: it has {digest}")
    value = json_object("manifest", raw)
    if value.get("schemaVersion") != 2:
        raise RegistryError(
            f"manifest has schema version {value.get('schemaVersion')!r}: only 2 is supported"
        )
    media_type = _type_of(value, content_type)
    own = Descriptor(media_type, digest, len(raw))
    if media_type in (DOCKER_INDEX, oci.INDEX):
        return Index(raw, own, _entries(value))
    layers = tuple(_descriptor(item) for item in _list(value, "layers", LAYERS_MAX))
    config = _descriptor(value.get("config"))
    if config.media_type not in _CONFIGS:
        raise RegistryError(f"not an image: its config is {config.media_type}")
    for layer in layers:
        if not _LAYERS.fullmatch(layer.media_type):
            raise RegistryError(f"layer type {layer.media_type!r} is not supported")
    return Manifest(raw, own, config, layers)


def json_object(what: str, raw: bytes) -> dict[str, Any]:
    """Return the JSON object in a document; raises RegistryError when there is none."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RegistryError(f"{what} is not a JSON object")
    return value


def _type_of(value: dict[str, Any], content_type: str) -> str:
    inside = value.get("mediaType") or ""
    outside = content_type.partition(";")[0].strip()
    if inside and outside in ACCEPTED and inside != outside:
        raise RegistryError(f"manifest is sent as {outside} and calls itself {inside}")
    if "manifests" in value and ("layers" in value or "config" in value):
        raise RegistryError("manifest is both an image and an index")
    media_type = inside or (outside if outside in ACCEPTED else "")
    if not media_type:
        media_type = oci.INDEX if "manifests" in value else oci.MANIFEST
    if media_type not in ACCEPTED:
        raise RegistryError(f"manifest type {media_type!r} is not supported")
    if ("manifests" in value) != (media_type in (DOCKER_INDEX, oci.INDEX)):
        raise RegistryError(f"manifest does not look like its type {media_type}")
    return str(media_type)


def _list(value: dict[str, Any], name: str, most: int) -> list[Any]:
    items = value.get(name)
    if not isinstance(items, list):
        raise RegistryError(f"manifest has no list of {name}")
    if len(items) > most:
        raise RegistryError(f"manifest has {len(items)} {name}, more than {most}")
    return items


def _descriptor(item: Any) -> Descriptor:
    if not isinstance(item, dict):
        raise RegistryError("manifest has a descriptor that is no object")
    digest, size = item.get("digest"), item.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise RegistryError(f"unsupported digest {digest!r}: only sha256 is")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise RegistryError(f"manifest has no valid size for {digest}")
    return Descriptor(str(item.get("mediaType") or ""), digest, size)


def _entries(value: dict[str, Any]) -> tuple[tuple[Descriptor, Platform], ...]:
    found = []
    for item in _list(value, "manifests", ENTRIES_MAX):
        descriptor = _descriptor(item)
        platform = item.get("platform")
        if descriptor.media_type in (DOCKER_MANIFEST, oci.MANIFEST, ""):
            found.append((descriptor, platform_of(platform if isinstance(platform, dict) else {})))
    return tuple(found)


def platform_of(value: dict[str, Any]) -> Platform:
    """Return the platform an index entry or an image config names; linux/amd64 by default."""
    return normal(
        str(value.get("os") or "linux"),
        str(value.get("architecture") or "amd64"),
        str(value.get("variant") or ""),
    )


def parse_platform(text: str) -> Platform:
    """Read `os/arch[/variant]` or a bare architecture.

    Raises ValueError where it is none of them.
    """
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts):
        raise ValueError(f"invalid platform {text!r}: want os/architecture[/variant]")
    if len(parts) == 1:
        return Platform(parts[0], "") if parts[0] == "linux" else normal("linux", parts[0], "")
    return normal(parts[0], parts[1], parts[2] if len(parts) == 3 else "")


def normal(system: str, architecture: str, variant: str) -> Platform:
    """Return a platform in Go's words: `x86_64` is amd64, arm64's v8 goes without saying."""
    names = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386"}
    names |= {"armhf": "arm", "armv7l": "arm", "armel": "arm"}
    variants = {"armhf": "v7", "armv7l": "v7", "armel": "v6"}
    variant = variant or variants.get(architecture, "")
    architecture = names.get(architecture, architecture)
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    return Platform(system, architecture, variant)


def suits(found: Platform, wanted: Platform) -> bool:
    """Tell whether an image of one platform is what was asked for."""
    return (
        found.os == wanted.os
        and wanted.architecture in ("", found.architecture)
        and wanted.variant in ("", found.variant)
    )


def choose(index: Index, wanted: Platform) -> Descriptor:
    """Return the entry for a platform, the first that suits, one without a variant before others.

    Raises RemoteNotFound naming what there is.
    """
    fitting = [entry for entry in index.entries if suits(entry[1], wanted)]
    fitting.sort(key=lambda entry: bool(entry[1].variant))  # stable: the index's own order
    if fitting:
        return fitting[0][0]
    have = ", ".join(sorted({str(platform) for _, platform in index.entries})) or "none"
    raise RemoteNotFound(
        f"no matching manifest for {wanted} in the manifest list entries (it has {have})"
    )


def diff_ids(config: Any, layers: int) -> tuple[str, ...]:
    """Return the diff ids of an image config; raises BadArchive where they do not match."""
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    found = [] if found is None and not layers else found
    if not isinstance(found, list) or not all(
        isinstance(item, str) and _DIGEST.fullmatch(item) for item in found
    ):
        raise BadArchive("image config has no valid list of diff ids")
    if len(found) != layers:
        raise BadArchive(f"image has {layers} layers and {len(found)} diff ids")
    return tuple(found)


def compose(config: Descriptor, layers: Iterable[Descriptor]) -> Manifest:
    """Make the manifest a push sends, as Docker writes it, so that equal images are equal there."""
    stack = tuple(layers)
    docker = all(layer.media_type == DOCKER_LAYER for layer in stack)
    named = Descriptor(DOCKER_CONFIG if docker else oci.CONFIG, config.digest, config.size)
    if not docker:
        stack = tuple(_oci_layer(layer) for layer in stack)
    media_type = DOCKER_MANIFEST if docker else oci.MANIFEST
    value = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _plain(named),
        "layers": [_plain(layer) for layer in stack],
    }
    raw = json.dumps(value, indent=3).encode()
    return Manifest(raw, Descriptor(media_type, oci.digest_of(raw), len(raw)), named, stack)


def _oci_layer(layer: Descriptor) -> Descriptor:
    if layer.media_type != DOCKER_LAYER:
        return layer
    return Descriptor(oci.LAYER + "+gzip", layer.digest, layer.size)


def _plain(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "size": descriptor.size,
        "digest": descriptor.digest,
    }
