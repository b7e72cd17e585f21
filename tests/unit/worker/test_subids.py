"""Which ids containers get: what the files of accounts and of subordinate ids say."""

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import StartFailed
from runtime.supervisor.ids import IdMap
from swarmapi.errors import InvalidArgument
from worker.engine.subids import AccountFiles, find, read_files

FILES = AccountFiles(
    passwd="root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbo:x:1001:1002::/:\n",
    group="root:x:0:\nann:x:1000:\nteam:x:1002:bo\n",
    subuid="ann:300000:65536\n1001:500000:10\nbo:600000:5\nann:broken\n",
    subgid="ann:400000:65536\nteam:700000:20\n",
)


@pytest.mark.parametrize(
    ("wanted", "uids", "gids"),
    [
        ("ann", ((0, 300000, 65536),), ((0, 400000, 65536),)),
        ("1000", ((0, 300000, 65536),), ((0, 400000, 65536),)),
        ("ann:team", ((0, 300000, 65536),), ((0, 700000, 20),)),
        # entries by number and by name count together, one behind the other inside
        ("bo:team", ((0, 500000, 10), (10, 600000, 5)), ((0, 700000, 20),)),
        ("1001:1002", ((0, 500000, 10), (10, 600000, 5)), ((0, 700000, 20),)),
    ],
)
def test_an_accounts_subordinate_ids(wanted: str, uids: object, gids: object) -> None:
    found = find(wanted, FILES)
    assert (found.uids, found.gids) == (uids, gids)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("carl", "there is no user 'carl' on this host"),
        ("ann:crew", "there is no group 'crew' on this host"),
        ("bo", "there is no group 'bo' on this host"),
        ("root", "root has no ids in /etc/subuid: add a line root:FIRST:65536"),
        ("ann:root", "root has no ids in /etc/subgid"),
        ("ann:", "is no user or user:group"),
        (":ann", "is no user or user:group"),
    ],
)
def test_what_has_no_ids_is_refused_with_the_way_out(wanted: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        find(wanted, FILES)


def test_default_is_dockremaps_or_a_fixed_range_that_is_nobodys() -> None:
    whole = ((0, 100000, 65536),)
    assert find("default", AccountFiles()) == IdMap(whole, whole)
    assert find("default", FILES) == IdMap(whole, whole)
    own = replace(
        FILES,
        subuid="dockremap:1:2\n",
        subgid="dockremap:3:4\nann:100000:65536\n",
    )
    assert find("default", own) == IdMap(((0, 1, 2),), ((0, 3, 4),))
    with pytest.raises(InvalidArgument, match="no ids in /etc/subgid"):
        find("default", replace(own, subgid=""))
    for taken in ("ann:165535:1", "ann:90000:10001", "ann:100000:65536", "ann:1:4000000"):
        with pytest.raises(InvalidArgument, match="somebody's in /etc/subuid"):
            find("default", replace(FILES, subuid=taken))
    for free in ("ann:165536:65536", "ann:34464:65536"):
        assert find("default", replace(FILES, subuid=free)).uids == whole


def test_files_that_are_not_there_are_empty(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("ann:1:2\n")
    assert read_files(tmp_path) == AccountFiles(subuid="ann:1:2\n")


def test_a_map_reads_what_it_writes() -> None:
    ids = IdMap(((0, 10, 5), (5, 100, 2)), ((0, 7, 1),))
    assert IdMap.from_oci(ids.to_oci()) == ids
    assert IdMap.read("0 10 5\n 5  100 2\n", "0 7 1\n") == ids
    assert ids.outside(6, 0) == (101, 7)


def test_a_files_capabilities_name_the_containers_root() -> None:
    ids = IdMap(((0, 1000, 5), (5, 70, 2)), ((0, 7, 1),))
    body = bytes(range(4, 20))
    effective_2, effective_3 = bytes.fromhex("01000002"), bytes.fromhex("01000003")
    named = ids.attribute_outside("security.capability", effective_2 + body)
    assert named == effective_3 + body + (1000).to_bytes(4, "little")
    another = effective_3 + body + (5).to_bytes(4, "little")
    assert ids.attribute_outside("security.capability", another)[20:] == (70).to_bytes(4, "little")
    nobodys = effective_3 + body + (9).to_bytes(4, "little")
    with pytest.raises(StartFailed, match="user 9 is not among"):
        ids.attribute_outside("security.capability", nobodys)
    for name, value in (
        ("user.note", effective_2 + body),
        ("security.capability", b"\1\0\0\1" + body),
        ("security.capability", b"short"),
    ):
        assert ids.attribute_outside(name, value) == value
