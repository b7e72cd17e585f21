"""The start request of every container, on disk, so that it can be started again without `swarmd`.

In files and not in memory: a request is some 15 kB and hardly ever read. Nothing is synced, a
reboot makes it void.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Container as Known
from typing import Any


class Requests:
    """One JSON file per container id."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def put(self, container_id: str, request: dict[str, Any]) -> None:
        """Write a request, replacing an older one."""
        body = json.dumps(request, separators=(",", ":")).encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(f"{self._directory}/{container_id}", flags, 0o600)
        try:
            view = memoryview(body)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)

    def get(self, container_id: str) -> dict[str, Any]:
        """Read a request; raises OSError or ValueError when it cannot be had."""
        with open(f"{self._directory}/{container_id}", "rb") as file:
            request: dict[str, Any] = json.load(file)
        return request

    def limit(self, container_id: str, resources: dict[str, Any]) -> None:
        """Let later starts have these limits too: OCI `linux.resources`, only the given ones."""
        request = self.get(container_id)
        linux = request["config"].setdefault("linux", {})
        limits = linux["resources"] = dict(linux.get("resources") or {})
        for kind, values in resources.items():
            known = limits.get(kind)
            limits[kind] = {**known, **values} if isinstance(known, dict) else values
        self.put(container_id, request)

    def drop(self, container_id: str) -> None:
        """Forget a request."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._directory}/{container_id}")

    def names(self) -> set[str]:
        """Return the ids of those it has a request of."""
        return set(os.listdir(self._directory))

    def keep_only(self, known: Known[str]) -> None:
        """Forget the requests of all other containers."""
        for name in os.listdir(self._directory):
            if name not in known:
                self.drop(name)
