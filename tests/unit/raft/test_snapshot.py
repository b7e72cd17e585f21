"""A snapshot is read back whole or refused."""

from pathlib import Path

import pytest

from manager.raft.journal import Corrupt
from manager.raft.snapshot import SnapshotHeader, read_snapshot, write_snapshot

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
