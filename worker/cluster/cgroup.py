"""A cgroup of its own for the manager, apart from the daemon's and the containers'."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)
_ROOT = Path("/sys/fs/cgroup")


def enter(pid: int, name: str) -> bool:
    """Move a process into the cgroup `name` below ours; False where none can be made.

    Hierarchies by which service managers tell processes apart are used: v2, or v1's
    `name=systemd`. Elsewhere the process stays where it is, kept alive by its own session.
    """
    moved = False
    for home in _homes():
        target = home / name.strip("/")
        try:
            target.mkdir(parents=True, exist_ok=True)
            (target / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            log.info("manager stays in cgroup %s: %s", home, error)
        else:
            moved = True
    return moved


def remove(name: str) -> None:
    """Remove the cgroup `name` below ours where it is empty."""
    for home in _homes():
        with suppress(OSError):
            (home / name.strip("/")).rmdir()


def _homes() -> Iterator[Path]:
    """Yield the directory of this process's cgroup in each hierarchy that is used."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mounts = [_ROOT, _ROOT / "unified"]
        elif controllers == "name=systemd":
            mounts = [_ROOT / "systemd"]
        else:
            continue
        for mount in mounts:
            home = mount / path.lstrip("/")
            if (home / "cgroup.procs").exists():
                yield home
