"""A node's own cgroup subtree in every hierarchy: v2 alone, or v1 with v2 beside it."""

from __future__ import annotations

import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PARENT = "swarm-lab"
REMOVAL_TIMEOUT_S = 10.0


def hierarchies() -> dict[str, Path]:
    """Return the mounted hierarchies by mount point's name; v2 alone is called ''."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        path = Path(target)
        if kind in ("cgroup", "cgroup2") and (path == ROOT or path.parent == ROOT):
            found["" if path == ROOT else path.name] = path
    return found


def create(*names: str) -> dict[str, Path]:
    """Create PARENT/NAMES… in every hierarchy and return the leaf of each."""
    leaves = {}
    for name, mounted in hierarchies().items():
        directory = mounted
        for part in (PARENT, *names):
            if name == "":
                enable_controllers(directory)
            directory = directory / part
            directory.mkdir(exist_ok=True)
            _fill_cpuset(directory)
        leaves[name] = directory
    return leaves


def enable_controllers(directory: Path) -> None:
    """Hand all controllers on to the children. For v2 alone: beside v1, it has none we need."""
    control = directory / "cgroup.subtree_control"
    wanted = (directory / "cgroup.controllers").read_text().split()
    for controller in set(wanted) - set(control.read_text().split()):
        control.write_text(f"+{controller}")


def _fill_cpuset(directory: Path) -> None:
    """Copy cpus and mems from above: a new v1 cpuset is empty and refuses processes."""
    if (directory / "cgroup.controllers").exists():
        return  # v2: empty means as above
    for name in ("cpuset.cpus", "cpuset.mems"):
        own = directory / name
        if own.exists() and not own.read_text().strip():
            own.write_text((directory.parent / name).read_text())


def join(directory: Path) -> None:
    """Move the calling process into a cgroup."""
    (directory / "cgroup.procs").write_text("0")


def processes(*names: str) -> set[int]:
    """Return the pids, as seen from outside, in PARENT/NAMES… and everything below."""
    found: set[int] = set()
    for mounted in hierarchies().values():
        for directory, _, _ in os.walk(mounted.joinpath(PARENT, *names)):
            try:
                text = Path(directory, "cgroup.procs").read_text()
            except OSError:
                continue  # removed while we looked
            found.update(int(word) for word in text.split())
    return found - {0}


def thaw(*names: str) -> None:
    """Let frozen processes of v1 run again: SIGKILL waits for that there."""
    freezer = hierarchies().get("freezer")
    if freezer is None:
        return
    for directory, _, _ in os.walk(freezer.joinpath(PARENT, *names)):
        state = Path(directory, "freezer.state")
        if state.exists():
            state.write_text("THAWED")


def remove(*names: str) -> None:
    """Remove PARENT/NAMES… in every hierarchy, bottom up.

    Raises TimeoutError where processes stay: the kernel lets a cgroup go only a moment after its
    last process.
    """
    deadline = time.monotonic() + REMOVAL_TIMEOUT_S
    for mounted in hierarchies().values():
        top = mounted.joinpath(PARENT, *names)
        while top.exists():
            for directory, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    continue  # busy or gone: the next round sees
            if top.exists():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"cgroup {top} does not become empty")
                time.sleep(0.005)


def remove_parent_if_empty() -> None:
    """Remove PARENT where no lab is left below it."""
    for mounted in hierarchies().values():
        try:
            (mounted / PARENT).rmdir()
        except OSError:
            continue  # another lab lives, or it never existed
