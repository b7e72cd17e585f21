"""Paths in a container: cleaned as Docker does, never resolved outside the root."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.engine import paths


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A root with a file, directories and links that point out of it."""
    inside = tmp_path / "root"
    (inside / "dir/sub").mkdir(parents=True)
    (inside / "file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    for name, target in (
        ("up", "../../../secret"), ("absolute", "/dir"), ("broken", "/dir/none/x"),
        ("loop", "loop"), ("dir/back", "../file"),
    ):  # fmt: skip
        (inside / name).symlink_to(target)
    fd = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("given", "cleaned", "last"),
    [
        ("etc", "/etc", "etc"),
        ("/etc/", "/etc/", "etc"),
        ("/etc/.", "/etc/.", "."),
        ("/a/../b//c", "/b/c", "c"),
        ("/../..", "/", "/"),
        ("/", "/", "/"),
        (".", "/.", "."),
    ],
)
def test_cleaning_keeps_what_a_trailing_slash_means(given: str, cleaned: str, last: str) -> None:
    assert paths.clean(given) == cleaned
    assert paths.base(cleaned) == last


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/up", "/secret"),
        ("/absolute", "/dir"),
        ("/absolute/back", "/file"),
        ("/broken", "/dir/none/x"),
        ("/dir/../../..", "/"),
    ],
)
def test_links_end_inside_the_root(root: int, path: str, end: str) -> None:
    assert paths.follow(root, path) == end


def test_a_loop_of_links_ends(root: int) -> None:
    assert paths.follow(root, "/loop").startswith("/")


def test_the_last_link_is_followed_only_with_a_slash(root: int) -> None:
    link = paths.lookup(root, "/absolute")
    assert stat.S_ISLNK(link.status.st_mode)
    assert link.link_target == "/dir"
    assert paths.lookup(root, "/absolute/").is_directory
    assert paths.lookup(root, "/").is_directory
    for missing in ("/none", "/up/", "/file/x"):
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            paths.lookup(root, missing)


@pytest.mark.parametrize(
    ("mode", "go"),
    [
        (stat.S_IFREG | 0o644, 0o644),
        (stat.S_IFDIR | 0o1777, 1 << 31 | 1 << 20 | 0o777),
        (stat.S_IFLNK | 0o777, 1 << 27 | 0o777),
        (stat.S_IFCHR | 0o666, 1 << 26 | 1 << 21 | 0o666),
        (stat.S_IFBLK | 0o660, 1 << 26 | 0o660),
        (stat.S_IFIFO | 0o600, 1 << 25 | 0o600),
        (stat.S_IFSOCK | 0o600, 1 << 24 | 0o600),
        (stat.S_IFREG | 0o6755, 1 << 23 | 1 << 22 | 0o755),
    ],
)
def test_modes_are_those_of_go(mode: int, go: int) -> None:
    assert paths.go_mode(mode) == go
