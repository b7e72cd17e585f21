"""What was synced survives; a torn tail is cut; damage before it refuses to start."""

import random
from pathlib import Path

import pytest

from manager.raft.disk import FileDisk
from manager.raft.journal import Corrupt, Entry, Journal, Sealed
from swarmapi.keyring import Keyring, WrongKey

State = tuple[list[Entry], int, str | None]


def reopen(path: Path) -> Journal:
    return Journal(FileDisk(path))


def state(journal: Journal) -> State:
    return list(journal.entries), journal.term, journal.vote


def build(path: Path, rng: random.Random, segment_max_bytes: int) -> list[tuple[int, State]]:
    """Write random syncs; return the size of the last segment and the state after each."""
    journal = Journal(FileDisk(path), segment_max_bytes)
    marks: list[tuple[int, State]] = []
    term = 1
    for _ in range(12):
        if rng.random() < 0.3:
            term += 1
            journal.set_hard_state(term, f"n{rng.randint(1, 3)}")
        if rng.random() < 0.25 and journal.last_index > 6:
            journal.truncate(journal.last_index - rng.randint(0, 3))
        for _ in range(rng.randint(1, 8)):
            journal.add(rng.randbytes(rng.randint(1, 3000)), journal.last_index + 1, term)
        journal.sync()
        marks.append((max(path.iterdir()).stat().st_size, state(journal)))
    return marks


@pytest.mark.parametrize("segment_max_bytes", [1, 9000, 1 << 30])
def test_what_was_synced_is_read_back(tmp_path: Path, segment_max_bytes: int) -> None:
    marks = build(tmp_path, random.Random(7), segment_max_bytes)
    journal = reopen(tmp_path)
    assert state(journal) == marks[-1][1]
    journal.add(b"more", journal.last_index + 1, 99)
    journal.sync()
    assert reopen(tmp_path).entries[-1][0] == b"more"


@pytest.mark.parametrize("seed", range(4))
def test_any_cut_recovers_the_last_whole_sync(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    marks = build(tmp_path, rng, 1 << 30)
    file = next(tmp_path.iterdir())
    data = file.read_bytes()
    for _ in range(60):
        cut = rng.randint(0, len(data))
        file.write_bytes(data[:cut] + bytes(rng.choice([0, rng.randint(1, 5000)])))
        whole = [recovered for size, recovered in marks if size <= cut]
        assert state(reopen(tmp_path)) == (whole[-1] if whole else ([], 0, None))


@pytest.mark.parametrize("seed", range(4))
def test_lost_pages_of_the_unsynced_frame_lose_only_it(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    marks = build(tmp_path, rng, 1 << 30)
    file = next(tmp_path.iterdir())
    data, durable = file.read_bytes(), marks[-2][0]
    for _ in range(60):
        image = bytearray(data)
        for page in range(durable // 4096 * 4096, len(data), 4096):
            if rng.random() < 0.5:
                start, end = max(page, durable), min(page + 4096, len(data))
                image[start:end] = bytes(end - start)
        file.write_bytes(image)
        expected = marks[-1][1] if image == data else marks[-2][1]
        assert state(reopen(tmp_path)) == expected


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_in_durable_data_refuses_to_start(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    marks = build(tmp_path, rng, 1 << 30)
    file = next(tmp_path.iterdir())
    data = file.read_bytes()
    for _ in range(60):
        image = bytearray(data)
        image[rng.randrange(marks[-2][0])] ^= 1 << rng.randrange(8)
        file.write_bytes(image)
        with pytest.raises(Corrupt):
            reopen(tmp_path)


def test_missing_segment_refuses_to_start(tmp_path: Path) -> None:
    build(tmp_path, random.Random(1), 1)
    sorted(tmp_path.iterdir())[3].unlink()
    with pytest.raises(Corrupt, match="does not follow"):
        reopen(tmp_path)


def test_compaction_drops_segments_and_keeps_term_and_vote(tmp_path: Path) -> None:
    journal = Journal(FileDisk(tmp_path), 200)
    journal.set_hard_state(5, "n2")
    for index in range(1, 101):
        journal.add(bytes(100), index, 5)
        journal.sync()
    before = len(list(tmp_path.iterdir()))
    journal.compact(90)
    assert len(list(tmp_path.iterdir())) < before / 4
    again = reopen(tmp_path)
    assert (again.term, again.vote, again.last_index) == (5, "n2", 100)
    assert again.entries[0][1] <= 90


def test_reset_leaves_one_anchor(tmp_path: Path) -> None:
    build(tmp_path, random.Random(3), 4000)
    journal = reopen(tmp_path)
    journal.reset(b"\x01", 500, 9)
    again = reopen(tmp_path)
    assert again.entries == [(b"\x01", 500, 9)]
    assert len(list(tmp_path.iterdir())) == 1


def test_unsynced_entries_do_not_count(tmp_path: Path) -> None:
    journal = reopen(tmp_path)
    journal.add(b"a", 1, 1)
    assert (journal.dirty, journal.synced_index) == (True, 0)
    write = journal.take()
    journal.add(b"b", 2, 1)
    journal.write(write)
    journal.synced(write)
    assert (journal.dirty, journal.synced_index) == (True, 1)


def test_entries_replaced_while_their_frame_was_in_flight_are_not_synced(tmp_path: Path) -> None:
    journal = reopen(tmp_path)
    journal.add(b"old", 1, 1)
    write = journal.take()
    journal.truncate(1)
    journal.add(b"new", 1, 2)
    journal.write(write)
    journal.synced(write)
    assert journal.synced_index == 0
    journal.sync()
    assert (journal.synced_index, reopen(tmp_path).entries) == (1, [(b"new", 1, 2)])


def test_what_a_killed_process_left_is_made_durable_before_it_counts(tmp_path: Path) -> None:
    """Its last frame may be in the page cache alone: written, never synced."""
    journal = Journal(FileDisk(tmp_path))
    journal.add(b"a", 1, 1)
    write = journal.take()
    FileDisk(tmp_path).append(write.segment, write.data)
    disk = FileDisk(tmp_path)
    synced: list[str] = []
    setattr(disk, "sync", synced.append)  # noqa: B010 - mypy knows it as a method
    assert Journal(disk).synced_index == 1
    assert synced == [write.segment]


def sealed(path: Path, keyring: Keyring) -> Journal:
    return Journal(FileDisk(path), 200, keyring)


def test_nothing_of_a_sealed_journal_can_be_read_without_its_key(tmp_path: Path) -> None:
    keyring = Keyring.fresh()
    journal = sealed(tmp_path, keyring)
    for index in range(1, 9):
        journal.add(b"a secret of the cluster", index, 1)
        journal.sync()
    before = state(journal)
    assert state(sealed(tmp_path, keyring)) == before
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())
    with pytest.raises(Sealed, match=r"a key this node does not have; restore its raft\.keys"):
        sealed(tmp_path, Keyring.fresh())
    with pytest.raises(Sealed, match="no keys are given"):
        reopen(tmp_path)


@pytest.mark.parametrize("old_key", [None, Keyring.fresh().keys[0]])
def test_a_clear_journal_and_an_old_key_are_turned(tmp_path: Path, old_key: bytes | None) -> None:
    old = Keyring([old_key]) if old_key else None
    journal = Journal(FileDisk(tmp_path), 200, old)
    journal.set_hard_state(4, "n2")
    for index in range(1, 9):
        journal.add(b"a secret of the cluster", index, 3)
        journal.sync()
    before = state(journal)
    new = Keyring.fresh()
    turning = Keyring([new.keys[0], *(old.keys if old else ())])
    assert state(sealed(tmp_path, turning)) == before
    again = sealed(tmp_path, new)
    assert state(again) == before
    again.add(b"more", 9, 4)
    again.sync()
    assert sealed(tmp_path, new).last_index == 9
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())


def test_power_may_fail_at_any_byte_of_turning_a_journal(tmp_path: Path) -> None:
    journal = Journal(FileDisk(tmp_path / "clear"), 1 << 20)
    for index in range(1, 6):
        journal.add(b"entry", index, 1)
    journal.sync()
    before = state(journal)
    keyring = Keyring.fresh()
    (clear,) = (tmp_path / "clear").iterdir()
    kept = clear.read_bytes()
    sealed(tmp_path / "clear", keyring)
    (turned,) = (tmp_path / "clear").iterdir()
    whole = turned.read_bytes()
    for size in range(len(whole) + 1):
        path = tmp_path / f"cut{size}"
        path.mkdir()
        (path / clear.name).write_bytes(kept)
        (path / turned.name).write_bytes(whole[:size])
        assert state(sealed(path, keyring)) == before


def test_a_frame_cannot_be_moved_to_another_place(tmp_path: Path) -> None:
    keyring = Keyring.fresh()
    frame = keyring.seal(b"records", b"place 1")
    assert keyring.open(frame, b"place 1") == (b"records", True)
    with pytest.raises(WrongKey):
        keyring.open(frame, b"place 2")
