"""A snapshot is read back whole or refused."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from manager.raft.disk import is_full
from manager.raft.journal import Corrupt, Sealed
from manager.raft.snapshot import SnapshotHeader, read_snapshot, write_snapshot
from manager.raft.snapshots import FileSnapshots
from swarmapi.keyring import Keyring

HEADER = SnapshotHeader(42, 7, (("n1", "127.0.0.1:1"), ("n2", "127.0.0.1:2")))
PARTS = [b"first", b"", b"x" * 300]


def written(tmp_path: Path) -> bytes:
    write_snapshot(tmp_path / "snapshot", HEADER, iter(PARTS))
    return (tmp_path / "snapshot").read_bytes()


def test_snapshot_is_read_back_and_replaced(tmp_path: Path) -> None:
    assert read_snapshot(written(tmp_path)) == (HEADER, PARTS)
    write_snapshot(tmp_path / "snapshot", HEADER, [b"newer"])
    assert read_snapshot((tmp_path / "snapshot").read_bytes()) == (HEADER, [b"newer"])
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_every_flipped_byte_and_every_cut_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path)
    for position in range(len(data)):
        image = bytearray(data)
        image[position] ^= 0x10
        for damaged in (bytes(image), data[:position]):
            with pytest.raises(Corrupt):
                read_snapshot(damaged)


def test_a_sealed_snapshot_needs_its_key_and_keeps_its_order(tmp_path: Path) -> None:
    keyring, path = Keyring.fresh(), tmp_path / "snapshot"
    write_snapshot(path, HEADER, PARTS, keyring)
    data = path.read_bytes()
    assert b"first" not in data
    assert b"127.0.0.1" not in data
    assert read_snapshot(data, keyring) == (HEADER, PARTS)
    for wrong in (None, Keyring.fresh()):
        with pytest.raises(Corrupt):
            read_snapshot(data, wrong)


def test_as_many_old_snapshots_are_kept_as_wanted_and_turned_with_the_newest(
    tmp_path: Path,
) -> None:
    path, keyring = tmp_path / "snapshot", Keyring.fresh()
    with ThreadPoolExecutor(1) as worker:
        snapshots = FileSnapshots(path, worker, lambda: None, keyring)
        snapshots.keep_old = 2

        def write(index: int) -> None:
            snapshots.write(SnapshotHeader(index, 1, ()), [b"%d" % index])
            worker.submit(lambda: None).result()
            assert snapshots.written() is not None

        for index in (10, 20, 30, 40):
            write(index)
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "snapshot",
            "snapshot.20",
            "snapshot.30",
        ]
        fresh = Keyring.fresh()
        keyring.add(fresh.keys[0])
        snapshots.reseal()
        for name, held in (("snapshot.20", b"20"), ("snapshot", b"40")):
            assert read_snapshot((tmp_path / name).read_bytes(), fresh)[1] == [held]
        snapshots.keep_old = 0
        write(50)
    assert [p.name for p in tmp_path.iterdir()] == ["snapshot"]


def test_the_file_is_turned_when_loaded_and_sent_in_clear(tmp_path: Path) -> None:
    path, keyring = tmp_path / "snapshot", Keyring.fresh()
    write_snapshot(path, HEADER, PARTS)
    plain = path.read_bytes()
    with ThreadPoolExecutor(1) as worker:
        snapshots = FileSnapshots(path, worker, lambda: None, keyring)
        assert snapshots.load() == (HEADER, PARTS)
        assert b"first" not in path.read_bytes()
        assert snapshots.raw() == (HEADER, plain)
        follower = FileSnapshots(tmp_path / "other", worker, lambda: None, Keyring.fresh())
        assert follower.install(plain) == (HEADER, PARTS)
        assert b"first" not in (tmp_path / "other").read_bytes()
        old = keyring.keys[0]
        keyring.add(Keyring.fresh().keys[0])
        snapshots.reseal()
    with pytest.raises(Sealed, match="a key this node does not have"):
        read_snapshot(path.read_bytes(), Keyring([old]))


def test_without_room_it_is_told_what_was_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = written(tmp_path)
    monkeypatch.setattr("manager.raft.snapshots.write_snapshot", full)
    raft, damaged = tmp_path / "raft", tmp_path / "damaged"
    with ThreadPoolExecutor(1) as worker:
        snapshots = FileSnapshots(raft / "snapshot", worker, lambda: None)
        with pytest.raises(OSError, match=r"No space left on device$"):
            snapshots.install(data)
        damaged.mkdir()
        with pytest.raises(OSError, match=f"set aside in {damaged}") as told:
            snapshots.install(data)
    assert is_full(told.value)
