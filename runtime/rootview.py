"""A container's file tree as the container sees it, held by descriptors.

The tree is assembled in a mount namespace that only two descriptors keep alive: nothing is ever
mounted where another process could see it, and closing the descriptors unmounts all of it.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from runtime.errors import BadStatus, RuntimeFailure
from runtime.image.durable import open_in_root
from runtime.oci import Overlay
from runtime.supervisor import kernel, userns

_PATH_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_MOVE_FD_TO_FD = kernel.MOVE_MOUNT_F_EMPTY_PATH | kernel.MOVE_MOUNT_T_EMPTY_PATH
_CLONE_FS = 0x200
_SET_STRING, _CREATE = 1, 6  # fsconfig(2) commands


@dataclass(frozen=True)
class BindMount:
    """A host file or directory shown at `target`, an absolute path in the container.

    With `subpath` only what that is inside of the source; `mapped`: in a user namespace its files
    have the container's ids all the same.
    """

    source: str
    target: str
    read_only: bool = False
    subpath: str = ""
    mapped: bool = False


class RootView:
    """`root_fd` is the container's root directory; use as a context manager."""

    def __init__(self, root_fd: int, namespace_fd: int) -> None:
        self.root_fd = root_fd
        self._namespace_fd = namespace_fd  # the mounts last as long as their namespace

    def __enter__(self) -> RootView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the tree."""
        os.close(self.root_fd)
        os.close(self._namespace_fd)


def assemble(
    overlay: Overlay, binds: Iterable[BindMount] = (), *, pid: int = 0, writable: bool = True
) -> RootView:
    """Mount a container's layers and binds; with `pid` of its first process, while it runs.

    Nothing else the container has mounted is seen. One that runs is seen with the host's ids, any
    other tree with the container's. Without `writable` the upper directory is only
    one lower layer more. Raises OSError or RuntimeFailure.
    """
    made: list[RootView] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            tree = _root_of(pid) if pid else _tree_of(overlay, writable)
            try:
                made.append(_assemble(tree, overlay.merged, binds, pid))
            finally:
                os.close(tree)
        except (OSError, RuntimeFailure) as error:
            failed.append(error)

    # setns(2) and unshare(2) change the calling thread alone; one that ends need not go back
    thread = threading.Thread(target=work, name="rootview")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _root_of(pid: int) -> int:
    """Return a detached copy of a running container's root mount, without what lies below it."""
    own = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = _namespace_of(pid)
        try:
            kernel.syscall("unshare", _CLONE_FS)
            kernel.syscall("setns", theirs, kernel.CLONE_NEWNS)
            try:
                return kernel.open_tree("/", recursive=False)
            finally:
                kernel.syscall("setns", own, kernel.CLONE_NEWNS)
        finally:
            os.close(theirs)
    finally:
        os.close(own)


def _namespace_of(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise BadStatus("ending", "running or stopped") from None


def _assemble(tree: int, merged: str, binds: Iterable[BindMount], pid: int) -> RootView:
    mapping = -1
    if pid and userns.of_other(pid):
        mapping = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _put_together(tree, merged, binds, mapping)
    finally:
        if mapping >= 0:
            os.close(mapping)


def _put_together(tree: int, merged: str, binds: Iterable[BindMount], mapping: int) -> RootView:
    kernel.syscall("unshare", kernel.CLONE_NEWNS)
    kernel.syscall("mount", None, b"/", None, kernel.MS_REC | kernel.MS_PRIVATE, None)
    flags = kernel.MOVE_MOUNT_F_EMPTY_PATH
    place = os.fsencode(merged)
    kernel.syscall("move_mount", tree, b"", kernel.AT_FDCWD, place, flags, path=merged)
    root = os.open(merged, _PATH_DIRECTORY | os.O_CLOEXEC)
    try:
        for bind in binds:
            _bind(root, bind, mapping if bind.mapped else -1)
        namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except BaseException:
        os.close(root)
        raise
    return RootView(root, namespace)


def _tree_of(overlay: Overlay, writable: bool) -> int:
    if not overlay.copied:
        return _mount_overlay(overlay, writable)
    tree = kernel.open_tree(overlay.upper, recursive=False)
    if not writable:
        kernel.mount_setattr(tree, kernel.MOUNT_ATTR_RDONLY, False)
    return tree


def _mount_overlay(overlay: Overlay, writable: bool) -> int:
    options = [("lowerdir+", path) for path in overlay.lower]
    if writable:
        options += [("upperdir", overlay.upper), ("workdir", overlay.work)]
    else:
        options.insert(0, ("lowerdir+", overlay.upper))
    try:
        return _new_overlay(options)
    except RuntimeFailure:
        lower = [path for key, path in options if key == "lowerdir+"]
        upper = options[len(lower) :]
        return _new_overlay([("lowerdir", ":".join(lower)), *upper])  # before Linux 6.5


def _new_overlay(options: list[tuple[str, str]]) -> int:
    context = kernel.syscall("fsopen", b"overlay", 1)
    try:
        for key, value in options:
            text = os.fsencode(value)
            kernel.syscall("fsconfig", context, _SET_STRING, key.encode(), text, 0, path=value)
        kernel.syscall("fsconfig", context, _CREATE, None, None, 0, path="overlay")
        return kernel.syscall("fsmount", context, 1, 0)
    finally:
        os.close(context)


def _bind(root_fd: int, bind: BindMount, mapping: int) -> None:
    source = os.open(bind.source, os.O_PATH | os.O_CLOEXEC)
    try:
        if bind.subpath:
            whole, source = source, open_in_root(source, bind.subpath, os.O_PATH)
            os.close(whole)
        is_file = not stat.S_ISDIR(os.fstat(source).st_mode)
        tree = kernel.open_tree(f"/proc/thread-self/fd/{source}", recursive=True)
    finally:
        os.close(source)
    try:
        kernel.mount_setattr(tree, 0, True, kernel.MS_PRIVATE)
        if mapping >= 0:
            userns.map_ids(tree, mapping)
        if bind.read_only:
            kernel.mount_setattr(tree, kernel.MOUNT_ATTR_RDONLY, True)
        target = _mount_point(root_fd, bind.target, is_file=is_file)
        try:
            kernel.syscall("move_mount", tree, b"", target, b"", _MOVE_FD_TO_FD, path=bind.target)
        finally:
            os.close(target)
    finally:
        os.close(tree)


def _mount_point(root_fd: int, path: str, *, is_file: bool) -> int:
    """Open `path` in the tree, made where it is missing; nothing is resolved outside the root."""
    parts = [part for part in path.split("/") if part]
    for depth in range(1, len(parts) + 1):
        with suppress(FileNotFoundError):
            os.close(open_in_root(root_fd, "/".join(parts[:depth]), os.O_PATH))
            continue
        parent = open_in_root(root_fd, "/".join(parts[: depth - 1]), _PATH_DIRECTORY)
        try:
            if is_file and depth == len(parts):
                os.mknod(parts[-1], 0o100644, dir_fd=parent)
            else:
                os.mkdir(parts[depth - 1], 0o755, dir_fd=parent)
        finally:
            os.close(parent)
    return open_in_root(root_fd, path, os.O_PATH)
