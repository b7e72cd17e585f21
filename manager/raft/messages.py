"""What members say to each other, and its form on the wire: msgpack maps, decoded into types.

Field names are the protocol: a new field needs a default, an unknown one is ignored, an unknown
message is dropped by the receiver.
"""

import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from manager.raft.journal import Entry

FORMAT: Final = 1
_log = logging.getLogger(__name__)


class TermHint(msgspec.Struct, frozen=True, tag="term_hint", tag_field="type"):
    """Answer to a message of an old term: there is a newer one."""

    term: int


class PreVote(msgspec.Struct, frozen=True, tag="pre_vote", tag_field="type"):
    """Question before a candidacy: would you vote for me in `term`? Nothing changes by it."""

    term: int
    last_index: int
    last_term: int
    round: int


class PreVoteAnswer(msgspec.Struct, frozen=True, tag="pre_vote_answer", tag_field="type"):
    """Answer to PreVote `round` about `asked_term`; `term` is the sender's own."""

    term: int
    granted: bool
    round: int
    asked_term: int


class RequestVote(msgspec.Struct, frozen=True, tag="request_vote", tag_field="type"):
    """Candidacy; `transfer` when the present leader asked for it, so its lease does not count."""

    term: int
    last_index: int
    last_term: int
    transfer: bool = False


class Vote(msgspec.Struct, frozen=True, tag="vote", tag_field="type"):
    """A vote granted in `term`."""

    term: int


class TimeoutNow(msgspec.Struct, frozen=True, tag="timeout_now", tag_field="type"):
    """The leader of `term` asks the receiver to take over."""

    term: int


class Append(msgspec.Struct, frozen=True, tag="append", tag_field="type"):
    """Entries after (`prev_index`, `prev_term`), or a heartbeat; acked by `sequence`."""

    term: int
    sequence: int
    commit_index: int
    prev_index: int
    prev_term: int
    entries: list[Entry]


class Ack(msgspec.Struct, frozen=True, tag="ack", tag_field="type"):
    """Answer to Append `sequence` in `term`.

    `success`: everything before `next_index` matches, durably. Otherwise with `reset`: go on
    from `next_index`.
    """

    term: int
    sequence: int
    next_index: int
    reset: bool
    success: bool


class SnapshotChunk(msgspec.Struct, frozen=True, tag="snapshot", tag_field="type"):
    """Bytes from `offset` of the snapshot file of `index`, `total_bytes` long."""

    term: int
    sequence: int
    index: int
    offset: int
    total_bytes: int
    data: bytes


class SnapshotAck(msgspec.Struct, frozen=True, tag="snapshot_ack", tag_field="type"):
    """Bytes received so far of the snapshot of `index`; -1 asks for a new start."""

    term: int
    index: int
    received_bytes: int


Message = (
    TermHint
    | PreVote
    | PreVoteAnswer
    | RequestVote
    | Vote
    | TimeoutNow
    | Append
    | Ack
    | SnapshotChunk
    | SnapshotAck
)
MAY_OVERTAKE_SYNC: Final = (Append, SnapshotChunk, TimeoutNow)
"""What a leader may send before its own disk is synced; anything else is a promise."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Message])
_one = msgspec.msgpack.Decoder(Message)
_raw = msgspec.msgpack.Decoder(list[msgspec.Raw])


def encode(messages: Sequence[Message]) -> bytes:
    """Return the wire form of one cycle's messages to a peer."""
    return _encoder.encode(messages)


def decode(data: bytes) -> list[Message]:
    """Return the messages of a frame, without those of an unknown kind.

    Raises msgspec.DecodeError when `data` is no list of messages at all.
    """
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError:
        found: list[Message] = []
        for raw in _raw.decode(data):
            try:
                found.append(_one.decode(raw))
            except msgspec.ValidationError as error:
                _log.warning("raft message of an unknown kind dropped: %s", error)
        return found
