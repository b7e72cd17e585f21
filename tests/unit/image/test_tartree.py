"""A tar seen as a tree, against the same tar unpacked."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.image.errors import BadArchive, ImageError
from runtime.image.tartree import TarTree
from runtime.image.tree import Tree
from runtime.image.unpack import unpack
from runtime.image.view import LayeredView
from tests.unit.image.tars import file_member, link_member, tar_of

Member = tuple[tarfile.TarInfo, bytes]


def listing(tree: Tree, path: str = "") -> dict[str, tuple[int, bytes | str]]:  # type: ignore[type-arg]
    """Everything below a path: mode and content, or where a link leads."""
    found: dict[str, tuple[int, bytes | str]] = {}
    root = tree.root()
    todo = [root] if root else []
    while todo:
        for node in tree.children(todo.pop()):
            content: bytes | str = b""
            if node.is_directory:
                todo.append(node)
            elif node.status.st_mode & 0o170000 == 0o120000:
                content = node.link()
            else:
                with node.open() as file:
                    content = file.read()
            mode = 0 if isinstance(content, str) else node.status.st_mode
            found[node.path] = (mode, content)
    return found


def directory(name: str) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o750
    return info, b""


NAMES = st.lists(st.sampled_from(["a", "b", "c", ".", ""]), min_size=1, max_size=3).map("/".join)
MEMBERS = st.one_of(
    st.builds(file_member, NAMES, st.binary(max_size=5)),
    st.builds(directory, NAMES),
    st.builds(link_member, NAMES, st.sampled_from(["a", "b/c", "../a", "/b", "c"])),
    st.builds(link_member, NAMES, NAMES, st.just(tarfile.LNKTYPE)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(MEMBERS, max_size=7))
def test_it_shows_what_unpacking_makes(members: list[Member]) -> None:
    content = tar_of(*members).getvalue()
    with tempfile.TemporaryDirectory() as place:
        try:
            unpack(io.BytesIO(content), Path(place))
        except BadArchive:
            return  # the tree may show more than the file system takes
        try:
            tree = TarTree(io.BytesIO(content))
        except BadArchive:
            return  # or refuse what unpacking makes sense of: links to links, replaced parents
        unpacked = listing(LayeredView((Path(place),)))
        assert listing(tree) == unpacked


def test_names_through_links_and_hard_links() -> None:
    tree = TarTree(
        tar_of(
            file_member("d/f", b"1"),
            link_member("l", "d"),
            file_member("l/g", b"2"),
            link_member("h", "d/f", tarfile.LNKTYPE),
        )
    )
    assert sorted(listing(tree)) == ["d", "d/f", "d/g", "h", "l"]
    assert tree.locate("l/g")[0] == "d/g"
    hard = tree.locate("h")[1]
    assert hard is not None
    assert hard.open().read() == b"1"


@pytest.mark.parametrize(
    "members",
    [
        [file_member("../f")],
        [file_member("a"), file_member("a/b")],
        [link_member("a", "nowhere"), file_member("a/b")],
        [link_member("a", "a"), file_member("a/b")],
        [link_member("a", "b", tarfile.LNKTYPE)],
        [directory("d"), link_member("a", "d", tarfile.LNKTYPE)],
        [link_member("a", "/", tarfile.LNKTYPE)],
    ],
)
def test_what_unpacking_refuses_is_refused(members: list[Member]) -> None:
    with pytest.raises((BadArchive, ImageError)):
        TarTree(tar_of(*members))


def test_a_device_is_refused() -> None:
    info = tarfile.TarInfo("null")
    info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 3
    with pytest.raises(BadArchive, match="device"):
        TarTree(tar_of((info, b"")))


def test_the_end_of_a_tar_counts_where_content_is_missing() -> None:
    whole = tar_of(file_member("f", os.urandom(700))).getvalue()
    assert list(listing(TarTree(io.BytesIO(whole[: 512 + 700])))) == ["f"]
    for end in (512 + 699, 513):
        with pytest.raises(BadArchive):
            TarTree(io.BytesIO(whole[:end]))
    assert listing(TarTree(io.BytesIO(b""))) == {}
