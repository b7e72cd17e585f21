"""DNS answers from a container's names. Pure: bytes in, bytes out (RFC 1035)."""

import struct
from ipaddress import IPv6Address, ip_address

from worker.network.plan import Names

TYPE_A, TYPE_PTR, TYPE_AAAA, TYPE_ANY = 1, 12, 28, 255
TTL_S = 5
"""Short: addresses of tasks change with every update."""
_UDP_MAX_BYTES = 512
_NOERROR, _FORMAT_ERROR, _SERVER_FAILURE, _NAME_ERROR = 0, 1, 2, 3
_ARPA, _ARPA6 = ".in-addr.arpa", ".ip6.arpa"


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
    if kind == TYPE_PTR and name.endswith((_ARPA, _ARPA6)):
        target = names.reverse.get(_address_of(name))
        return None if target is None else _pointer(query, raw, target)
    addresses = names.forward.get(name)
    if addresses is None:
        return None
    records = [record for a in addresses if (record := _record(a, kind))]
    start = turn % len(records) if records else 0
    rotated, flags = records[start:] + records[:start], 0x400
    size, room = sum(map(len, rotated)), _UDP_MAX_BYTES - 12 - len(raw)
    while not tcp and size > room:
        size -= len(rotated.pop())
        flags |= 0x200
    return _reply(query, raw, flags, len(rotated), b"".join(rotated))


def _record(address: str, kind: int) -> bytes:
    """Return an address as a record; empty where that is not of the type asked for."""
    own = TYPE_AAAA if ":" in address else TYPE_A
    if kind not in (own, TYPE_ANY):
        return b""
    packed = ip_address(address).packed
    return b"\xc0\x0c" + struct.pack(">HHIH", own, 1, TTL_S, len(packed)) + packed


def _address_of(name: str) -> str:
    """Return the address a name under .arpa stands for; anything else comes back as no address."""
    if name.endswith(_ARPA):
        return ".".join(reversed(name.removesuffix(_ARPA).split(".")))
    digits = "".join(reversed(name.removesuffix(_ARPA6).split(".")))
    try:
        return str(IPv6Address(bytes.fromhex(digits)))
    except ValueError:
        return ""


def _pointer(query: bytes, question: bytes, target: str) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in target.split(".")) + b"\0"
    record = b"\xc0\x0c" + struct.pack(">HHIH", TYPE_PTR, 1, TTL_S, len(labels)) + labels
    return _reply(query, question, 0x400, 1, record)
