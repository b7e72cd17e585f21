"""What a process does to a directory, recorded, and the disks that a power cut may leave of it.

Durable is what POSIX promises and no more: a file's bytes up to its last fsync, a directory's
entries up to its own. Of what came later each directory entry may be there or not, in any
combination, and each file has its bytes as of any later moment, the last ones torn.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

_RECORDED: Final = ("write", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "link")
_ROOT: Final = 0


@dataclass(frozen=True)
class Entry:
    """A name in a directory now is `child`, or nothing."""

    directory: int
    name: str
    child: int | None


@dataclass(frozen=True)
class Data:
    """A file's bytes now."""

    file: int
    data: bytes


@dataclass(frozen=True)
class Sync:
    """A file or directory was made durable."""

    inode: int


@dataclass(frozen=True)
class Acknowledged:
    """Somebody was told that this is kept."""

    what: Any


Step = Entry | Data | Sync | Acknowledged


class Recording:
    """The steps of this process in the directory `root`, which exists and is empty.

    The calls are the real ones. Around each, the directory is compared with what was known, so
    what other calls wrote (buffered files, mkdir) is seen as well: at the next of these.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[Step] = []
        self._lock = threading.RLock()
        self._real = {name: getattr(os, name) for name in _RECORDED}
        self._ids: dict[int, int] = {root.stat().st_ino: _ROOT}
        self._next = 1
        self._names: dict[tuple[int, str], int] = {}
        self._data: dict[int, bytes] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record what this process does meanwhile."""
        for name in _RECORDED:
            setattr(os, name, self._around(name))
        try:
            yield
        finally:
            for name, real in self._real.items():
                setattr(os, name, real)

    def acknowledge(self, what: Any) -> None:
        """Note that from here on `what` must be on the disk."""
        with self._lock:
            self.steps.append(Acknowledged(what))

    def _around(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._look()
                inode = os.fstat(args[0]).st_ino if "sync" in name else 0
                found = real(*args, **kwargs)
                self._look()
                if inode in self._ids:
                    self.steps.append(Sync(self._ids[inode]))
                return found

        return call

    def _look(self) -> None:
        """Write down in what the directory differs from what is known."""
        names: dict[tuple[int, str], int] = {}
        inodes: set[int] = set()
        for folder, folders, files in os.walk(self.root):
            directory = self._id(os.stat(folder).st_ino)
            for name in sorted([*folders, *files]):
                path = Path(folder, name)
                inode = path.lstat().st_ino
                inodes.add(inode)
                names[directory, name] = child = self._id(inode)
                if path.is_file():
                    data = path.read_bytes()
                    if self._data.get(child) != data:
                        self._data[child] = data
                        self.steps.append(Data(child, data))
        for key in sorted(names.keys() | self._names.keys()):
            if names.get(key) != self._names.get(key):
                self.steps.append(Entry(*key, names.get(key)))
        self._names = names
        # The number of an inode that is gone may come again for another file.
        self._ids = {
            inode: known for inode, known in self._ids.items() if inode in inodes or known == _ROOT
        }

    def _id(self, inode: int) -> int:
        if inode not in self._ids:
            self._ids[inode] = self._next
            self._next += 1
        return self._ids[inode]


@dataclass
class _File:
    durable: bytes = b""
    later: list[bytes] = field(default_factory=list)

    def after_cut(self, chance: Random) -> bytes:
        """Return any of the states it may be in, a torn one among them."""
        versions = [self.durable, *self.later]
        at = chance.choice([0, len(versions) - 1, chance.randrange(len(versions))])
        kept = versions[at]
        if at + 1 == len(versions) or chance.random() < 0.5:
            return kept
        following = versions[at + 1]
        if not following.startswith(kept):
            return following[: chance.randint(0, len(following))]
        torn = following[: chance.randint(len(kept), len(following))]
        zeros = chance.choice([0, 0, chance.randint(0, 4096)])
        return torn + bytes(min(zeros, len(following) - len(torn)))


class Image:
    """The disk if power is cut after the first `cut` steps; `chance` decides what was kept."""

    def __init__(self, steps: Sequence[Step], cut: int, chance: Random) -> None:
        self.acknowledged: list[Any] = []
        self._files: dict[int, _File] = {}
        self._entries: dict[tuple[int, str], int] = {}
        later: list[Entry] = []
        for step in steps[:cut]:
            match step:
                case Data(file, data):
                    self._files.setdefault(file, _File()).later.append(data)
                case Entry():
                    later.append(step)
                case Sync(inode):
                    if inode in self._files and self._files[inode].later:
                        self._files[inode] = _File(self._files[inode].later[-1])
                    for entry in [each for each in later if each.directory == inode]:
                        self._enter(entry)
                        later.remove(entry)
                case Acknowledged(what):
                    self.acknowledged.append(what)
        share = chance.choice([0.0, 0.5, 1.0])
        for entry in later:
            if chance.random() < share:
                self._enter(entry)
        self._chance = chance

    def _enter(self, entry: Entry) -> None:
        key = (entry.directory, entry.name)
        if entry.child is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = entry.child

    def write(self, root: Path) -> None:
        """Make `root`, which does not exist, this image."""
        self._write(root, _ROOT)

    def _write(self, folder: Path, directory: int) -> None:
        folder.mkdir()
        for (parent, name), child in sorted(self._entries.items()):
            if parent == directory and child in self._files:
                (folder / name).write_bytes(self._files[child].after_cut(self._chance))
            elif parent == directory:
                self._write(folder / name, child)
