"""Paths inside a container: cleaned as Docker does, looked up without ever leaving its root."""

import os
import posixpath
import stat
from dataclasses import dataclass

from runtime.image.durable import open_in_root

_LINKS_MAX = 255  # of one path, as Docker resolves them
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


@dataclass(frozen=True)
class Found:
    """What a path names: `parent` and `name` open it again without following a symlink."""

    parent: str
    name: str
    status: os.stat_result
    link_target: str = ""
    """Where a symlink ends inside the container, as far as it can be followed."""

    @property
    def is_directory(self) -> bool:
        """Tell a directory."""
        return stat.S_ISDIR(self.status.st_mode)


def clean(path: str) -> str:
    """Return the absolute, lexically clean form; a trailing `/` or `/.` is kept."""
    cleaned = "/" + posixpath.normpath("/" + path).lstrip("/")
    last = path.rpartition("/")[2]
    if last == ".":
        return cleaned.rstrip("/") + "/."
    if path.endswith("/") and cleaned != "/":
        return cleaned + "/"
    return cleaned


def base(path: str) -> str:
    """Return the last element of a clean path: `dir` of `/dir/`, `.` of `/dir/.`, `/` of `/`."""
    return path.rstrip("/").rpartition("/")[2] or "/"


def lookup(root_fd: int, path: str) -> Found:
    """Find what a clean path names; its last element is followed only with a trailing slash.

    Raises:
        FileNotFoundError, NotADirectoryError: as the path says.
    """
    if path.rstrip("/.") == "" or path.endswith(("/", "/.")):
        real = path.removesuffix(".").rstrip("/")
        fd = open_in_root(root_fd, real, os.O_PATH | os.O_DIRECTORY)
        try:
            return Found(real, ".", os.fstat(fd))
        finally:
            os.close(fd)
    parent, _, name = path.rpartition("/")
    fd = open_in_root(root_fd, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    finally:
        os.close(fd)
    link = follow(root_fd, path) if stat.S_ISLNK(status.st_mode) else ""
    return Found(parent, name, status, link)


def follow(root_fd: int, path: str) -> str:
    """Return the path with every symlink resolved inside the root, as far as there is one."""
    todo = [part for part in reversed(path.split("/")) if part]
    done: list[str] = []
    for _ in range(_LINKS_MAX):
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
            elif part != ".":
                target = _link(root_fd, "/".join(done), part)
                if target is None:
                    done.append(part)
                    continue
                if target.startswith("/"):
                    done = []
                todo += [piece for piece in reversed(target.split("/")) if piece]
                break
        else:
            break
    return "/" + "/".join(done)


def go_mode(mode: int) -> int:
    """Return st_mode as Go's os.FileMode, which is what clients expect in a path's stat."""
    return (
        stat.S_IMODE(mode) & 0o777
        | _GO_KINDS.get(stat.S_IFMT(mode), 0)
        | sum(bit for ours, bit in _GO_BITS if mode & ours)
    )


def _link(root_fd: int, parent: str, name: str) -> str | None:
    try:
        fd = open_in_root(root_fd, parent, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError:
        return None
    finally:
        os.close(fd)
