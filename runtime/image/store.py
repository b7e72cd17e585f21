"""The image store of a machine: OCI content, references, unpacked layers, removal.

Every method may be called from any thread. State lives in `index.json`: one descriptor per
(image, reference), an image without references has one without the ref name annotation.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.image import blobs as oci
from runtime.image.blobs import BlobStore
from runtime.image.bounds import DEFAULT_LIMITS, Readable, UnpackLimits
from runtime.image.durable import sync_directory, sync_filesystem
from runtime.image.errors import BadArchive, BadReference, ImageError, ImageNotFound
from runtime.image.model import Image, LayerInfo, chain_ids, parse_time_ns
from runtime.image.records import (
    Record,
    answers_to,
    descriptors,
    layers_of,
    manifest_of,
    read_records,
)
from runtime.image.reference import Reference, parse
from runtime.image.removal import Node, Planner, Users
from runtime.image.tarstream import Hashing, TarReader, decompress
from runtime.image.unpack import LAYER, unpack

_ID_PREFIX = re.compile(r"(?:sha256:)?([a-f0-9]{1,64})")

# The class has a method `list`, so its annotations need names of their own.
Names = list[str]
Rows = list[dict[str, Any]]
Answer = list[dict[str, str]]
Images = list[Image]


@dataclass(frozen=True)
class Usage:
    """Disk use in bytes."""

    images: int
    blobs_bytes: int
    shared_bytes: int
    unpacked_bytes: int


@dataclass(frozen=True)
class Wanted:
    """What images rest on; while `busy`, more is on its way in."""

    blobs: dict[str, str]  # digest → an image that needs it, empty for none yet
    chains: frozenset[str]
    busy: bool


class ImageStore:
    """Images below one directory that one process owns."""

    def __init__(self, root: Path, limits: UnpackLimits = DEFAULT_LIMITS) -> None:
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)  # images hold programs with setuid, which no user here may reach
        self.limits = limits
        self._root = root
        self.blobs = BlobStore(root)
        self._layers = root / "layers" / "sha256"
        self._layers.mkdir(parents=True, exist_ok=True)
        for leftover in self.blobs.temporary.iterdir():  # of a process that died
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self._lock = threading.RLock()
        self._putting = 0  # layers on their way in: no blob may be collected meanwhile
        self._fresh: Counter[str] = Counter()  # blobs put but not yet part of an image
        self._held: Counter[str] = Counter()  # digests and chain ids of pulls under way
        self._records = read_records(self.blobs.read_index(), self.blobs.get_json)
        self._images: dict[str, Image] = {}
        with suppress(ImageError):  # a damaged store opens, and tells what it misses when asked
            self._collect()  # what a process that died had not made part of an image

    # -- looking up --------------------------------------------------------------------------

    def resolve(self, ref: str) -> Image:
        """Find an image by name, digest, id or id prefix; raises ImageNotFound."""
        with self._lock:
            return self._image(self._find(ref))

    def list(self) -> Images:
        """All images, also those only the build cache knows, newest first."""
        with self._lock:
            images = [self._image(r) for r in self._records.values() if not r.removed]
        return sorted(images, key=lambda image: (-image.created_ns, image.id))

    def history(self, image: Image) -> Rows:
        """Docker's history of an image, newest first."""
        sizes = iter(image.layers)
        rows: Rows = []
        for entry in image.config.get("history") or []:
            layer = None if entry.get("empty_layer") else next(sizes, None)
            rows.append(
                {
                    "Id": "<missing>",
                    "Created": parse_time_ns(entry.get("created") or "") // 1_000_000_000,
                    "CreatedBy": entry.get("created_by") or "",
                    "Tags": None,
                    "Size": layer.unpacked_bytes if layer else 0,
                    "Comment": entry.get("comment") or "",
                }
            )
        rows.reverse()
        with self._lock:
            record = self._records.get(image.id)
            for row in rows:  # a locally built image knows its ancestors, one per step
                if record is None:
                    break
                row["Id"], row["Tags"] = record.image_id, self._tags(record) or None
                record = self._records.get(record.parent)
        return rows

    def usage(self) -> Usage:
        """Disk use; shared are the blobs more than one image has."""
        with self._lock:
            owners: dict[str, int] = {}
            for record in self._records.values():
                for digest in self._blobs_of(record):
                    owners[digest] = owners.get(digest, 0) + 1
            sizes = {digest: self.blobs.size(digest) for digest in owners}
            shared = sum(size for digest, size in sizes.items() if owners[digest] > 1)
            layers = {
                layer.diff_id: layer.unpacked_bytes for i in self.list() for layer in i.layers
            }
            total = sum(sizes.values())
            return Usage(len(self._records), total, shared, sum(layers.values()))

    def cached(self, parent: str, cache_key: str) -> Image | None:
        """The image a build step made from this parent with this key."""
        with self._lock:
            for record in reversed(self._records.values()):  # the newest of equal ones
                same = (record.cache_key, record.parent) == (cache_key, parent)
                if same and not record.removed:
                    return self._image(record)
        return None

    def descends(self, image_id: str, ancestor_id: str) -> bool:
        """Tell whether an image is the other one or was built from it here."""
        with self._lock:
            while image_id and image_id != ancestor_id:
                record = self._records.get(image_id)
                image_id = record.parent if record else ""
        return bool(image_id)

    # -- adding ------------------------------------------------------------------------------

    def put_layer(self, stream: Readable, expected: str = "") -> LayerInfo:
        """Store a layer tar, plain or compressed; raises BadArchive where it is damaged."""
        with self._lock:
            self._putting += 1
        try:
            digest, size = self.blobs.put_stream(stream, expected)
            with self._lock:
                self._fresh[digest] += 1
        finally:
            with self._lock:
                self._putting -= 1
        try:
            return self._described(digest, size)
        except BaseException:
            self._give_up([digest])
            raise

    def _described(self, digest: str, size: int) -> LayerInfo:
        with self.blobs.open(digest) as file:
            plain, compression = decompress(file, self.limits)
            tee = Hashing(plain)
            unpacked = 0
            for count, member in enumerate(TarReader(tee), 1):
                unpacked += member.size if member.isreg() else 0
                if count > self.limits.entries or unpacked > self.limits.size_bytes:
                    raise BadArchive("layer has too many files or bytes")
            diff_id = tee.finish()
        if compression not in ("none", "gzip", "zstd"):
            raise BadArchive(f"layer is {compression}-compressed: OCI allows gzip and zstd")
        suffix = "" if compression == "none" else f"+{compression}"
        return LayerInfo(digest, diff_id, size, oci.LAYER + suffix, unpacked)

    def put_image(
        self,
        config: dict[str, Any],
        layers: Iterable[LayerInfo],
        refs: Iterable[str] = (),
        *,
        parent: str = "",
        cache_key: str = "",
        raw_config: bytes = b"",
        source: bytes = b"",
        repo_digest: str = "",
    ) -> Image:
        """Store an image over layers put before; `raw_config` keeps a foreign config's bytes.

        `source` is the manifest a registry had for it, `repo_digest` the name@digest it answers
        to there.
        """
        stack = tuple(layers)
        rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in stack]}
        if raw_config and config.get("rootfs", {}).get("diff_ids", []) != rootfs["diff_ids"]:
            raise BadArchive("layers do not match the diff ids of the image config")
        content = raw_config or oci.encode({**config, "rootfs": rootfs})
        names = [parse(ref).with_default_tag() for ref in refs]
        try:
            with self._changing():
                record = self._put(content, stack, names, parent, cache_key)
                if source:
                    record.source = self.blobs.put(source)
                if repo_digest and repo_digest not in record.repo_digests:
                    record.repo_digests.append(repo_digest)
                self._images.pop(record.image_id, None)
                image = self._image(record)
        except BaseException:
            with self._lock:
                self._fresh = +(self._fresh - Counter(layer.digest for layer in stack))
                self._collect()
            raise
        with self._lock:
            self._fresh = +(self._fresh - Counter(layer.digest for layer in stack))
        return image

    def _put(
        self,
        content: bytes,
        stack: tuple[LayerInfo, ...],
        names: Iterable[Reference],
        parent: str,
        cache_key: str,
    ) -> Record:
        for layer in stack:
            if self.blobs.size(layer.digest) != layer.size_bytes:
                raise ImageError(f"layer {layer.digest} is missing from the image store")
        image_id = self.blobs.put(content)
        manifest = oci.encode(manifest_of(image_id, len(content), stack))
        descriptor = {
            "mediaType": oci.MANIFEST,
            "digest": self.blobs.put(manifest),
            "size": len(manifest),
        }
        known = self._records.get(image_id)
        self._records[image_id] = record = known or Record(
            image_id, descriptor, [], [], parent, cache_key
        )
        record.removed = False
        for name in names:
            self._point(name, image_id)
        return record

    def give_up(self, layers: Iterable[LayerInfo]) -> None:
        """Delete layers put for an image that did not come to be."""
        self._give_up(layer.digest for layer in layers)

    def _give_up(self, digests: Iterable[str]) -> None:
        with self._lock:
            left = +(self._fresh - Counter(digests))
            if left != self._fresh:
                self._fresh = left
                self._collect()

    @contextmanager
    def _changing(self, *, from_reserve: bool = False) -> Iterator[None]:
        """Hold the lock for a change of the records, which is on disk afterwards or undone."""
        with self._lock:
            before = {
                image_id: replace(
                    record, refs=list(record.refs), repo_digests=list(record.repo_digests)
                )
                for image_id, record in self._records.items()
            }
            try:
                yield
                if self._records != before:
                    self._save(from_reserve=from_reserve)
            except BaseException:
                self._records = before
                self._images.clear()
                raise

    def tag(self, source: str, ref: str) -> Image:
        """Give an image a further name, taking it from the image that had it."""
        name = parse(ref)
        if name.digest:
            raise BadReference(ref, "refusing to create a tag with a digest reference")
        with self._changing():
            record = self._find(source)
            self._point(name.with_default_tag(), record.image_id)
            return self._image(record)

    def add_repo_digest(self, image_id: str, repo: str, digest: str) -> None:
        """Remember under which digest a repository serves this image."""
        entry = f"{parse(repo).name}@{digest}"
        with self._changing():
            record = self._find(image_id)
            if entry not in record.repo_digests:
                record.repo_digests.append(entry)
                self._images.pop(record.image_id, None)

    # -- layers of a pull --------------------------------------------------------------------

    def hold(self, names: Iterable[str]) -> None:
        """Keep blobs and unpacked layers of these digests and chain ids until `release`."""
        with self._lock:
            self._held.update(names)

    def release(self, names: Iterable[str]) -> None:
        """End a hold; what no image has by now goes away."""
        with self._lock:
            self._held = +(self._held - Counter(names))
            self._collect()

    def known_layer(self, digest: str, diff_id: str) -> LayerInfo | None:
        """A layer of these digests that an image here has already."""
        with self._lock:
            for record in self._records.values():
                for layer in self._image(record).layers:
                    if (layer.digest, layer.diff_id) == (digest, diff_id):
                        return layer if self.blobs.size(digest) == layer.size_bytes else None
        return None

    def install_layer(self, blob: Path, digest: str, unpacked: Path, chain_id: str) -> None:
        """Move a verified blob and its unpacked directory (with `diff` in it) into their places.

        Both are made durable by `sync`, which comes before the image is put.
        """
        with self._lock:
            os.rename(blob, self.blobs.path(digest))
            target = self._layers / chain_id.removeprefix("sha256:")
            if not target.exists():
                os.rename(unpacked, target)

    def sync(self) -> None:
        """Make everything installed durable."""
        sync_filesystem(self._root)

    # -- removing ----------------------------------------------------------------------------

    def remove(
        self, ref: str, *, force: bool = False, in_use: Users, prune_parents: bool = True
    ) -> Answer:
        """Remove a name, and the image with its last name (Docker's rules and answer).

        `in_use` maps an image id to the containers made from it. Raises ImageNotFound,
        ImageConflict.
        """
        with self._changing(from_reserve=True):
            record = self._find(ref)
            nodes = {
                r.image_id: Node(r.image_id, r.parent, tuple(r.refs), tuple(r.repo_digests))
                for r in self._records.values()
                if not r.removed
            }
            removal = Planner(nodes, in_use).plan(
                record.image_id,
                self._name_meant(ref, record),
                ref,
                force=force,
                prune_parents=prune_parents,
            )
            answer: Answer = []
            for image_id, name in removal.untagged:
                answer.append({"Untagged": parse(name).familiar})
                self._drop_name(self._records[image_id], name)
            for image_id in removal.deleted:
                answer.append({"Deleted": image_id})
                chain = self._chain(self._records[image_id])
                if any(in_use(image_id)):
                    self._records[image_id].removed = True
                else:
                    self._forget(image_id)
                kept = {c for r in self._records.values() for c in self._chain(r)}
                answer += [{"Deleted": c} for c in reversed(chain) if c not in kept]
            for record in list(self._records.values()):
                if record.removed and not any(in_use(record.image_id)):
                    self._forget(record.image_id)
        with self._lock:
            self._collect()
        self.blobs.fill_reserve()
        return answer

    def _forget(self, image_id: str) -> None:
        del self._records[image_id]
        self._images.pop(image_id, None)

    def _drop_name(self, record: Record, name: str) -> None:
        record.refs = [ref for ref in record.refs if ref != name]
        record.repo_digests = [digest for digest in record.repo_digests if digest != name]
        self._images.pop(record.image_id, None)

    def _chain(self, record: Record) -> tuple[str, ...]:
        return chain_ids(tuple(layer.diff_id for layer in self._image(record).layers))

    def _collect(self) -> None:
        """Delete blobs and unpacked layers no image needs any more."""
        wanted = self._wanted()
        if wanted.busy:
            return  # the next removal collects
        self.blobs.keep_only(set(wanted.blobs))
        for path in list(self._layers.iterdir()):
            if path.name not in wanted.chains:
                doomed = Path(tempfile.mkdtemp(dir=self.blobs.temporary))
                os.rename(path, doomed / "layer")  # never half a layer under a chain id
                shutil.rmtree(doomed)

    def _wanted(self) -> Wanted:
        blobs = dict.fromkeys((*self._fresh, *self._held), "")
        chains = {name.removeprefix("sha256:") for name in self._held}
        for record in self._records.values():
            blobs |= dict.fromkeys(self._blobs_of(record), record.image_id)
            chains.update(chain.removeprefix("sha256:") for chain in self._chain(record))
        return Wanted(blobs, frozenset(chains), bool(self._putting))

    def wanted(self) -> Wanted:
        """Return what must be here."""
        with self._lock:
            return self._wanted()

    def layers(self) -> Names:
        """Return the chain ids of the unpacked layers, without their algorithm."""
        return [path.name for path in self._layers.iterdir()]

    def collect(self) -> None:
        """Delete what no image needs, unless something is on its way in."""
        with self._lock:
            self._collect()

    # -- layers on disk ----------------------------------------------------------------------

    def lower_dirs(self, image: Image) -> tuple[Path, ...]:
        """The unpacked layers of an image, topmost first, unpacking what is missing."""
        chain = chain_ids(tuple(layer.diff_id for layer in image.layers))
        found = []
        for chain_id, layer in zip(chain, image.layers, strict=True):
            target = self._layers / chain_id.removeprefix("sha256:")
            if not target.exists():
                self._unpack(layer, target)
            found.append(target / "diff")
        return tuple(reversed(found))

    def _unpack(self, layer: LayerInfo, target: Path) -> None:
        work = Path(tempfile.mkdtemp(dir=self.blobs.temporary))
        try:
            diff = work / "diff"
            diff.mkdir(mode=0o755)
            with self.blobs.open(layer.digest) as file:
                unpack(file, diff, replace(LAYER, limits=self.limits))
            sync_filesystem(diff)
            work.chmod(0o755)
            try:
                os.rename(work, target)
            except OSError:
                if not target.exists():
                    raise
            sync_directory(self._layers)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    # -- the index ---------------------------------------------------------------------------

    def _find(self, ref: str) -> Record:
        exact = self._records.get(ref) or self._records.get(f"sha256:{ref}")
        if exact:
            return exact
        name: Reference | None
        try:
            name = parse(ref).with_default_tag()
        except BadReference:
            name = None
        if name:
            for record in self._records.values():
                if answers_to(record, name):
                    return record
        match = _ID_PREFIX.fullmatch(ref)
        if match:
            prefix = f"sha256:{match[1]}"
            ids = [i for i, r in self._records.items() if i.startswith(prefix) and not r.removed]
            if len(ids) == 1:
                return self._records[ids[0]]
        raise ImageNotFound(name.familiar if name else ref)

    def _name_meant(self, ref: str, record: Record) -> str:
        """The canonical name `ref` stands for, empty where it is an id."""
        try:
            name = parse(ref).with_default_tag()
        except BadReference:
            return ""
        if name.canonical in record.refs:
            return name.canonical
        digest = f"{name.name}@{name.digest}"
        return digest if digest in record.repo_digests else ""

    def _point(self, name: Reference, image_id: str) -> None:
        canonical = name.canonical
        for record in self._records.values():
            if canonical in record.refs:
                record.refs.remove(canonical)
                self._images.pop(record.image_id, None)
        self._records[image_id].refs.append(canonical)
        self._images.pop(image_id, None)

    def _tags(self, record: Record) -> Names:
        return [parse(ref).familiar for ref in record.refs if parse(ref).tag]

    def _image(self, record: Record) -> Image:
        if record.image_id not in self._images:
            manifest = self.blobs.get_json(record.manifest["digest"])
            config = self.blobs.get_json(record.image_id)
            layers = layers_of(manifest, config)
            self._images[record.image_id] = Image(
                id=record.image_id,
                config=config,
                layers=layers,
                repo_tags=tuple(self._tags(record)),
                repo_digests=tuple(parse(item).familiar for item in record.repo_digests),
                size_bytes=sum(layer.unpacked_bytes for layer in layers),
                created_ns=parse_time_ns(config.get("created") or ""),
                architecture=config.get("architecture", ""),
                parent=record.parent,
                manifest_digest=record.manifest["digest"],
                cache_key=record.cache_key,
                source_digest=record.source,
            )
        return self._images[record.image_id]

    def _blobs_of(self, record: Record) -> Names:
        source = [record.source] if record.source else []
        layers = [layer.digest for layer in self._image(record).layers]
        return [record.manifest["digest"], record.image_id, *source, *layers]

    def _save(self, *, from_reserve: bool) -> None:
        manifests = descriptors(self._records.values())
        self.blobs.write_index(manifests, from_reserve=from_reserve)
