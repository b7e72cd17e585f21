"""What a manager keeps of a log that it cannot trust, and what a crash on the way leaves."""

import os
import time
from pathlib import Path

import pytest

from manager.returning import REST_S, Aside


@pytest.fixture
def raft(tmp_path: Path) -> Path:
    """Make the directory of a log."""
    path = tmp_path / "raft"
    path.mkdir()
    (path / "snapshot").write_bytes(b"old")
    return path


def test_a_log_is_set_aside_and_the_mark_stays_until_it_is_forgotten(raft: Path) -> None:
    aside = Aside(raft.parent, raft)
    assert not aside.is_marked
    aside.finish()
    assert (raft / "snapshot").exists()
    aside.set_aside()
    assert list(raft.iterdir()) == []
    assert (raft.parent / "damaged" / "snapshot").read_bytes() == b"old"
    (raft / "snapshot").write_bytes(b"new")
    again = Aside(raft.parent, raft)
    assert again.is_marked
    again.finish()
    assert (raft / "snapshot").read_bytes() == b"new", "what came since is no damage"
    again.set_aside()  # damaged once more, before it was whole
    assert list(raft.iterdir()) == []
    assert (raft.parent / "damaged" / "snapshot").read_bytes() == b"old"
    again.forget()
    assert not again.is_marked


def test_a_crash_before_the_log_was_moved_is_made_good(
    raft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(self: Path, target: Path) -> None:
        if self == raft:
            raise KeyboardInterrupt
        os.rename(self, target)

    aside = Aside(raft.parent, raft)
    with monkeypatch.context() as cut:
        cut.setattr(Path, "rename", power_cut)
        with pytest.raises(KeyboardInterrupt):
            aside.set_aside()
    again = Aside(raft.parent, raft)
    assert again.is_marked, "it is mute already"
    again.finish()
    assert list(raft.iterdir()) == []


def test_a_state_that_differs_is_thrown_away_once_an_hour(raft: Path) -> None:
    aside = Aside(raft.parent, raft)
    assert aside.want()
    assert (raft / "snapshot").exists(), "the running member still has it"
    Aside(raft.parent, raft).finish()
    assert not (raft / "snapshot").exists()
    aside.forget()
    assert not aside.want()
    assert not aside.is_marked
    long_ago = time.time() - REST_S - 1
    os.utime(raft.parent / "damaged", (long_ago, long_ago))
    assert aside.want()
