"""What a store does on a small file system: run by test_full_disk in a mount namespace."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.image import archive
from runtime.image.build.builder import Builder
from runtime.image.build.options import BuildOptions, RunStep
from runtime.image.commit import commit
from runtime.image.errors import BuildError, ImageError
from runtime.image.store import ImageStore
from runtime.image.view import LayeredView
from tests.unit.image.tars import file_member, tar_of

_MIB = 1 << 20


class Scene:
    """A store on the small disk and a directory beside it on a large one."""

    def __init__(self, disk: Path, beside: Path) -> None:
        self.disk, self.beside = disk, beside
        self.store = ImageStore(disk / "images")
        self.base = archive.import_rootfs(self.store, tar_of(file_member("f", b"x")), "base:1")
        self.store.lower_dirs(self.base)
        self.names = self.images()
        self.free = self.free_bytes()

    def images(self) -> list[str]:
        return sorted(tag for image in self.store.list() for tag in image.repo_tags)

    def free_bytes(self) -> int:
        found = os.statvfs(self.disk)
        return found.f_bavail * found.f_frsize

    def fails(self, work: Callable[[], object]) -> dict[str, Any]:
        """Do what cannot fit; tell how it failed and what it left."""
        try:
            work()
            error = "nothing"
        except OSError as failure:
            error = errno.errorcode.get(failure.errno or 0, "?")
        except (ImageError, BuildError) as failure:
            error = str(failure)
        reopened = ImageStore(self.disk / "images")
        return {
            "error": error,
            "images": self.images() == self.names,
            "reopened": sorted(t for i in reopened.list() for t in i.repo_tags) == self.names,
            "lost_bytes": self.free - self.free_bytes(),
            "blobs": len(list((self.disk / "images/blobs/sha256").iterdir())),
        }


class Filling:
    """A step that writes more than there is room for."""

    def run(self, step: RunStep) -> int:
        (step.directory / "upper/big").write_bytes(os.urandom(20 * _MIB))
        return 0


def big_archive(beside: Path) -> io.BytesIO:
    source = ImageStore(beside / "source")
    archive.import_rootfs(source, tar_of(file_member("g", os.urandom(20 * _MIB))), "big:1")
    out = io.BytesIO()
    archive.save(source, ["big:1"], out)
    out.seek(0)
    return out


def play(scene: Scene) -> dict[str, Any]:
    store, disk, beside = scene.store, scene.disk, scene.beside
    big = big_archive(beside)
    upper = beside / "upper"
    upper.mkdir()
    (upper / "big").write_bytes(os.urandom(20 * _MIB))
    context = beside / "context"
    context.mkdir()
    (context / "big").write_bytes(os.urandom(20 * _MIB))

    said: list[dict[str, Any]] = []

    def build(text: str) -> object:
        (context / "Dockerfile").write_text(text)
        tree, options = LayeredView((context,)), BuildOptions(tags=("b:1",))
        return Builder(store, Filling()).build(tree, options, said.append)

    told = {
        "load": scene.fails(lambda: archive.load(store, big)),
        "import": scene.fails(
            lambda: archive.import_rootfs(
                store, tar_of(file_member("h", os.urandom(20 * _MIB))), "i:1"
            )
        ),
        "commit": scene.fails(lambda: commit(store, scene.base, upper, refs=("c:1",))),
        "copy": scene.fails(lambda: build("FROM base:1\nCOPY big /big\n")),
        "run": scene.fails(lambda: build("FROM base:1\nRUN fill\n")),
    }
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    told["tag"] = scene.fails(lambda: store.tag("base:1", "other:1"))
    store.remove("base:1", in_use=lambda _: [])
    told["removed"] = {"left": len(ImageStore(disk / "images").list())}
    ballast.unlink()
    again = archive.import_rootfs(store, tar_of(file_member("f", b"y")), "again:1")
    read = (store.lower_dirs(again)[0] / "f").read_text()
    told["recovered"] = {"names": scene.images(), "read": read}
    return told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(play(Scene(Path(sys.argv[1]), Path(sys.argv[2])))))
