"""New images from a container's changes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.image.copied import is_copied, pack_differences
from runtime.image.model import Image, LayerInfo, format_time_ns
from runtime.image.pack import pack_layer
from runtime.image.store import ImageStore


def put_upper(store: ImageStore, upper: Path, hidden: tuple[str, ...] = ()) -> LayerInfo:
    """Store what a container changed as a layer, without what `hidden` directories hold.

    `upper` is an overlay's upper directory, or a whole copy of the layers.
    """
    with tempfile.TemporaryFile(dir=store.blobs.temporary) as spool:
        if is_copied(upper):
            pack_differences(upper, spool, hidden)
        else:
            pack_layer(upper, spool, hidden)
        spool.seek(0)
        return store.put_layer(spool)


def commit(
    store: ImageStore,
    base: Image,
    upper: Path,
    *,
    config: dict[str, Any] | None = None,
    author: str = "",
    comment: str = "",
    created_by: str = "",
    refs: tuple[str, ...] = (),
    now: Callable[[], int] = time.time_ns,
) -> Image:
    """Make an image of a base and an upper directory.

    `config` replaces keys of the base's; None takes one away.
    """
    created = format_time_ns(now())
    layer = put_upper(store, upper)
    merged = {**base.config.get("config", {}), **(config or {})}
    entry = {"created": created, "created_by": created_by, "author": author, "comment": comment}
    new = {
        **base.config,
        "created": created,
        "config": {key: value for key, value in merged.items() if value is not None},
        "history": [
            *base.config.get("history", []),
            {key: value for key, value in entry.items() if value},
        ],
    }
    if author:
        new["author"] = author
    return store.put_image(new, [*base.layers, layer], refs, parent=base.id)
