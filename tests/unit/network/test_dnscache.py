"""How long upstream answers are remembered, and as what they are given again."""

import struct

import pytest

from worker.network.dnscache import LIFETIME_MAX_S, AnswerCache

A, SOA, OPT = 1, 6, 41
WHOM = ("udp", ("1.1.1.1",))
NAME_ERROR, SERVER_FAILURE, TRUNCATED = 3, 2, 0x200


def question(name: str, identity: int = 1) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">6H", identity, 0x0100, 1, 0, 0, 0) + labels + b"\0" + b"\0\1\0\1"


def record(kind: int, ttl_s: int, data: bytes) -> bytes:
    return b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, ttl_s, len(data)) + data


def reply_to(
    query: bytes, *answers: bytes, flags: int = 0, authority: bytes = b"", more: bytes = b""
) -> bytes:
    counts = (1, len(answers), int(bool(authority)), int(bool(more)))
    head = query[:2] + struct.pack(">5H", 0x8180 | flags, *counts)
    return head + query[12:] + b"".join(answers) + authority + more


def kept_for(query: bytes, reply: bytes) -> int:
    """Return for how many seconds a reply is given again."""
    cache = AnswerCache()
    cache.put(WHOM, query, reply, 100.0)
    return next(s for s in range(1000) if cache.get(WHOM, query, 100.0 + s) is None)


def test_a_reply_lives_as_long_as_its_shortest_record_and_says_what_is_left() -> None:
    query, later = question("a.org", 1), question("a.org", 9)
    reply = reply_to(query, record(A, 60, b"\1\1\1\1"), record(A, 30, b"\2\2\2\2"))
    assert kept_for(query, reply) == 30
    cache = AnswerCache()
    cache.put(WHOM, query, reply, 0.0)
    wanted = reply_to(later, record(A, 40, b"\1\1\1\1"), record(A, 10, b"\2\2\2\2"))
    assert cache.get(WHOM, later, 20.4) == wanted


def test_an_extension_is_no_record_with_a_lifetime() -> None:
    query = question("a.org")
    reply = reply_to(query, record(A, 60, b"\1\1\1\1"), more=b"\0" + record(OPT, 0, b"")[2:])
    assert kept_for(query, reply) == 60


def test_what_is_missing_is_missing_as_long_as_the_zone_says() -> None:
    query = question("no.org")
    soa = record(SOA, 600, b"\0\0" + struct.pack(">5I", 1, 2, 3, 4, 45))
    assert kept_for(query, reply_to(query, flags=NAME_ERROR, authority=soa)) == 45
    assert kept_for(query, reply_to(query, authority=soa)) == 45
    assert kept_for(query, reply_to(query, flags=NAME_ERROR)) == 0


@pytest.mark.parametrize(("ttl_s", "seconds"), [(0, 0), (86_400, LIFETIME_MAX_S)])
def test_lifetimes_have_bounds(ttl_s: int, seconds: int) -> None:
    query = question("a.org")
    assert kept_for(query, reply_to(query, record(A, ttl_s, b"\1\1\1\1"))) == seconds


def test_failures_halves_and_other_questions_are_not_kept() -> None:
    query, address = question("a.org"), record(A, 60, b"\1\1\1\1")
    assert kept_for(query, reply_to(query, address, flags=SERVER_FAILURE)) == 0
    assert kept_for(query, reply_to(query, address, flags=TRUNCATED)) == 0
    assert kept_for(query, reply_to(question("b.org"), address)) == 0
    whole = reply_to(query, address)
    for size in range(len(whole)):
        assert kept_for(query, whole[:size]) == 0


def test_servers_and_questions_are_told_apart_and_the_oldest_goes() -> None:
    cache = AnswerCache(entries_max=2)
    queries = [question(name) for name in ("a.org", "b.org", "c.org")]
    for query in queries:
        cache.put(WHOM, query, reply_to(query, record(A, 60, b"\1\1\1\1")), 0.0)
    assert [cache.get(WHOM, query, 1.0) is not None for query in queries] == [False, True, True]
    assert cache.get(("udp", ("2.2.2.2",)), queries[2], 1.0) is None
