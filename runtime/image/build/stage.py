"""One stage of a build: its configuration, layers and history, and the image after each step."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from runtime.image.blobs import encode
from runtime.image.build.configuring import Settings
from runtime.image.errors import ImageNotFound
from runtime.image.model import Image, LayerInfo, format_time_ns
from runtime.image.store import ImageStore

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Stage:
    """What FROM began; `args` are the values of its ARGs."""

    name: str = ""
    image_id: str = ""
    architecture: str = ""
    settings: Settings = field(default_factory=Settings)
    history: list[dict[str, Any]] = field(default_factory=list)
    layers: list[LayerInfo] = field(default_factory=list)
    args: dict[str, str] = field(default_factory=dict)
    base_layers: int = 0

    @classmethod
    def on(cls, name: str, image: Image | None, architecture: str) -> Stage:
        """Begin on an image, or on nothing (`FROM scratch`)."""
        stage = cls(name, architecture=architecture)
        if image is not None:
            stage.image_id = image.id
            stage.architecture = image.architecture or architecture
            stage.settings.config = copy.deepcopy(image.config.get("config") or {})
            stage.settings.author = image.config.get("author", "")
            stage.history = list(image.config.get("history") or [])
            stage.layers = list(image.layers)
            stage.base_layers = len(image.layers)
        config = stage.settings.config
        if "PATH" not in stage.settings.environment:
            config["Env"] = [*(config.get("Env") or []), f"PATH={DEFAULT_PATH}"]
        return stage

    @property
    def variables(self) -> dict[str, str]:
        """What `$name` means in this stage: ENV goes before ARG."""
        return {**self.args, **self.settings.environment}


class StepCache:
    """Finds the image a step made before, on the same parent with the same configuration."""

    def __init__(self, store: ImageStore, *, enabled: bool, sources: Iterable[str] | None) -> None:
        self._store = store
        self._enabled = enabled
        self._sources = None if sources is None else [*self._images(sources)]

    def _images(self, names: Iterable[str]) -> Iterable[Image]:
        for name in names:
            try:
                yield self._store.resolve(name)
            except ImageNotFound:
                continue  # as Docker: a cache source that is not there is no error

    def probe(self, stage: Stage, created_by: str, key: str) -> Image | None:
        """The image of this step on top of the stage's, from here or from a cache source."""
        if not self._enabled:
            return None
        return self._local(stage, key) or self._restored(stage, created_by, key)

    def _local(self, stage: Stage, key: str) -> Image | None:
        found = self._store.cached(stage.image_id, key)
        if found is None or self._sources is None:
            return found
        trusted = any(self._store.descends(source.id, found.id) for source in self._sources)
        return found if trusted else None

    def _restored(self, stage: Stage, created_by: str, key: str) -> Image | None:
        """Make the step's image of a source whose history goes on from here in the same words."""
        depth = len(stage.history)
        for source in self._sources or ():
            history = source.config.get("history") or []
            if history[:depth] != stage.history or len(history) <= depth:
                continue
            if list(source.layers[: len(stage.layers)]) != stage.layers:
                continue
            if history[depth].get("created_by") != created_by:
                continue
            self._sources = [source]
            layers = stage.layers
            if not history[depth].get("empty_layer"):
                layers = [*layers, source.layers[len(layers)]]
            config = image_config(stage, [*history[: depth + 1]], history[depth].get("created", ""))
            return self._store.put_image(config, layers, parent=stage.image_id, cache_key=key)
        return None


def image_config(stage: Stage, history: list[dict[str, Any]], created: str) -> dict[str, Any]:
    """The OCI config of a step's image."""
    config = {
        "created": created,
        "architecture": stage.architecture,
        "os": "linux",
        "config": stage.settings.config,
        "history": history,
    }
    return {**config, "author": stage.settings.author} if stage.settings.author else config


class Committer:
    """Gives each step its image, from the cache or made anew."""

    def __init__(self, store: ImageStore, cache: StepCache, now: Callable[[], int]) -> None:
        self._store = store
        self._cache = cache
        self._now = now

    def step(self, stage: Stage, created_by: str, make: Callable[[], LayerInfo | None]) -> bool:
        """Commit a step; `make` makes its layer, None for none. Tell whether the cache had it."""
        key = hashlib.sha256(
            b"\0".join(
                (stage.image_id.encode(), created_by.encode(), encode(stage.settings.config))
            )
        ).hexdigest()
        image = self._cache.probe(stage, created_by, key)
        hit = image is not None
        if image is None:
            layer = make()
            created = format_time_ns(self._now())
            entry: dict[str, Any] = {"created": created, "created_by": created_by}
            if stage.settings.author:
                entry["author"] = stage.settings.author
            if layer is None:
                entry["empty_layer"] = True
            layers = stage.layers if layer is None else [*stage.layers, layer]
            image = self._store.put_image(
                image_config(stage, [*stage.history, entry], created),
                layers,
                parent=stage.image_id,
                cache_key=key,
            )
        stage.image_id = image.id
        stage.layers = list(image.layers)
        stage.history = list(image.config["history"])
        return hit
