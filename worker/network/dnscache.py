"""Upstream answers, remembered for as long as their records say (RFC 1035, 2308). Pure."""

import struct
from collections import OrderedDict
from typing import Final, NamedTuple

TYPE_SOA, TYPE_OPT = 6, 41
LIFETIME_MAX_S: Final = 300
"""Nothing is believed for longer, whatever it says."""
_NOERROR, _NAME_ERROR = 0, 3
Key = tuple[object, ...]
"""Whom was asked and how, and the query without its identity."""


class _Record(NamedTuple):
    kind: int
    ttl_s: int
    ttl_at: int
    """Where the TTL stands in the message."""
    minimum_s: int
    """Of a SOA: how long what is missing is missing."""


class _Kept(NamedTuple):
    reply: bytes
    places: tuple[tuple[int, int], ...]
    """(place, seconds) of each TTL."""
    since_s: float
    until_s: float


class AnswerCache:
    """The newest answers; times are seconds of any one clock."""

    def __init__(self, entries_max: int = 4096) -> None:
        self._entries_max = entries_max
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()

    def get(self, asked: Key, query: bytes, now_s: float) -> bytes | None:
        """Return the reply to a query, its TTLs less what has passed; None when none is known."""
        kept = self._kept.get((*asked, query[2:]))
        if kept is None or now_s >= kept.until_s:
            return None
        reply = bytearray(query[:2] + kept.reply[2:])
        for place, ttl_s in kept.places:
            struct.pack_into(">I", reply, place, max(0, ttl_s - int(now_s - kept.since_s)))
        return bytes(reply)

    def put(self, asked: Key, query: bytes, reply: bytes, now_s: float) -> None:
        """Remember a reply that says for how long, and that is whole and this query's."""
        try:
            records, answers = _records(query, reply)
        except (struct.error, IndexError):
            return
        lifetime_s = _lifetime_s(reply, records, answers)
        if lifetime_s <= 0:
            return
        places = tuple((r.ttl_at, r.ttl_s) for r in records if r.kind != TYPE_OPT)
        key = (*asked, query[2:])
        self._kept[key] = _Kept(reply, places, now_s, now_s + min(lifetime_s, LIFETIME_MAX_S))
        self._kept.move_to_end(key)
        if len(self._kept) > self._entries_max:
            self._kept.popitem(last=False)


def _lifetime_s(reply: bytes, records: list[_Record], answers: int) -> int:
    """Return for how long a reply holds; 0 when it is not to be kept."""
    if reply[2] & 2 or reply[3] & 0xF not in (_NOERROR, _NAME_ERROR):
        return 0
    positive = [r.ttl_s for r in records[:answers]]
    if reply[3] & 0xF == _NAME_ERROR or not positive:
        return next((min(r.ttl_s, r.minimum_s) for r in records if r.kind == TYPE_SOA), 0)
    return min(positive)


def _records(query: bytes, reply: bytes) -> tuple[list[_Record], int]:
    """Return the records and how many of them are the answer; IndexError for another's reply."""
    questions, answers, authorities, additional = struct.unpack_from(">4H", reply, 4)
    at = _after_name(reply, 12) + 4
    if questions != 1 or reply[12:at] != query[12:at]:
        raise IndexError("another question")
    records = []
    for _ in range(answers + authorities + additional):
        at = _after_name(reply, at)
        kind, _, ttl_s, size = struct.unpack_from(">HHIH", reply, at)
        end = at + 10 + size
        if end > len(reply):
            raise IndexError("cut short")
        minimum_s = struct.unpack_from(">I", reply, end - 4)[0] if kind == TYPE_SOA else 0
        records.append(_Record(kind, ttl_s, at + 4, minimum_s))
        at = end
    return records, answers


def _after_name(message: bytes, at: int) -> int:
    while size := message[at]:
        if size >= 0xC0:
            return at + 2
        at += size + 1
    return at + 1
