"""Images as tar files: docker save and load, OCI archives, import of a root file system."""

from __future__ import annotations

import posixpath
import re
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

from runtime.image import blobs as oci
from runtime.image.bounds import Readable
from runtime.image.documents import Manifest, SavedImage, decode, decode_config
from runtime.image.errors import BadArchive, BadReference, ImageNotFound
from runtime.image.model import Image, LayerInfo, architecture, format_time_ns
from runtime.image.records import REF_NAME
from runtime.image.reference import parse
from runtime.image.store import ImageStore
from runtime.image.tarstream import decompress, open_archive

_JSON_MAX_BYTES = 16 << 20
_MEMBERS_MAX = 100_000
_INDEXES_MAX = 4
_BLOB_NAME = re.compile(r"blobs/sha256/([a-f0-9]{64})")
_CHUNK = 1 << 20


def save(store: ImageStore, refs: Iterable[str], out: IO[bytes]) -> None:
    """Write images as one tar that `docker load` and OCI tools both read."""
    manifests: list[dict[str, Any]] = []
    index: list[dict[str, Any]] = []
    done: set[str] = set()
    chosen: dict[str, tuple[Image, list[str]]] = {}
    for ref in refs:
        image = store.resolve(ref)
        names = chosen.setdefault(image.id, (image, []))[1]
        names += [name for name in _names_meant(image, ref) if name not in names]
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for image, names in chosen.values():
            for digest in (image.id, *(x.digest for x in image.layers), image.manifest_digest):
                if digest not in done:
                    done.add(digest)
                    with store.blobs.open(digest) as file:
                        info = tarfile.TarInfo(_blob_name(digest))
                        info.size, info.mode = store.blobs.size(digest), 0o644
                        tar.addfile(info, file)
            manifests.append(
                {
                    "Config": _blob_name(image.id),
                    "RepoTags": names or None,
                    "Layers": [_blob_name(layer.digest) for layer in image.layers],
                }
            )
            index += _descriptors(store, image, names)
        layout = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": index}
        _add(tar, "oci-layout", oci.encode({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", oci.encode(layout))
        _add(tar, "manifest.json", oci.encode(manifests))


def meant(store: ImageStore, refs: Iterable[str]) -> list[str]:
    """Return what references mean: a bare repository all of its tags. Raises ImageNotFound."""
    by_repository: dict[str, list[str]] = {}
    for tag in sorted(tag for image in store.list() for tag in image.repo_tags):
        by_repository.setdefault(parse(tag).name, []).append(tag)
    found: list[str] = []
    for ref in refs:
        tags = by_repository.get(_repository(ref), [])
        if not tags:
            store.resolve(ref)
        found += tags or [ref]
    return found


def _repository(ref: str) -> str:
    """The repository that a bare name means; empty for all else."""
    with suppress(BadReference):
        reference = parse(ref)
        if not reference.tag and not reference.digest:
            return reference.name
    return ""


def _names_meant(image: Image, ref: str) -> list[str]:
    """The tag a reference names; none for an id."""
    try:
        name = parse(ref).with_default_tag().familiar
    except BadReference:
        return []
    return [name] if name in image.repo_tags else []


def _descriptors(store: ImageStore, image: Image, names: list[str]) -> list[dict[str, Any]]:
    base = {
        "mediaType": oci.MANIFEST,
        "digest": image.manifest_digest,
        "size": store.blobs.size(image.manifest_digest),
    }
    if not names:
        return [base]
    return [
        {
            **base,
            "annotations": {
                "io.containerd.image.name": parse(name).canonical,
                REF_NAME: parse(name).tag,
            },
        }
        for name in names
    ]


def _blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    import io

    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    tar.addfile(info, io.BytesIO(content))


@dataclass(frozen=True)
class Loaded:
    """An image that came in; `replaced` is the id of the image that had its name before."""

    image_id: str
    name: str = ""
    replaced: str = ""


def load(store: ImageStore, stream: Readable) -> list[Loaded]:
    """Add the images of a docker or OCI archive, one entry per name or nameless image.

    Nothing is added where one of them is not whole. Raises BadArchive.
    """
    plain, _ = decompress(stream, store.limits)
    with tempfile.TemporaryFile(dir=store.blobs.temporary) as spool:
        while chunk := plain.read(_CHUNK):
            spool.write(chunk)
        spool.seek(0)
        loader = _Loader(store, spool)
        try:
            return loader.load()
        finally:
            store.give_up(loader.layers)  # no effect on those an image has


@dataclass(frozen=True)
class _Found:
    """An image of the archive whose layers are put."""

    raw: bytes
    layers: list[LayerInfo]
    names: list[str]


class _Loader:
    """Reads one archive; `layers` are those put so far."""

    def __init__(self, store: ImageStore, file: IO[bytes]) -> None:
        self._store = store
        self.layers: list[LayerInfo] = []
        try:
            self._tar = open_archive(file)
            self._members = {
                posixpath.normpath(member.name): member
                for member in islice(self._tar, _MEMBERS_MAX + 1)
            }
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise BadArchive(f"not an image archive: {error}") from error
        if len(self._members) > _MEMBERS_MAX:
            raise BadArchive(f"image archive has more than {_MEMBERS_MAX} members")

    def load(self) -> list[Loaded]:
        """Put every layer, then every image."""
        if "manifest.json" in self._members:
            entries = decode(self._bytes("manifest.json"), list[SavedImage], "manifest.json")
            found = [self._docker(entry) for entry in entries]
        elif "index.json" in self._members:
            found = self._index(decode(self._bytes("index.json"), Manifest, "index.json"))
        elif "repositories" in self._members:
            raise BadArchive("archive is of a docker before 1.10: save it with a newer one")
        else:
            raise BadArchive("archive has neither manifest.json nor index.json")
        return [loaded for image in found for loaded in self._register(image)]

    def _register(self, found: _Found) -> list[Loaded]:
        before = {}
        for name in found.names:
            with suppress(ImageNotFound):
                before[name] = self._store.resolve(name).id
        config = decode_config(found.raw)
        image = self._store.put_image(config, found.layers, found.names, raw_config=found.raw)
        if not found.names:
            return [Loaded(image.id)]
        replaced = {name: old for name, old in before.items() if old != image.id}
        return [
            Loaded(image.id, parse(name).with_default_tag().familiar, replaced.get(name, ""))
            for name in found.names
        ]

    def _docker(self, entry: SavedImage) -> _Found:
        raw = self._bytes(entry.config, _digest_in(entry.config))
        layers = [self._layer(name, _digest_in(name)) for name in entry.layers]
        return self._checked(raw, layers, list(entry.repo_tags or []))

    def _index(self, index: Manifest, depth: int = 0) -> list[_Found]:
        if depth > _INDEXES_MAX:
            raise BadArchive("image indexes are nested too deeply")
        found: list[_Found] = []
        for item in index.manifests or []:
            if item.platform is not None and not item.platform.runs_here:
                continue  # of another machine, or no image at all
            raw = self._bytes(_blob_name(item.digest), item.digest)
            manifest = decode(raw, Manifest, "image manifest")
            if manifest.manifests is not None:
                found += self._index(manifest, depth + 1)
                continue
            if manifest.config is None:
                raise BadArchive(f"image manifest {item.digest} has no config")
            digest = manifest.config.digest
            config = self._bytes(_blob_name(digest), digest)
            layers = [self._layer(_blob_name(x.digest), x.digest) for x in manifest.layers or []]
            notes = item.annotations or {}
            name = notes.get("io.containerd.image.name") or notes.get(REF_NAME, "")
            names = [name] if name and ("/" in name or ":" in name) else []
            found.append(self._checked(config, layers, names))
        return found

    @staticmethod
    def _checked(raw: bytes, layers: list[LayerInfo], names: list[str]) -> _Found:
        config = decode_config(raw)
        if config["rootfs"]["diff_ids"] != [layer.diff_id for layer in layers]:
            raise BadArchive("layers do not match the diff ids of the image config")
        for name in names:
            try:
                parse(name)
            except BadReference as error:
                raise BadArchive(f"archive names an image badly: {error}") from error
        return _Found(raw, layers, names)

    def _layer(self, name: str, digest: str) -> LayerInfo:
        with self._open(name) as file:
            layer = self._store.put_layer(file, digest)
        self.layers.append(layer)
        return layer

    def _bytes(self, name: str, digest: str = "") -> bytes:
        with self._open(name) as file:
            content = file.read(_JSON_MAX_BYTES + 1)
        if len(content) > _JSON_MAX_BYTES:
            raise BadArchive(f"{name} in the archive is larger than {_JSON_MAX_BYTES} bytes")
        if digest and oci.digest_of(content) != digest:
            raise BadArchive(f"{name} in the archive does not have its digest")
        return content

    def _open(self, name: str) -> IO[bytes]:
        """Open a member, through the links old docker saves have instead of equal layers."""
        path = posixpath.normpath(name)
        for _ in range(8):
            member = self._members.get(path)
            if member is None:
                break
            if member.issym():
                path = posixpath.normpath(f"{posixpath.dirname(path)}/{member.linkname}")
            elif member.islnk():
                path = posixpath.normpath(member.linkname)
            else:
                file = self._tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    return file
                break
        raise BadArchive(f"archive has no file {name}")


def _digest_in(name: str) -> str:
    """The digest a member's name promises, empty where it promises none."""
    match = _BLOB_NAME.fullmatch(posixpath.normpath(name))
    return f"sha256:{match[1]}" if match else ""


def import_rootfs(
    store: ImageStore,
    stream: Readable,
    ref: str = "",
    *,
    config: dict[str, Any] | None = None,
    message: str = "",
    now: Callable[[], int] = time.time_ns,
) -> Image:
    """Make a one-layer image of a root file system tar; `config` is its OCI `config` object."""
    layer = store.put_layer(decompress(stream, store.limits)[0])
    created = format_time_ns(now())
    image_config = {
        "created": created,
        "architecture": architecture(),
        "os": "linux",
        "config": config or {},
        "history": [{"created": created, "comment": message or "Imported from -"}],
    }
    return store.put_image(image_config, [layer], [ref] if ref else [])
