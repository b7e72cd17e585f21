"""A walk of a tree that is changed under it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.image.walking import directories


@pytest.mark.parametrize("swapped", ["a", "a/b"])
def test_what_has_become_a_link_shows_nothing_outside_of_the_root(
    tmp_path: Path, swapped: str
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "file").touch()
    (outside / "b").mkdir(parents=True)
    (outside / "secret").touch()
    (outside / "b" / "secret").touch()
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        seen = {}
        for path, _, held in directories(fd):
            seen[path] = sorted(held)
            if path == os.path.dirname(swapped):
                (root / swapped).rename(tmp_path / "old")
                (root / swapped).symlink_to(outside)
        assert not any("secret" in names for names in seen.values())
        assert seen == {"": ["a"]} | ({"a": ["b", "file"]} if swapped == "a/b" else {})
    finally:
        os.close(fd)


def test_every_directory_comes_once_and_before_those_in_it(tmp_path: Path) -> None:
    for path in ("one/deep/deeper", "two"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "two" / "link").symlink_to("/etc")
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        seen = {path: sorted(held) for path, _, held in directories(fd)}
    finally:
        os.close(fd)
    assert seen == {
        "": ["one", "two"], "one": ["deep"], "one/deep": ["deeper"], "one/deep/deeper": [],
        "two": ["link"],
    }  # fmt: skip
    assert list(seen).index("one") < list(seen).index("one/deep")
