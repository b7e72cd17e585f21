"""The layer between image and container that holds what mounts need: empty files, directories.

Without it every container's changes, and every layer a build makes, would contain them.
"""

from __future__ import annotations

import os
import posixpath
import stat
from pathlib import Path

from runtime.image.errors import ImageError
from runtime.image.pack import read_xattrs
from runtime.image.view import LayeredView

DIRECTORIES = ("dev", "proc", "sys", "etc")
FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")


def make_mount_points(lower: tuple[Path, ...], target: Path) -> None:
    """Make the missing mount points of an image in a new directory, to go on top of its layers.

    What the image has stays as it is, a link in the place of a directory too.
    """
    target.mkdir(mode=0o755)
    view = LayeredView(lower)
    root = view.root()
    if root is not None:
        _copy_attributes(root.physical, target)
    for name in DIRECTORIES:
        if root is None or view.child(root, name) is None:
            (target / name).mkdir(mode=0o755)
    for path in FILES:
        _make_file(view, target, path)


def _make_file(view: LayeredView, target: Path, path: str) -> None:
    try:
        real, entry = view.locate(posixpath.dirname(path))
        present = view.locate(path)[1] is not None
    except ImageError:
        return  # a loop or a file on the way: the mount will say so
    if present or (entry is not None and not stat.S_ISDIR(entry.status.st_mode)):
        return
    parts = real.split("/")
    for depth in range(1, len(parts) + 1):
        part = "/".join(parts[:depth])
        there = view.locate(part)[1]
        if not (target / part).exists():
            (target / part).mkdir(mode=0o755)
            if there is not None:
                _copy_attributes(there.physical, target / part)
    (target / real / posixpath.basename(path)).touch(mode=0o644)


def _copy_attributes(source: Path, target: Path) -> None:
    """A merged directory shows the topmost layer's attributes: give it those of the image."""
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(stat.S_IMODE(status.st_mode))
    for name, value in read_xattrs(str(source)).items():
        os.setxattr(target, name, value)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
