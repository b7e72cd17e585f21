from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.image.errors import BadArchive
from runtime.image.pack import pack_rootfs
from runtime.image.unpack import unpack
from tests.unit.image.tars import file_member, link_member, tar_of

NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "secret"]), min_size=1, max_size=4).map(
    "/".join
)
MEMBERS = st.one_of(
    st.builds(file_member, NAMES, st.just(b"evil")),
    st.builds(link_member, NAMES, st.one_of(NAMES, st.just("../outside"), st.just("/outside"))),
    st.builds(
        link_member, NAMES, st.one_of(NAMES, st.just("../outside/secret")), st.just(tarfile.LNKTYPE)
    ),
)


@settings(max_examples=150)
@given(st.lists(MEMBERS, max_size=8))
def test_no_stream_leaves_its_root(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        root, outside = top / "root", top / "outside"
        root.mkdir()
        outside.mkdir()
        secret = outside / "secret"
        secret.write_bytes(b"safe")
        escape = link_member("a", str(outside))
        try:
            unpack(tar_of(escape, *members), root)
        except BadArchive:
            pass  # refused midway: what is on disk must still be inside
        assert sorted(path.name for path in top.iterdir()) == ["outside", "root"]
        assert [path.name for path in outside.iterdir()] == ["secret"]
        assert secret.read_bytes() == b"safe"
        assert secret.stat().st_nlink == 1


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text("abcé ", min_size=1, max_size=6).map(lambda n: f"d/{n}"),
        st.binary(max_size=600),
        max_size=5,
    )
)
def test_packing_what_was_unpacked_gives_the_same_bytes(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        first, second = Path(directory, "1"), Path(directory, "2")
        first.mkdir()
        second.mkdir()
        unpack(tar_of(*(file_member(n, c) for n, c in files.items())), first)
        one, two = io.BytesIO(), io.BytesIO()
        pack_rootfs(first, one)
        unpack(io.BytesIO(one.getvalue()), second)
        pack_rootfs(second, two)
        assert one.getvalue() == two.getvalue()
        assert {n: (second / n).read_bytes() for n in files} == files
