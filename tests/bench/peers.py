"""Where the peers are that `deploy/peers` downloaded, and how to start them."""

import os
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "peers"
ROOT = CACHE / "root"
DIRECTORIES = ("usr/sbin", "usr/bin", "sbin", "bin")


def program(name: str) -> str:
    """Return the path of a peer's program, empty where it is not downloaded."""
    paths = (ROOT / directory / name for directory in DIRECTORIES)
    return next((str(path) for path in paths if os.access(path, os.X_OK)), "")


def missing(name: str) -> str:
    """Say why a peer cannot run; empty when it can."""
    return "" if program(name) else f"{name} is not there: run deploy/peers"


def environment() -> dict[str, str]:
    """Return an environment in which the peers find their libraries and each other.

    Started directly and not by the cache's `run`, so that no shell counts as the peer's time.
    """
    libraries = [
        str(path) for top in ("usr/lib", "lib") for path in (ROOT / top).glob("*-linux-gnu")
    ]
    programs = [str(ROOT / directory) for directory in DIRECTORIES]
    path = ":".join([*programs, os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": ":".join(libraries)}
