"""A layer on its way in: unpacked and verified in one pass over the downloaded blob."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from runtime.image import blobs as oci
from runtime.image.errors import BadArchive
from runtime.image.model import LayerInfo, chain_ids
from runtime.image.store import ImageStore
from runtime.image.tarstream import Hashing, decompress
from runtime.image.unpack import LAYER, unpack


def take_layer(
    store: ImageStore,
    blob: Path,
    digest: str,
    diff_ids: tuple[str, ...],
    report: Callable[[int], None] = lambda read: None,
) -> LayerInfo:
    """Unpack a verified blob on top of the layers below it and put both into the store.

    `diff_ids` ends with the layer's own. `report` is told the bytes read so far and may raise to
    end the work. The blob is gone afterwards. Raises BadArchive, OSError; nothing stays then.
    """
    work = Path(tempfile.mkdtemp(dir=store.blobs.temporary))
    try:
        diff = work / "diff"
        diff.mkdir(mode=0o755)
        with blob.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            plain, compression = decompress(_Reporting(file, report), store.limits)
            hashing = Hashing(plain)
            unpacked = unpack(hashing, diff, replace(LAYER, limits=store.limits))
            diff_id = hashing.finish()
        if diff_id != diff_ids[-1]:
            raise BadArchive(
                f"layer {digest} has diff id {diff_id}, the config says {diff_ids[-1]}"
            )
        if compression not in ("none", "gzip", "zstd"):
            raise BadArchive(f"layer is {compression}-compressed: OCI allows gzip and zstd")
        work.chmod(0o755)
        store.install_layer(blob, digest, work, chain_ids(diff_ids)[-1])
        suffix = "" if compression == "none" else f"+{compression}"
        return LayerInfo(digest, diff_id, size, oci.LAYER + suffix, unpacked)
    finally:
        blob.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)


class _Reporting:
    """Says how far a file was read."""

    def __init__(self, file: IO[bytes], report: Callable[[int], None]) -> None:
        self._file = file
        self._report = report

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._file.read(size)
        self._report(self._file.tell())
        return chunk
