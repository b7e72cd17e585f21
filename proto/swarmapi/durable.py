"""Files that a power cut leaves whole: written beside, synced, and moved into their place."""

import os
from pathlib import Path


def write_durably(path: Path, body: bytes) -> None:
    """Write a file that a power cut leaves as before or as given; readable by root alone.

    Raises OSError; nothing of it is left then.
    """
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(fd)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    move_durably(fresh, path)


def move_durably(source: Path, target: Path) -> None:
    """Put a file, which is on the disk, in the place of another of its directory."""
    source.rename(target)
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
