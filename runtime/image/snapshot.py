"""The btrfs storage driver: a container's root is a snapshot of one copy of its image.

The copy is made for the first container of an image, beside the image's topmost layer, and goes
with that. What a container changed is told as in `runtime.image.copied`: a snapshot keeps the
files' change times, and its mark has the time of the copy's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import tempfile
from pathlib import Path

from runtime.image.copied import MARK, is_copied, lower_of, make_copy

_SUBVOL_CREATE, _SNAP_CREATE_V2 = 0x5000940E, 0x50009417  # linux/btrfs.h: BTRFS_IOC_…
_QUOTA_CTL, _QUOTA_RESCAN_WAIT, _QGROUP_LIMIT = 0xC0109428, 0x942E, 0x8030942B
_ENABLE, _MAX_REFERENCED = 1, 1
_ARGUMENT_BYTES = 4096
_NAME_AT, _NAME_AT_V2 = 8, 56


def make_snapshot(lower: tuple[Path, ...], root: Path, size_bytes: int = 0) -> None:
    """Make of an empty directory a container's root: the merged layers, topmost first.

    `lower` begins with the layer that every container has. With `size_bytes` the root, the
    image's files included, can grow to that; beyond it a write fails with EDQUOT. OSError where
    the file system has no snapshots.
    """
    if is_copied(root):
        return
    if len(lower) < 2:
        shutil.rmtree(root)
        make_subvolume(root)
        _limit(root, size_bytes)
        make_copy(lower, root)
        return
    base = lower[1].parent / "copy"
    _make_base(lower, base)
    shutil.rmtree(root)  # empty, or what was interrupted
    source = os.open(base / "root", os.O_RDONLY | os.O_DIRECTORY)
    try:
        _command(_SNAP_CREATE_V2, root, source, _NAME_AT_V2)
    finally:
        os.close(source)
    _limit(root, size_bytes)
    temporary = root.parent / f"{MARK}.new"
    shutil.copy2(base / MARK, temporary)
    temporary.rename(root.parent / MARK)


def make_subvolume(path: Path) -> None:
    """Make an empty subvolume; OSError on other file systems than btrfs."""
    _command(_SUBVOL_CREATE, path, 0, _NAME_AT)


def _limit(root: Path, size_bytes: int) -> None:
    if not size_bytes:
        return
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Counting costs every snapshot something: it begins with the first container of a size.
        fcntl.ioctl(fd, _QUOTA_CTL, bytearray(struct.pack("<QQ", _ENABLE, 0)))
        fcntl.ioctl(fd, _QUOTA_RESCAN_WAIT)
        limit = struct.pack("<6Q", 0, _MAX_REFERENCED, size_bytes, 0, 0, 0)
        fcntl.ioctl(fd, _QGROUP_LIMIT, bytearray(limit))
    finally:
        os.close(fd)


def _make_base(lower: tuple[Path, ...], base: Path) -> None:
    if is_copied(base / "root"):
        if lower_of(base / "root") == lower:
            return
        shutil.rmtree(base)  # of an earlier release's first layer
    made = Path(tempfile.mkdtemp(prefix="copy-", dir=base.parent))
    try:
        make_subvolume(made / "root")
        make_copy(lower, made / "root")
        made.rename(base)
    except FileExistsError:
        pass  # another container of the image was faster
    except OSError:
        if not is_copied(base / "root"):
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _command(number: int, path: Path, source: int, name_at: int) -> None:
    argument = bytearray(_ARGUMENT_BYTES)
    struct.pack_into("<q", argument, 0, source)
    name = os.fsencode(path.name)
    argument[name_at : name_at + len(name)] = name
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(parent, number, argument)
    finally:
        os.close(parent)
