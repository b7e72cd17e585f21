"""Parts of the engine alone: configuration, journal, logs, ports, durations."""

import asyncio
import json
from pathlib import Path

import pytest

from swarmapi.errors import InvalidArgument
from tests.fakes.full_disk import no_room_above
from worker.api.hijack import frame, parse_detach_keys
from worker.api.render import human_duration
from worker.engine.journal import Journal
from worker.engine.logoptions import parse_size
from worker.engine.logs import LogQuery, read_batches
from worker.engine.signals import signal_number


def test_journal_survives_a_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.open()
    journal.put("a", b"1")
    journal.put("b", b"2")
    journal.delete("a")
    journal.put("c", b"3")
    journal.close()
    whole = path.read_bytes()
    for cut, expected in ((0, {b"2", b"3"}), (1, {b"2"})):
        path.write_bytes(whole[: len(whole) - cut])
        again = Journal(path)
        again.open()
        assert set(again.values()) == expected
        again.put("d", b"4")
        again.close()
        last = Journal(path)
        last.open()
        assert set(last.values()) == expected | {b"4"}
        last.close()


def test_what_a_full_disk_had_no_room_for_is_written_later(tmp_path: Path) -> None:
    async def story() -> None:
        journal = Journal(tmp_path / "j")
        journal.open()
        journal.put("a", b"1" * 100)
        await journal.commit()
        with no_room_above((tmp_path / "j").stat().st_size + 20):
            journal.put("b", b"2" * 100)
            with pytest.raises(OSError, match="File too large"):
                await journal.commit()
            journal.delete("a")
            journal.put("b", b"3" * 100)
            assert _values(tmp_path / "j") == {b"1" * 100}  # a power cut now costs the rest
        journal.put("c", b"4")
        await journal.commit()
        assert set(journal.values()) == _values(tmp_path / "j") == {b"3" * 100, b"4"}
        journal.close()

    asyncio.run(story())


def test_a_torn_tail_is_dropped_without_room_for_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.open()
    journal.put("a", b"1" * 100)
    journal.put("b", b"2" * 100)
    journal.close()
    path.write_bytes(path.read_bytes()[:-1])
    with no_room_above(0):
        again = Journal(path)
        again.open()
        assert set(again.values()) == {b"1" * 100}
        again.close()


def test_a_journal_of_less_than_its_first_word_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"SW")
    journal = Journal(path)
    journal.open()
    journal.put("a", b"1")
    journal.close()
    assert _values(path) == {b"1"}


def _values(path: Path) -> set[bytes]:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    journal = Journal(copy)
    journal.open()
    try:
        return set(journal.values())
    finally:
        journal.close()


def _entry(second: int, stream: str, text: str) -> str:
    stamp = f"2026-01-01T00:00:{second:02d}.5Z"
    return json.dumps({"log": text, "stream": stream, "time": stamp}) + "\n"


def test_logs_by_tail_stream_and_time_across_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    (tmp_path / "c.log.1").write_text(_entry(1, "stdout", "one\n") + _entry(2, "stderr", "two\n"))
    path.write_text(_entry(3, "stdout", "three\n") + '{"log": "torn')

    def read(query: LogQuery) -> list[bytes]:
        async def collect() -> list[bytes]:
            batches = read_batches(path, query, lambda: False)
            return [line.data async for batch in batches for line in batch]

        return asyncio.run(collect())

    assert read(LogQuery()) == [b"one\n", b"two\n", b"three\n"]
    assert read(LogQuery(tail=2, follow=True)) == [b"two\n", b"three\n"]
    assert read(LogQuery(stderr=False)) == [b"one\n", b"three\n"]
    assert read(LogQuery(since_ns=1_767_225_602 * 10**9)) == [b"two\n", b"three\n"]


def test_words_of_the_wire() -> None:
    assert frame(2, b"err\n") == b"\x02\0\0\0\0\0\0\x04err\n"
    assert parse_detach_keys("ctrl-a,d") == b"\x01d"
    with pytest.raises(InvalidArgument, match="Invalid detach keys"):
        parse_detach_keys("ctrl-1")
    assert parse_size("10m") == 10 << 20
    assert signal_number("SIGRTMIN+3") == 37
    assert human_duration(90 * 10**9) == "About a minute"
    assert human_duration(3 * 3600 * 10**9) == "3 hours"
    with pytest.raises(InvalidArgument):
        signal_number("NOPE")
