from __future__ import annotations

import io
from pathlib import Path

import pytest

from runtime.image import archive
from runtime.image.errors import BadArchive, ImageConflict, ImageNotFound
from runtime.image.removal import User
from runtime.image.store import ImageStore
from runtime.image.unpack import unpack
from tests.unit.image.tars import file_member, tar_of


def nobody(_: str) -> list[User]:
    return []


def test_save_and_load_keep_the_image(tmp_path: Path) -> None:
    first, second = ImageStore(tmp_path / "a"), ImageStore(tmp_path / "b")
    image = archive.import_rootfs(first, tar_of(file_member("d/f", b"data")), "x:1")
    out = io.BytesIO()
    archive.save(first, ["x:1"], out)
    assert archive.load(second, io.BytesIO(out.getvalue())) == [archive.Loaded(image.id, "x:1")]
    loaded = second.resolve("x:1")
    assert loaded.id == image.id
    assert (second.lower_dirs(loaded)[0] / "d/f").read_bytes() == b"data"


def test_a_bare_repository_means_all_its_tags(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    image = archive.import_rootfs(store, tar_of(file_member("f")), "some/x:1")
    for name in ("some/x:2", "x:1", "localhost/some/x:1"):
        store.tag("some/x:1", name)
    refs = ["some/x", "x:1", image.short_id]
    assert archive.meant(store, refs) == ["some/x:1", "some/x:2", *refs[1:]]
    with pytest.raises(ImageNotFound, match="No such image: y:latest"):
        archive.meant(store, ["x", "y"])


def test_images_survive_reopening_and_answer_to_id_prefixes(tmp_path: Path) -> None:
    image = archive.import_rootfs(ImageStore(tmp_path), tar_of(file_member("f")), "x:1")
    again = ImageStore(tmp_path)
    assert again.resolve(image.short_id).repo_tags == ("x:1",)
    with pytest.raises(ImageNotFound, match="No such image: nope:latest"):
        again.resolve("nope")


def test_removal_follows_dockers_rules(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    image = archive.import_rootfs(store, tar_of(file_member("f")), "x:1")
    store.lower_dirs(image)
    store.tag("x:1", "y:1")
    with pytest.raises(ImageConflict, match="must be forced"):
        store.remove(image.id, in_use=nobody)
    assert store.remove("x:1", in_use=nobody) == [{"Untagged": "x:1"}]
    with pytest.raises(ImageConflict, match="container c1 is using"):
        store.remove("y:1", in_use=lambda _: [User("c1", False)])
    assert store.remove("y:1", in_use=nobody) == [
        {"Untagged": "y:1"},
        {"Deleted": image.id},
        {"Deleted": image.layers[0].diff_id},
    ]
    assert list((tmp_path / "blobs/sha256").iterdir()) == []
    assert list((tmp_path / "layers/sha256").iterdir()) == []


def test_a_damaged_layer_or_archive_is_refused(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    whole = tar_of(file_member("f", b"x" * 4096)).getvalue()
    with pytest.raises(BadArchive):
        store.put_layer(io.BytesIO(whole[:2000]))
    with pytest.raises(BadArchive, match="expected"):
        store.put_layer(io.BytesIO(whole), "sha256:" + "0" * 64)
    with pytest.raises(BadArchive):
        archive.load(store, tar_of(file_member("other")))


def test_a_last_file_without_padding_is_whole_and_a_cut_one_is_not(tmp_path: Path) -> None:
    content = tar_of(file_member("f", b"x" * 700)).getvalue()
    unpack(io.BytesIO(content[: 512 + 700]), tmp_path)
    assert (tmp_path / "f").read_bytes() == b"x" * 700
    for end in (512 + 699, 512 + 513, 512 + 1, 300):
        with pytest.raises(BadArchive):
            unpack(io.BytesIO(content[:end]), tmp_path)


def test_an_image_removed_under_a_stopped_container_keeps_its_layers(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    image = archive.import_rootfs(store, tar_of(file_member("f", b"x")), "x:1")
    user = User("c1", False)
    done = store.remove(image.id, force=True, in_use=lambda i: [user] if i == image.id else [])
    assert done == [{"Untagged": "x:1"}, {"Deleted": image.id}]
    for opened in (store, ImageStore(tmp_path)):
        assert opened.list() == []
        with pytest.raises(ImageNotFound):
            opened.resolve(image.short_id)
        lower = opened.lower_dirs(opened.resolve(image.id))
        assert (lower[0] / "f").read_bytes() == b"x"
    other = archive.import_rootfs(store, tar_of(file_member("g")), "y:1")
    store.remove(other.id, in_use=nobody)
    with pytest.raises(ImageNotFound):
        store.resolve(image.id)
    assert list((tmp_path / "layers/sha256").iterdir()) == []
