"""Container trees by descriptors, changes against the image, archives that try to break out."""

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import rootview
from runtime.image.copied import ADDED, DELETED, MODIFIED
from runtime.image.errors import BadArchive
from runtime.image.unpack import UnpackOptions, unpack
from runtime.image.view import LayeredView
from runtime.oci import Overlay
from worker.engine import rootfs
from worker.engine.files import changes

pytestmark = pytest.mark.privileged


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    """Layers with /etc/passwd and /etc/link, and an empty upper directory."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/etc/deep").mkdir(parents=True)
    (tmp_path / "lower/etc/passwd").write_text("root\n")
    (tmp_path / "lower/etc/deep/old").write_text("old\n")
    (tmp_path / "lower/link").symlink_to("/etc")
    paths = [str(tmp_path / name) for name in ("lower", "upper", "work", "merged")]
    return Overlay((paths[0],), *paths[1:])


@pytest.fixture
def inner(overlay: Overlay) -> Iterator[int]:
    """The root of an assembled container."""
    with rootview.assemble(overlay) as view:
        yield view.root_fd


def mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def read(root: int, path: str) -> str:
    fd = os.open(path, os.O_RDONLY, dir_fd=root)
    with os.fdopen(fd) as file:
        return file.read()


def archive(*members: tuple[str, bytes | str]) -> io.BytesIO:
    """A tar of files (bytes) and symlinks (text)."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    raw.seek(0)
    return raw


def test_a_stopped_tree_is_seen_by_nobody_else(overlay: Overlay, tmp_path: Path) -> None:
    before = mounts()
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/file").write_text("of the volume")
    bind = rootview.BindMount(str(tmp_path / "volume"), "/link/made/here", read_only=True)
    with rootview.assemble(overlay, [bind]) as view:
        assert mounts() == before
        assert os.listdir(overlay.merged) == []
        assert read(view.root_fd, "etc/passwd") == "root\n"
        assert read(view.root_fd, "etc/made/here/file") == "of the volume"
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir("etc/made/here/x", dir_fd=view.root_fd)
        os.mkdir("kept", dir_fd=view.root_fd)
    assert Path(overlay.upper, "kept").is_dir()


def test_a_running_tree_is_the_containers_own(overlay: Overlay) -> None:
    script = (
        f"mount -t overlay overlay -o lowerdir={overlay.lower[0]},upperdir={overlay.upper},"
        f"workdir={overlay.work} {overlay.merged} && cd {overlay.merged} && mkdir old && "
        "pivot_root . old && umount -l old && rmdir old && echo up && read end"
    )
    with subprocess.Popen(
        ["unshare", "-m", "/usr/bin/busybox", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as container:
        assert container.stdout is not None
        assert container.stdin is not None
        assert container.stdout.readline() == b"up\n"
        with rootview.assemble(overlay, pid=container.pid) as view:
            os.mkdir("now", dir_fd=view.root_fd)
            assert Path(f"/proc/{container.pid}/root/now").is_dir()
        container.stdin.close()


def test_changes_are_told_apart(overlay: Overlay, inner: int) -> None:
    os.unlink("etc/passwd", dir_fd=inner)
    os.mkdir("new", dir_fd=inner)
    os.unlink("etc/deep/old", dir_fd=inner)
    os.rmdir("etc/deep", dir_fd=inner)
    os.mkdir("etc/deep", dir_fd=inner)
    os.chmod("etc/deep", 0o700, dir_fd=inner)
    assert changes(Path(overlay.upper), overlay.lower) == [
        (MODIFIED, "/etc"),
        (MODIFIED, "/etc/deep"),
        (DELETED, "/etc/deep/old"),
        (DELETED, "/etc/passwd"),
        (ADDED, "/new"),
    ]


def test_a_directory_that_only_leads_to_a_change_is_no_change(overlay: Overlay, inner: int) -> None:
    fd = os.open("etc/passwd", os.O_WRONLY | os.O_APPEND, dir_fd=inner)
    os.write(fd, b"more")
    os.close(fd)
    assert changes(Path(overlay.upper), overlay.lower) == [(MODIFIED, "/etc/passwd")]


def test_links_of_an_archive_and_of_the_tree_stay_inside(
    overlay: Overlay, inner: int, tmp_path: Path
) -> None:
    outside = tmp_path / "victim"
    outside.mkdir()
    tar = archive(("out", str(outside)), ("out/file", b"x"), ("up", "../" * 12), ("up/file2", b"y"))
    with pytest.raises(BadArchive):
        unpack(tar, inner, UnpackOptions(keep_kinds=True), below="/etc/deep")
    assert os.listdir(outside) == []
    unpack(archive(("link/file", b"z")), inner, below="/")
    assert read(inner, "etc/file") == "z"
    with pytest.raises(BadArchive, match="leaves the root"):
        unpack(archive(("../file", b"x")), inner, below="/etc")


def test_kinds_are_kept_where_asked(inner: int) -> None:
    options = UnpackOptions(keep_kinds=True)
    with pytest.raises(BadArchive, match="cannot overwrite directory"):
        unpack(archive(("deep", b"x")), inner, options, below="/etc")
    unpack(archive(("deep", b"x")), inner, below="/etc")
    assert read(inner, "etc/deep") == "x"


def test_owner_is_as_asked_and_the_target_keeps_its_mode(inner: int) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        here = tarfile.TarInfo("./")
        here.type, here.mode = tarfile.DIRTYPE, 0o777
        tar.addfile(here)
        file = tarfile.TarInfo("./file")
        file.uid = file.gid = 7
        tar.addfile(file)
    raw.seek(0)
    unpack(raw, inner, UnpackOptions(owner=(1000, 1001)), below="/etc")
    status = os.stat("etc/file", dir_fd=inner)
    assert (status.st_uid, status.st_gid) == (1000, 1001)
    assert stat.S_IMODE(os.stat("etc", dir_fd=inner).st_mode) == 0o755


def test_device_nodes_are_refused(inner: int) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("sda")
        info.type, info.devmajor = tarfile.BLKTYPE, 8
        tar.addfile(info)
    raw.seek(0)
    with pytest.raises(BadArchive, match="device"):
        unpack(raw, inner, below="/etc")


def test_only_the_part_of_a_volume_that_is_mounted_is_seen(
    overlay: Overlay, tmp_path: Path
) -> None:
    (tmp_path / "volume/part").mkdir(parents=True)
    (tmp_path / "volume/part/seen").write_text("seen")
    (tmp_path / "volume/other").write_text("not mounted")
    (tmp_path / "volume/trap").symlink_to(tmp_path)
    bind = rootview.BindMount(str(tmp_path / "volume"), "/data", subpath="part")
    with rootview.assemble(overlay, [bind]) as view:
        assert os.listdir(f"/proc/self/fd/{view.root_fd}/data") == ["seen"]
    outside = rootview.BindMount(str(tmp_path / "volume"), "/data", subpath="trap/lower")
    with pytest.raises(FileNotFoundError), rootview.assemble(overlay, [outside]):
        pass


@pytest.mark.parametrize("swap", ["link", "directory", "pipe"])
def test_a_file_that_is_swapped_while_it_is_looked_at_shows_nothing_of_the_host(
    overlay: Overlay, tmp_path: Path, swap: str
) -> None:
    etc = Path(overlay.upper) / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("container\n")
    (tmp_path / "host").mkdir()
    (tmp_path / "host/passwd").write_text("host\n")
    _, entry = LayeredView(tuple(map(Path, overlay.shown))).locate("etc/passwd")
    assert entry is not None
    with entry.open() as file:
        assert file.read() == b"container\n"
    (etc / "passwd").unlink()
    if swap == "link":
        (etc / "passwd").symlink_to(tmp_path / "host/passwd")
    elif swap == "pipe":
        os.mkfifo(etc / "passwd")
    else:
        etc.rmdir()
        etc.symlink_to(tmp_path / "host")
    with pytest.raises(OSError):
        entry.open()
    assert rootfs.read_member(overlay.shown, "etc/passwd") == ""
