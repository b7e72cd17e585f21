"""Images of tasks: one pull for all who want it, its progress in words, its end with the last."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.image.reference import parse
from runtime.image.registry.auth import credentials_in
from runtime.image.registry.errors import RegistryError
from runtime.image.registry.progress import human
from worker.engine.registries import Registries

Say = Callable[[str], None]
"""Told what a task's preparation is at."""
_SAY_EVERY_NS = 5 * 10**9
"""Each word is a write on a majority of managers."""
_WHOLE = ("Verifying Checksum", "Download complete", "Extracting", "Pull complete")


class PullProgress:
    """What the lines of a pull come to."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._sizes: Mapping[str, int] = {}
        self._done: dict[str, int] = {}

    def weigh(self, sizes: Mapping[str, int]) -> None:
        """Take the sizes of the layers to come, in bytes by their ids."""
        self._sizes = sizes

    def take(self, line: Mapping[str, Any]) -> None:
        """Take a line as Docker streams it."""
        layer, status = line.get("id", ""), line.get("status", "")
        if status == "Downloading":
            self._done[layer] = line["progressDetail"].get("current", 0)
        elif status in _WHOLE:
            self._done[layer] = self._sizes.get(layer, 0)

    @property
    def text(self) -> str:
        """`pulling IMAGE: 34MB of 102MB`."""
        total = sum(self._sizes.values())
        if not total:
            return f"pulling {self._image}"
        done = sum(min(self._done.get(layer, 0), size) for layer, size in self._sizes.items())
        return f"pulling {self._image}: {human(done)} of {human(total)}"


@dataclass(eq=False)
class _Pull:
    progress: PullProgress
    said: str = ""
    said_ns: int = 0
    listeners: list[Say] = field(default_factory=list)
    task: "asyncio.Task[None] | None" = None


class TaskPulls:
    """The pulls under way, by image and login. The last one to stop waiting ends a pull."""

    def __init__(self, registries: Registries, now_ns: Callable[[], int]) -> None:
        self._registries = registries
        self._now_ns = now_ns
        self._pulls: dict[tuple[str, str], _Pull] = {}

    async def fetch(self, image: str, auth: str, say: Say) -> None:
        """Pull an image with X-Registry-Auth `auth`.

        Raises:
            RegistryError, ImageError, DiskFull, OSError: as a pull does.
        """
        key = (image, auth)
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = _Pull(PullProgress(image))
            pull.task = asyncio.ensure_future(self._run(key, pull, auth))
        assert pull.task is not None
        pull.listeners.append(say)
        say(pull.progress.text)
        try:
            await asyncio.shield(pull.task)
        finally:
            pull.listeners.remove(say)
            if not pull.listeners and not pull.task.done():
                self._forget(key, pull)
                pull.task.cancel()
                await asyncio.wait([pull.task])

    async def _run(self, key: tuple[str, str], pull: _Pull, auth: str) -> None:
        def heard(line: Mapping[str, Any]) -> None:
            pull.progress.take(line)
            self._say(pull)

        pull.said, pull.said_ns = pull.progress.text, self._now_ns()
        try:
            credentials = credentials_in(auth)
        except ValueError as error:
            raise RegistryError(f"the service's registry login: {error}") from None
        try:
            await self._registries.pull(
                parse(key[0]), credentials, emit=heard, weigh=pull.progress.weigh
            )
        finally:
            self._forget(key, pull)

    def _say(self, pull: _Pull) -> None:
        now_ns, text = self._now_ns(), pull.progress.text
        if text != pull.said and now_ns - pull.said_ns >= _SAY_EVERY_NS:
            pull.said, pull.said_ns = text, now_ns
            for say in list(pull.listeners):
                say(text)

    def _forget(self, key: tuple[str, str], pull: _Pull) -> None:
        if self._pulls.get(key) is pull:
            del self._pulls[key]
