"""Images as tar files: docker save and load, OCI archives, import of a root file system."""

from __future__ import annotations

import json
import posixpath
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import IO, Any

from runtime.image import blobs as oci
from runtime.image.errors import BadArchive, BadReference
from runtime.image.model import Image, LayerInfo, format_time_ns
from runtime.image.reference import parse
from runtime.image.store import REF_NAME, ImageStore
from runtime.image.tarstream import Readable, decompress

_JSON_MAX_BYTES = 16 << 20
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


def _names_meant(image: Image, ref: str) -> list[str]:
    """The tag a reference names; all tags of a bare repository; none for an id."""
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


def load(store: ImageStore, stream: Readable) -> list[str]:
    """Add the images of a docker or OCI archive; return their names, or ids of nameless ones.

    Raises BadArchive.
    """
    plain, _ = decompress(stream)
    with tempfile.TemporaryFile(dir=store.blobs.temporary) as spool:
        while chunk := plain.read(_CHUNK):
            spool.write(chunk)
        spool.seek(0)
        try:
            with tarfile.open(fileobj=spool, mode="r:") as tar:
                return _Loader(store, tar).load()
        except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
            raise BadArchive(f"not an image archive: {error}") from error


class _Loader:
    def __init__(self, store: ImageStore, tar: tarfile.TarFile) -> None:
        self._store = store
        self._tar = tar
        self._members = {posixpath.normpath(m.name): m for m in tar.getmembers()}

    def load(self) -> list[str]:
        if "manifest.json" in self._members:
            return [ref for item in self._json("manifest.json") for ref in self._docker(item)]
        if "index.json" in self._members:
            return self._index(self._json("index.json"))
        raise BadArchive("archive has neither manifest.json nor index.json")

    def _docker(self, item: dict[str, Any]) -> list[str]:
        raw = self._bytes(item["Config"])
        layers = [self._layer(name) for name in item["Layers"]]
        refs = [str(ref) for ref in item.get("RepoTags") or []]
        image = self._store.put_image(json.loads(raw), layers, refs, raw_config=raw)
        return [parse(ref).familiar for ref in refs] or [image.id]

    def _index(self, index: dict[str, Any], depth: int = 0) -> list[str]:
        if depth > 4:
            raise BadArchive("image indexes are nested too deeply")
        refs: list[str] = []
        for item in index["manifests"]:
            manifest = self._json(_blob_name(item["digest"]), item["digest"])
            if "manifests" in manifest:
                refs += self._index(manifest, depth + 1)
                continue
            raw = self._bytes(
                _blob_name(manifest["config"]["digest"]), manifest["config"]["digest"]
            )
            layers = [self._layer(_blob_name(x["digest"]), x["digest"]) for x in manifest["layers"]]
            notes = item.get("annotations", {})
            name = notes.get("io.containerd.image.name") or notes.get(REF_NAME, "")
            names = [name] if name and ("/" in name or ":" in name) else []
            image = self._store.put_image(json.loads(raw), layers, names, raw_config=raw)
            refs += [parse(x).familiar for x in names] or [image.id]
        return refs

    def _layer(self, name: str, digest: str = "") -> LayerInfo:
        with self._open(name) as file:
            return self._store.put_layer(file, digest)

    def _json(self, name: str, digest: str = "") -> Any:
        return json.loads(self._bytes(name, digest))

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
                file = self._tar.extractfile(member)
                if file is not None:
                    return file
                break
        raise BadArchive(f"archive has no file {name}")


def import_rootfs(
    store: ImageStore,
    stream: Readable,
    ref: str = "",
    *,
    config: dict[str, Any] | None = None,
    message: str = "",
    architecture: str = "amd64",
    now: Callable[[], int] = time.time_ns,
) -> Image:
    """Make a one-layer image of a root file system tar; `config` is its OCI `config` object."""
    layer = store.put_layer(decompress(stream)[0])
    created = format_time_ns(now())
    image_config = {
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": config or {},
        "history": [{"created": created, "comment": message or "Imported from -"}],
    }
    return store.put_image(image_config, [layer], [ref] if ref else [])
