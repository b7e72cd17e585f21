"""DNS answers from a container's names. Pure: bytes in, bytes out (RFC 1035)."""

import struct
from ipaddress import IPv4Address

from worker.network.plan import Names

TYPE_A, TYPE_PTR, TYPE_ANY = 1, 12, 255
TTL_S = 5
"""Short: addresses of tasks change with every update."""
_UDP_MAX_BYTES = 512
_NOERROR, _FORMAT_ERROR, _SERVER_FAILURE, _NAME_ERROR = 0, 1, 2, 3
_ARPA = ".in-addr.arpa"


def _reply(query: bytes, question: bytes, flags: int, count: int, records: bytes = b"") -> bytes:
    head = query[:2] + struct.pack(
        ">BBHHHH", 0x80 | (query[2] & 0x79) | flags >> 8, 0x80 | flags & 0xFF, int(bool(question)),
        count, 0, 0,
    )  # fmt: skip
    return head + question + records


def parse_question(query: bytes) -> tuple[str, int, bytes] | None:
    """Return (name in lower case, type, the question's bytes), or None if it is malformed."""
    if len(query) < 17 or query[4:6] != b"\0\1":
        return None
    labels, at = [], 12
    while query[at]:
        size = query[at]
        if size > 63 or at + size + 1 >= len(query):
            return None
        labels.append(query[at + 1 : at + 1 + size])
        at += size + 1
    if at + 5 > len(query):
        return None
    name = b".".join(labels).decode("latin-1").lower()
    return name, struct.unpack_from(">H", query, at + 1)[0], query[12 : at + 5]


def failure(query: bytes) -> bytes:
    """Return SERVFAIL for a query."""
    question = parse_question(query)
    return _reply(query, question[2] if question else b"", _SERVER_FAILURE, 0)


def is_query(query: bytes) -> bool:
    """Tell whether the bytes are a query at all; anything else gets no answer."""
    return len(query) >= 12 and not query[2] & 0x80


def answer(query: bytes, names: Names, turn: int, *, tcp: bool = False) -> bytes | None:
    """Return the reply, or None where the query belongs upstream.

    `turn` rotates the order of several addresses.
    """
    question = parse_question(query)
    if question is None:
        return _reply(query, b"", _FORMAT_ERROR, 0)
    name, kind, raw = question
    if kind == TYPE_PTR and name.endswith(_ARPA):
        target = names.reverse.get(".".join(reversed(name.removesuffix(_ARPA).split("."))))
        return None if target is None else _pointer(query, raw, target)
    addresses = names.forward.get(name)
    if addresses is None:
        return None
    if kind not in (TYPE_A, TYPE_ANY):
        return _reply(query, raw, 0x400, 0)
    start = turn % len(addresses) if addresses else 0
    rotated = addresses[start:] + addresses[:start]
    flags = 0x400
    room = (_UDP_MAX_BYTES - 12 - len(raw)) // 16
    if not tcp and len(rotated) > room:
        rotated, flags = rotated[:room], flags | 0x200
    head = b"\xc0\x0c" + struct.pack(">HHIH", TYPE_A, 1, TTL_S, 4)
    records = b"".join(head + IPv4Address(address).packed for address in rotated)
    return _reply(query, raw, flags, len(rotated), records)


def _pointer(query: bytes, question: bytes, target: str) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in target.split(".")) + b"\0"
    record = b"\xc0\x0c" + struct.pack(">HHIH", TYPE_PTR, 1, TTL_S, len(labels)) + labels
    return _reply(query, question, 0x400, 1, record)
