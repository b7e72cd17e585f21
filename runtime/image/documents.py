"""The documents of foreign images, checked as they come in: what follows trusts their shape."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from runtime.image.errors import BadArchive
from runtime.image.model import architecture

_LARGEST_BYTES = 16 << 20
_Empty = dict[str, Any]
_Kind = TypeVar("_Kind")


class _Health(msgspec.Struct, rename="pascal"):
    test: list[str] | None = None
    interval: int | None = None
    timeout: int | None = None
    start_period: int | None = None
    start_interval: int | None = None
    retries: int | None = None


class _Container(msgspec.Struct, rename="pascal"):
    user: str | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str | None = None
    volumes: dict[str, _Empty | None] | None = None
    exposed_ports: dict[str, _Empty | None] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    shell: list[str] | None = None
    on_build: list[str] | None = None
    healthcheck: _Health | None = None


class _Step(msgspec.Struct):
    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class _RootFs(msgspec.Struct):
    diff_ids: list[str]
    type: str = "layers"


class _Config(msgspec.Struct):
    rootfs: _RootFs
    config: _Container | None = None
    history: list[_Step] | None = None
    created: str | None = None
    author: str | None = None
    architecture: str = ""
    os: str = "linux"
    variant: str | None = None


class Platform(msgspec.Struct):
    """What an image runs on."""

    architecture: str = ""
    os: str = ""

    @property
    def runs_here(self) -> bool:
        """Tell whether this machine runs it."""
        return self.os == "linux" and self.architecture == architecture()


class Descriptor(msgspec.Struct, rename="camel"):
    """A reference to a blob."""

    digest: str
    size: int = 0
    media_type: str = ""
    annotations: dict[str, str] | None = None
    platform: Platform | None = None


class Manifest(msgspec.Struct, rename="camel"):
    """An image manifest, or an index: `manifests` is None in the former."""

    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None


class SavedImage(msgspec.Struct, rename="pascal"):
    """One entry of docker's manifest.json."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


def decode_config(raw: bytes) -> dict[str, Any]:
    """Check an image config and return it whole; raises BadArchive."""
    config = decode(raw, _Config, "image config")
    if config.os != "linux":
        raise BadArchive(f"image is for {config.os}: only linux images run here")
    found: dict[str, Any] = msgspec.json.decode(raw)
    return {key: value for key, value in found.items() if value is not None}


def decode(raw: bytes, kind: type[_Kind], what: str) -> _Kind:
    """Decode a document; raises BadArchive where it is too large or not of that kind."""
    if len(raw) > _LARGEST_BYTES:
        raise BadArchive(f"{what} is larger than {_LARGEST_BYTES} bytes")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadArchive(f"malformed {what}: {error}") from error
