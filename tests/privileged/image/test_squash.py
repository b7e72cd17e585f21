from __future__ import annotations

from pathlib import Path

from runtime.image import archive
from runtime.image.commit import commit
from runtime.image.pack import is_whiteout
from runtime.image.squash import squash
from runtime.image.store import ImageStore
from runtime.image.unpack import LAYER, unpack
from runtime.image.view import LayeredView
from tests.unit.image.tars import file_member, tar_of


def test_squashing_keeps_the_tree_and_what_it_hides(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    image = archive.import_rootfs(store, tar_of(file_member("a", b"0"), file_member("d/b", b"0")))
    changes = (
        (file_member("a", b"1"), file_member("c", b"1")),
        (file_member(".wh.c"), file_member("d/.wh..wh..opq"), file_member("d/e", b"2")),
    )
    for number, members in enumerate(changes):
        upper = tmp_path / str(number)
        upper.mkdir()
        unpack(tar_of(*members), upper, LAYER)
        image = commit(store, image, upper, comment="step", created_by="sleep 1")
    squashed = squash(store, image, keep=1)
    assert len(squashed.layers) == 2
    view = LayeredView(store.lower_dirs(squashed))
    root = view.root()
    assert root is not None
    assert [entry.path for entry in view.children(root)] == ["a", "d"]
    entry = view.locate("a")[1]
    assert entry is not None
    assert entry.physical.read_bytes() == b"1"
    directory = view.locate("d")[1]
    assert directory is not None
    assert [child.path for child in view.children(directory)] == ["d/e"]
    assert is_whiteout((store.lower_dirs(squashed)[0] / "c").lstat())
    assert len(store.history(squashed)) == 4
