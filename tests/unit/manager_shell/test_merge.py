"""The merge of logs: by time where the past is read, by arrival where it is live."""

from manager.logbroker.merge import Line, Merge

ALL = 1 << 20


def line(time_ns: int) -> Line:
    return Line(time_ns, 1, b"%d\n" % time_ns)


def times(merge: Merge, most_bytes: int = ALL) -> list[tuple[str, int]]:
    return [(key, found.time_ns) for key, found in merge.take(most_bytes)]


def test_lines_come_in_the_order_of_time_and_wait_for_the_slow() -> None:
    merge = Merge()
    merge.add("a")
    merge.add("b")
    merge.feed("a", [line(1), line(4)])
    assert times(merge) == []
    merge.feed("b", [line(2), line(3)])
    assert times(merge) == [("a", 1), ("b", 2), ("b", 3)]
    assert merge.is_empty("b")
    assert not merge.is_empty("a")
    merge.go_live("b")
    assert times(merge) == [("a", 4)]


def test_a_live_log_is_not_waited_for() -> None:
    merge = Merge()
    for key in "ab":
        merge.add(key)
        merge.go_live(key)
    merge.feed("b", [line(9)])
    assert times(merge) == [("b", 9)]
    merge.feed("a", [line(5)])
    assert times(merge) == [("a", 5)]


def test_lines_of_one_time_keep_their_order_and_a_piece_has_a_size() -> None:
    merge = Merge()
    merge.add("a")
    merge.feed("a", [Line(1, 1, b"x"), Line(1, 2, b"y"), Line(1, 1, b"z")])
    assert [found.data for _, found in merge.take(3)] == [b"x", b"y"]
    assert [found.data for _, found in merge.take(3)] == [b"z"]
