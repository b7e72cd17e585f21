"""The audit log on the disk: in order, rotated, read on from where a reader stopped."""

import json
import stat
from pathlib import Path

import pytest

from swarmapi.audit import AuditLog, AuditReader, Entry, Refusals, matches, outcome_of


def entry(number: int, **more: str) -> Entry:
    return Entry(method="POST", path=f"/p/{number}", **more)  # type: ignore[arg-type]


def paths(reader: AuditReader) -> list[str]:
    return [found.path for found in reader.entries()]


def test_what_is_written_is_read_once_in_order(tmp_path: Path) -> None:
    log, reader = (
        AuditLog(tmp_path / "a" / "x.log", "engine"),
        AuditReader(tmp_path / "a" / "x.log"),
    )
    assert paths(reader) == []
    log.write(entry(1))
    log.write(entry(2))
    first, second = reader.entries()
    assert (first.path, second.path, first.source) == ("/p/1", "/p/2", "engine")
    assert first.time_ns <= second.time_ns
    assert first.time.endswith("Z")
    log.write(entry(3))
    assert paths(reader) == ["/p/3"]
    assert paths(reader) == []
    assert paths(AuditReader(tmp_path / "a" / "x.log")) == ["/p/1", "/p/2", "/p/3"]
    assert stat.S_IMODE((tmp_path / "a" / "x.log").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_files_are_rotated_by_size_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    log, follower = AuditLog(path, "engine", most_bytes=2000, kept=2), AuditReader(path, kept=2)
    followed = []
    for number in range(60):
        log.write(entry(number))
        followed += paths(follower)
    assert followed == [f"/p/{number}" for number in range(60)], "a follower misses none"
    files = sorted(one.name for one in tmp_path.iterdir())
    assert files == ["x.log", "x.log.1", "x.log.2"]
    assert all(one.stat().st_size <= 2000 for one in tmp_path.iterdir())
    kept = paths(AuditReader(path, kept=2))
    assert kept == followed[-len(kept) :]
    assert 10 < len(kept) < 60


def test_another_process_goes_on_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    AuditLog(path, "engine").write(entry(1))
    with path.open("ab") as file:
        file.write(b'{"Method":"PO\n')
    AuditLog(path, "engine").write(entry(2))
    with path.open("ab") as file:
        file.write(b'{"Method":"PO')
    reader = AuditReader(path)
    assert paths(reader) == ["/p/1", "/p/2"]
    with path.open("ab") as file:
        file.write(b'ST","Path":"/p/3"}\n')
    assert paths(reader) == ["/p/3"]


def test_a_full_disk_ends_no_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no directory")
    AuditLog(tmp_path / "file" / "x.log", "engine").write(entry(1))
    assert "audit log" in caplog.text


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({}, True),
        ({"role": ["viewer", "deployer"]}, True),
        ({"role": ["viewer"]}, False),
        ({"path": ["/serv"]}, True),
        ({"path": ["/services/x"]}, False),
        ({"object": ["web"]}, True),
        ({"object": ["id1"], "outcome": ["refused"]}, True),
        ({"object": ["id1"], "outcome": ["done"]}, False),
        ({"request": ["r1"], "who": ["alice"], "method": ["POST"]}, True),
    ],
)
def test_filters(filters: dict[str, list[str]], fits: bool) -> None:
    one = Entry(
        method="POST", path="/services/create", object="web", object_id="id1", role="deployer",
        who="alice", outcome="refused", request_id="r1",
    )  # fmt: skip
    assert matches(one, filters) == fits


def test_outcomes() -> None:
    assert [outcome_of(s) for s in (101, 201, 304, 401, 403, 404, 503)] == [
        "done", "done", "done", "refused", "refused", "failed", "failed",
    ]  # fmt: skip


def test_a_line_is_json(tmp_path: Path) -> None:
    AuditLog(tmp_path / "x.log", "manager").write(entry(1, who="al\nice"))
    (line,) = (tmp_path / "x.log").read_text().splitlines()
    assert json.loads(line)["Who"] == "al\nice"


def test_a_callers_refusals_are_limited_and_none_is_lost() -> None:
    refusals = Refusals(most=2, per_s=60)
    written = [
        said
        for number in range(100)
        for said in refusals.take("olaf", entry(number), 1 + number / 10)
    ]
    assert [said.path for said in written] == ["/p/0", "/p/1"]
    assert refusals.take("eve", entry(500), 5) == [entry(500)], "others are not held back by it"
    assert refusals.holds
    assert refusals.end(12) == []
    (last,) = refusals.end(61)
    assert (last.path, last.more) == ("/p/99", 98)
    assert refusals.end() == [], "what is told is held no more"
    assert refusals.take("olaf", entry(7), 62) == [entry(7)]


def test_many_callers_neither_fill_the_memory_nor_hide_what_was_held_back() -> None:
    refusals = Refusals(most=1, per_s=60)
    said = [
        one for turn in range(2) for number in range(1000)
        for one in refusals.take(f"c{number // 2}", entry(number), 1 + turn)
    ]  # fmt: skip
    said += refusals.end()
    assert len(refusals._seen) == 0
    assert len([one for one in said if not one.more]) + sum(one.more for one in said) == 2000
