"""The wire form survives a newer sender."""

import msgspec
import pytest

from manager.raft.messages import Ack, Append, Message, PreVote, TermHint, decode, encode


def test_messages_survive_the_wire() -> None:
    sent: list[Message] = [
        TermHint(3),
        PreVote(4, 10, 3, 1),
        Append(4, 7, 9, 8, 3, [(b"\x00a", 9, 4), (b"\x01", 10, 4)]),
        Ack(4, 7, 11, False, True),
    ]
    assert decode(encode(sent)) == sent


def test_an_unknown_kind_is_dropped_and_an_unknown_field_ignored() -> None:
    frame = msgspec.msgpack.encode(
        [
            {"type": "from_the_future", "term": 9},
            {"type": "term_hint", "term": 3, "because": "new"},
            {"type": "ack", "term": "not a number"},
        ]
    )
    assert decode(frame) == [TermHint(3)]


def test_anything_else_is_an_error() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(b"\xc1garbage")
