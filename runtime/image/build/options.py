"""What a build is asked for, and what it asks of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class BuildOptions:
    """A build request; `host` is a HostConfig in Docker's JSON names for the RUN steps."""

    tags: tuple[str, ...] = ()
    dockerfile: str = "Dockerfile"
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    no_cache: bool = False
    cache_from: tuple[str, ...] | None = None
    pull: bool = False
    platform: str = ""
    squash: bool = False
    host: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunStep:
    """One RUN: changes land in `directory`/upper; the directory's name is the container's id."""

    directory: Path
    lower: tuple[Path, ...]
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    user: str
    host: Mapping[str, Any]
    output: Callable[[str, bytes], None]
    volumes: Sequence[str] = ()
    """The image's volumes that it has no directory for: the step sees them empty."""


class StepRunner(Protocol):
    """Runs one build step over image layers."""

    def run(self, step: RunStep) -> int:
        """Run to the end; return the exit code."""


class Puller(Protocol):
    """Fetches a base image from its registry."""

    def __call__(self, ref: str, platform: str, emit: Emit) -> None:
        """Fetch into the store; raises ImageError."""
