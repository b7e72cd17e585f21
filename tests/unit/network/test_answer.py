"""DNS answers on the wire."""

import struct

import pytest

from worker.network.answer import answer, failure, is_query
from worker.network.dns import server_place
from worker.network.plan import Names

NAMES = Names(
    {
        "web": ("10.0.0.1",),
        "all": ("10.0.0.1", "10.0.0.2"),
        "gone": (),
        "both": ("10.0.0.1", "fd00::1", "fd00::2"),
        "six": tuple(f"fd00::{i:x}" for i in range(1, 101)),
    },
    {"10.0.0.1": "web.1.x.app", "fd00::1": "both.app"},
)


def ask(name: str, kind: int = 1, identity: int = 7) -> bytes:
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    return (
        struct.pack(">6H", identity, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, kind, 1)
    )


def test_an_address() -> None:
    query = ask("Web")
    reply = answer(query, NAMES, 0)
    assert reply is not None
    assert reply[:12] == struct.pack(">6H", 7, 0x8580, 1, 1, 0, 0)
    assert reply[12 : len(query)] == query[12:]
    assert reply.endswith(b"\0\4\x0a\0\0\1")


def test_addresses_rotate_with_the_turn() -> None:
    replies = [answer(ask("all"), NAMES, turn) for turn in (0, 1)]
    assert [r and r[-1] for r in replies] == [2, 1]


@pytest.mark.parametrize(("name", "kind"), [("web", 28), ("gone", 1), ("web", 33)])
def test_a_known_name_without_such_data_is_no_error(name: str, kind: int) -> None:
    reply = answer(ask(name, kind), NAMES, 0)
    assert reply is not None
    assert reply[3] & 15 == 0
    assert reply[6:8] == b"\0\0"


def test_each_family_is_answered_by_its_type() -> None:
    counts = {}
    for kind in (1, 28, 255):
        reply = answer(ask("both", kind), NAMES, 0)
        assert reply is not None
        counts[kind] = struct.unpack_from(">H", reply, 6)[0]
    assert counts == {1: 1, 28: 2, 255: 3}
    last = [answer(ask("both", 28), NAMES, turn) for turn in (0, 1)]
    assert [r and r[-16:] for r in last] == [bytes.fromhex(f"fd00{0:024x}{i:04x}") for i in (2, 1)]
    long = answer(ask("six", 28), NAMES, 0)
    assert long is not None
    assert len(long) <= 512
    assert long[2] & 2  # truncated: ask by TCP
    whole = answer(ask("six", 28), NAMES, 0, tcp=True)
    assert whole is not None
    assert struct.unpack_from(">H", whole, 6)[0] == 100


def test_an_ipv6_address_has_a_name() -> None:
    nibbles = ".".join(reversed(f"fd00{0:024x}0001"))
    reply = answer(ask(f"{nibbles}.ip6.arpa", 12), NAMES, 0)
    assert reply is not None
    assert reply.endswith(b"\4both\3app\0")
    for odd in (f"2.{nibbles[2:]}.ip6.arpa", "1.ip6.arpa", "x.y.ip6.arpa"):
        assert answer(ask(odd, 12), NAMES, 0) is None


def test_unknown_names_are_not_ours() -> None:
    assert answer(ask("example.org"), NAMES, 0) is None
    assert answer(ask("9.0.0.10.in-addr.arpa", 12), NAMES, 0) is None
    assert failure(ask("x"))[3] & 15 == 2


def test_a_pointer() -> None:
    reply = answer(ask("1.0.0.10.in-addr.arpa", 12), NAMES, 0)
    assert reply is not None
    assert reply.endswith(b"\3web\x011\1x\3app\0")


def test_too_much_for_a_datagram_is_cut_and_marked() -> None:
    names = Names({"big": tuple(f"10.1.0.{i}" for i in range(200))})
    cut, whole = answer(ask("big"), names, 3), answer(ask("big"), names, 3, tcp=True)
    assert cut is not None
    assert whole is not None
    assert len(cut) <= 512
    assert cut[2] & 2
    assert not whole[2] & 2
    assert struct.unpack_from(">H", whole, 6) == (200,)


@pytest.mark.parametrize(
    "raw",
    [
        ask("web")[:15],
        ask("web")[:12] + b"\xc0\x0c\0\1\0\1",
        ask("web")[:12] + b"\x3fabc",
        ask("web")[:4] + b"\0\2" + ask("web")[6:],
        ask("web")[:-3],
    ],
)
def test_malformed_questions_get_a_format_error(raw: bytes) -> None:
    reply = answer(raw, NAMES, 0)
    assert reply is not None
    assert reply[3] & 15 == 1


def test_replies_are_not_queries() -> None:
    assert is_query(ask("web"))
    assert not is_query(b"\0\1\x80\0" + bytes(8))
    assert not is_query(b"short")


@pytest.mark.parametrize(
    ("server", "place"),
    [
        ("10.0.0.1", ("10.0.0.1", 53)),
        ("10.0.0.1:5353", ("10.0.0.1", 5353)),
        ("fd00::1", ("fd00::1", 53)),
        ("[fd00::1]", ("fd00::1", 53)),
        ("[fd00::1]:5353", ("fd00::1", 5353)),
    ],
)
def test_a_server_is_said_with_or_without_its_port(server: str, place: tuple[str, int]) -> None:
    assert server_place(server) == place
