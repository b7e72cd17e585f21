"""Archives that mean harm: each is refused or ends inside its root."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import stat
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from runtime.image import archive
from runtime.image.blobs import digest_of
from runtime.image.bounds import UnpackLimits
from runtime.image.errors import BadArchive
from runtime.image.pack import is_whiteout
from runtime.image.store import ImageStore
from runtime.image.unpack import LAYER, UnpackOptions, unpack
from tests.unit.image.tars import file_member, link_member, tar_of

Member = tuple[tarfile.TarInfo, bytes]
HARD = tarfile.LNKTYPE


def special(name: str, kind: bytes, **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info, b""


class Trap:
    """A root to unpack into, beside a directory nothing may touch."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root, self.outside = base / "root", base / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "secret").write_text("safe")

    def sprung(self) -> bool:
        secret = self.outside / "secret"
        return (
            sorted(path.name for path in self.base.iterdir()) != ["outside", "root"]
            or [path.name for path in self.outside.iterdir()] != ["secret"]
            or secret.read_text() != "safe"
            or secret.stat().st_nlink != 1
            or stat.S_IMODE(secret.stat().st_mode) & 0o111 != 0
        )


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


LONG = "d" * 200
ESCAPES: dict[str, list[Member]] = {
    # CVE-2007-4559: names that leave the root
    "parent": [file_member("../outside/secret", b"evil")],
    "parents inside": [file_member("a/../../outside/secret", b"evil")],
    "absolute": [file_member("/../../outside/secret", b"evil")],
    # CVE-2024-12718, CVE-2025-4517, CVE-2025-4330, CVE-2025-4138: links that lead out
    "symlink": [link_member("a", "../outside"), file_member("a/secret", b"evil")],
    "absolute symlink": [link_member("a", "@outside"), file_member("a/secret", b"evil")],
    "chain": [
        link_member("a", "b"),
        link_member("b", "../outside"),
        file_member("a/secret", b"evil"),
    ],
    "deep chain": [
        *(file_member(f"{LONG}/{'x/' * depth}f") for depth in range(20)),
        link_member("up", f"{LONG}/{'x/' * 19}{'../' * 40}outside"),
        file_member("up/secret", b"evil"),
    ],
    "symlink over a file": [link_member("secret", "../outside/secret"), file_member("secret")],
    "directory through a link": [
        link_member("a", "../outside"),
        special("a", tarfile.DIRTYPE, mode=0o777),
        special("a/new", tarfile.DIRTYPE, mode=0o777),
    ],
    "mode through a link": [
        link_member("a", "../outside/secret"),
        file_member("a", b"evil", 0o777),
    ],
    "hard link": [link_member("a", "../outside/secret", HARD)],
    "absolute hard link": [link_member("a", "@outside/secret", HARD)],
    "hard link through a link": [
        link_member("a", "../outside"),
        link_member("b", "a/secret", HARD),
        file_member("b", b"evil"),
    ],
    "hard link to a link": [
        link_member("a", "../outside/secret"),
        link_member("b", "a", HARD),
        file_member("b", b"evil"),
    ],
    "fifo through a link": [
        link_member("a", "../outside"),
        special("a/pipe", tarfile.FIFOTYPE),
    ],
    # whiteouts that reach out
    "whiteout through a link": [link_member("a", "../outside"), file_member("a/.wh.secret")],
    "whiteout of the parent": [file_member(".wh...")],
    "whiteout of itself": [file_member(".wh..")],
    "opaque through a link": [link_member("a", "../outside"), file_member("a/.wh..wh..opq")],
}


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("options", [UnpackOptions(), LAYER], ids=["plain", "layer"])
def test_no_archive_reaches_out(trap: Trap, name: str, options: UnpackOptions) -> None:
    members = []
    for info, content in ESCAPES[name]:
        info.linkname = info.linkname.replace("@outside", str(trap.outside))
        members.append((info, content))
    try:
        unpack(tar_of(*members), trap.root, options)
    except BadArchive:
        pass
    assert not trap.sprung()
    for path in trap.root.rglob("*"):
        assert path.is_symlink() or path.resolve().is_relative_to(trap.root)


@pytest.mark.parametrize(
    "member",
    [
        special("sda", tarfile.BLKTYPE, devmajor=8, devminor=0),
        special("mem", tarfile.CHRTYPE, devmajor=1, devminor=1),
    ],
    ids=["block", "character"],
)
def test_a_device_is_made_for_a_layer_only(trap: Trap, member: Member) -> None:
    with pytest.raises(BadArchive, match="is a device"):
        unpack(tar_of(member), trap.root)
    assert list(trap.root.iterdir()) == []


@pytest.mark.parametrize(
    "member",
    [
        special("a", tarfile.SYMTYPE, linkname="a\0b"),
        special("a\0b", tarfile.REGTYPE),
        special("a", tarfile.REGTYPE, uid=1 << 40),
        special("a", tarfile.REGTYPE, mtime=1 << 62),
        special("a", tarfile.REGTYPE, pax_headers={"mtime": "9" * 400}),
        special("a", tarfile.REGTYPE, pax_headers={"SCHILY.xattr.user.a\0b": "c"}),
        special("a", tarfile.CHRTYPE, devmajor=1 << 20, devminor=1 << 20),
        special("a" * 300, tarfile.REGTYPE),
        special("/".join(["a" * 200] * 30), tarfile.REGTYPE),
        special("a", tarfile.SYMTYPE, linkname="b" * 5000),
        special("a", tarfile.SYMTYPE, linkname=""),
        special("", tarfile.REGTYPE),
        special("a", b"9"),
    ],
    ids=lambda member: member[0].name[:8] + str(member[0].type),
)
def test_a_member_that_cannot_be_is_refused_or_made_possible(trap: Trap, member: Member) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member[0])
    try:
        unpack(io.BytesIO(out.getvalue()), trap.root, LAYER)
    except BadArchive:
        pass
    assert not trap.sprung()


def test_overlayfs_own_attributes_do_not_come_from_layers(trap: Trap) -> None:
    info, content = file_member("a", b"x")
    info.pax_headers = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.metacopy": "",
    }
    directory = special("d", tarfile.DIRTYPE, mode=0o755)
    directory[0].pax_headers = info.pax_headers
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(content))
        tar.addfile(directory[0])
    unpack(io.BytesIO(out.getvalue()), trap.root, LAYER)
    for name in ("a", "d"):
        assert not [key for key in os.listxattr(trap.root / name) if "overlay" in key]


def test_a_whiteout_hides_only_what_is_below(trap: Trap) -> None:
    unpack(tar_of(file_member("a"), file_member(".wh.a"), file_member(".wh.b")), trap.root, LAYER)
    assert not is_whiteout((trap.root / "a").lstat())
    assert is_whiteout((trap.root / "b").lstat())


# -- bombs --------------------------------------------------------------------------------------

SMALL = UnpackLimits(ratio_from_bytes=1 << 20, ratio=50, size_bytes=8 << 20, entries=100)


def compressed(kind: str, content: bytes) -> bytes:
    if kind == "xz":
        return lzma.compress(content)
    return gzip.compress(content)


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_a_bomb_of_zeros_is_refused_before_it_is_whole(trap: Trap, kind: str) -> None:
    bomb = compressed(kind, tar_of(file_member("a", bytes(4 << 20))).getvalue())
    with pytest.raises(BadArchive, match="more than 50 times its size"):
        unpack(io.BytesIO(bomb), trap.root, UnpackOptions(limits=SMALL))
    unpack(io.BytesIO(bomb), trap.root)  # in the limits of every day it is none


def test_a_bomb_behind_the_end_of_the_tar_is_refused(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, SMALL)
    bomb = gzip.compress(tar_of(file_member("a")).getvalue() + bytes(4 << 20))
    with pytest.raises(BadArchive, match="more than 50 times"):
        store.put_layer(io.BytesIO(bomb))


def test_too_many_bytes_or_members_are_refused(trap: Trap, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store", SMALL)
    large = tar_of(*(file_member(str(i), os.urandom(1 << 20)) for i in range(9))).getvalue()
    many = tar_of(*(file_member(str(i)) for i in range(101))).getvalue()
    for content in (large, many):
        with pytest.raises(BadArchive):
            unpack(io.BytesIO(content), trap.root, UnpackOptions(limits=SMALL))
        with pytest.raises(BadArchive):
            store.put_layer(io.BytesIO(content))


def test_holes_of_a_sparse_file_count(trap: Trap) -> None:
    header = tarfile.TarInfo("a")
    header.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": "a",
        "GNU.sparse.size": str(200 << 30),
        "GNU.sparse.map": f"{200 << 30},0",
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(header)
    with pytest.raises(BadArchive, match="sparse"):
        unpack(io.BytesIO(out.getvalue()), trap.root)


def test_a_header_does_not_fill_the_memory(trap: Trap) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    bomb = gzip.compress(header.tobuf() + bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(BadArchive, match="too large"):
        unpack(io.BytesIO(bomb), trap.root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_a_negative_size_does_not_loop(tmp_path: Path) -> None:
    """CVE-2025-8194."""
    header = bytearray(tarfile.TarInfo("a").tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    hostile = bytes(header) + bytes(4096)
    with pytest.raises(BadArchive):
        unpack(io.BytesIO(hostile), tmp_path)
    with pytest.raises(BadArchive):
        archive.load(ImageStore(tmp_path / "store"), io.BytesIO(hostile))


# -- image archives ------------------------------------------------------------------------------

LAYER_TAR = tar_of(file_member("f", b"x")).getvalue()
CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Cmd": ["/f"]},
    "rootfs": {"type": "layers", "diff_ids": [digest_of(LAYER_TAR)]},
}


def saved(**changes: Any) -> io.BytesIO:
    """A docker archive of one image; `config`, `manifest` and `layer` replace its parts."""
    config = json.dumps(changes.get("config", CONFIG)).encode()
    entry = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar"]}
    manifest = changes.get("manifest", [entry])
    raw = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    members = [
        file_member("c.json", changes.get("raw_config", config)),
        file_member("l.tar", changes.get("layer", LAYER_TAR)),
        file_member("manifest.json", raw),
        *changes.get("more", ()),
    ]
    return tar_of(*members)


def empty(store: ImageStore, root: Path) -> bool:
    places = (root / "blobs/sha256", root / "layers/sha256", root / "tmp")
    return store.list() == [] and not any(list(place.iterdir()) for place in places)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layer": tar_of(file_member("g")).getvalue()}, "do not match the diff ids"),
        ({"layer": LAYER_TAR[:512]}, "damaged"),
        ({"raw_config": b"{"}, "malformed image config"),
        ({"raw_config": b"[" * 100_000}, "malformed image config"),
        ({"config": []}, "malformed image config"),
        ({"config": {**CONFIG, "config": {"Env": "PATH=/"}}}, "malformed image config"),
        ({"config": {**CONFIG, "config": {"Labels": {"a": 1}}}}, "malformed image config"),
        ({"config": {**CONFIG, "history": [1]}}, "malformed image config"),
        ({"config": {**CONFIG, "os": "windows"}}, "image is for windows"),
        ({"manifest": {}}, "malformed manifest.json"),
        ({"manifest": [{"Config": "c.json"}]}, "malformed manifest.json"),
        ({"manifest": [{"Config": "../../etc/passwd", "Layers": []}]}, "archive has no file"),
        ({"manifest": [{"Config": "/etc/passwd", "Layers": []}]}, "archive has no file"),
        ({"manifest": b" " * (17 << 20)}, "is larger than"),
        (
            {"manifest": [{"Config": "c.json", "RepoTags": ["UP"], "Layers": ["l.tar"]}]},
            "names an image badly",
        ),
        (
            {
                "manifest": [{"Config": "l", "Layers": []}],
                "more": [link_member("l", "../../../../etc/passwd")],
            },
            "archive has no file",
        ),
        (
            {
                "manifest": [{"Config": "a", "Layers": []}],
                "more": [link_member("a", "b"), link_member("b", "a")],
            },
            "archive has no file",
        ),
        (
            {
                "manifest": [{"Config": "blobs/sha256/" + "0" * 64, "Layers": []}],
                "more": [file_member("blobs/sha256/" + "0" * 64, json.dumps(CONFIG).encode())],
            },
            "does not have its digest",
        ),
        (
            {
                "manifest": [
                    {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar"]},
                    {"Config": "none", "RepoTags": ["y:1"], "Layers": ["l.tar"]},
                ]
            },
            "archive has no file none",
        ),
    ],
)
def test_an_archive_with_one_bad_part_adds_nothing(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    store = ImageStore(tmp_path)
    with pytest.raises(BadArchive, match=complaint):
        archive.load(store, saved(**changes))
    assert empty(store, tmp_path)


def layout(index: Any, **blobs: bytes) -> io.BytesIO:
    members = [file_member("index.json", json.dumps(index).encode())]
    members += [file_member(f"blobs/sha256/{name}", content) for name, content in blobs.items()]
    return tar_of(*members)


def test_an_index_in_itself_ends(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    inner = json.dumps({"manifests": []}).encode()
    blobs: dict[str, bytes] = {}
    for _ in range(6):
        name = digest_of(inner).removeprefix("sha256:")
        blobs[name] = inner
        inner = json.dumps({"manifests": [{"digest": f"sha256:{name}"}]}).encode()
    with pytest.raises(BadArchive, match="nested too deeply"):
        archive.load(store, layout(json.loads(inner), **blobs))
    assert empty(store, tmp_path)


def test_a_blob_of_another_digest_is_refused(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    index = {"manifests": [{"digest": "sha256:" + "0" * 64}]}
    with pytest.raises(BadArchive, match="does not have its digest"):
        archive.load(store, layout(index, **{"0" * 64: b"{}"}))
    with pytest.raises(BadArchive, match="archive has no file"):
        archive.load(store, layout({"manifests": [{"digest": "sha256:../../../etc/passwd"}]}))
    assert empty(store, tmp_path)


def test_images_of_other_machines_are_left_alone(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    other = {"digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "s390x"}}
    assert archive.load(store, layout({"manifests": [other]})) == []


def test_nobody_else_reaches_the_layers(tmp_path: Path) -> None:
    """CVE-2021-41091: programs with setuid lie in the store."""
    ImageStore(tmp_path / "store")
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


def test_a_zstd_layer_is_stored_and_unpacked(tmp_path: Path) -> None:
    import sys

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    store = ImageStore(tmp_path)
    layer = store.put_layer(io.BytesIO(zstd.compress(LAYER_TAR)))
    assert layer.media_type.endswith("+zstd")
    assert layer.diff_id == digest_of(LAYER_TAR)
    image = store.put_image(CONFIG, [layer])
    assert (store.lower_dirs(image)[0] / "f").read_bytes() == b"x"
    with pytest.raises(BadArchive, match="damaged"):
        store.put_layer(io.BytesIO(zstd.compress(LAYER_TAR)[:-8]))
