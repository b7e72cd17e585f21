"""Compiled seccomp profiles by their key, in memory and on disk for the next fork server."""

from __future__ import annotations

import os
from typing import Any

from runtime.supervisor import seccomp


class Profiles:
    """BPF programs; a key is the digest of the profile it was compiled from."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._programs: dict[str, bytes] = {}
        os.makedirs(directory, exist_ok=True)

    def get(self, key: str) -> bytes:
        """Return a program; empty for the empty key and for one that was never put."""
        if key and key not in self._programs:
            try:
                with open(f"{self._directory}/{key}", "rb") as file:
                    self._programs[key] = file.read()
            except FileNotFoundError:
                return b""
        return self._programs.get(key, b"")

    def put(self, key: str, profile: dict[str, Any]) -> None:
        """Compile a profile unless its key is known."""
        if self.get(key):
            return
        program = self._programs[key] = seccomp.compile_profile(profile)
        temporary = f"{self._directory}/{key}.new"
        with open(temporary, "wb") as file:
            file.write(program)
        os.replace(temporary, f"{self._directory}/{key}")
