"""nf_tables over netlink: a batch is one kernel transaction; dumps read a table back."""

import errno
import os
import struct
from collections.abc import Iterable, Mapping

from worker.network import nftexpr as nx
from worker.network.netlink import NLM_ACK, NLM_CREATE, NetlinkSocket, attributes, encode
from worker.network.nftexpr import attribute, be32, nested, text

NETLINK_NETFILTER = 12
_SUBSYSTEM = 10
_NEWTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _DELCHAIN, _NEWRULE, _GETRULE, _DELRULE = (
    0, 2, 3, 4, 5, 6, 7, 8,
)  # fmt: skip
_NEWSET, _GETSET, _NEWSETELEM, _GETSETELEM, _DELSETELEM = 9, 10, 12, 13, 14
_APPEND = 0x800
# A netlink attribute's length is 16 bits; element lists are cut well below.
_ELEMENTS_MAX_BYTES = 60_000


class NftError(OSError):
    """The kernel refused the transaction; nothing of it took effect."""


class NftSocket(NetlinkSocket):
    """Transactions and dumps in the namespace the socket was opened in."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def apply(self, family: int, table: str, operations: Iterable[nx.Operation]) -> int:
        """Run operations as one transaction and return how many there were.

        Raises NftError naming the refused message; the kernel has then changed nothing.
        """
        wanted = list(operations)
        if not wanted:
            return 0
        messages: list[tuple[int, int, bytes]] = []
        for operation in wanted:
            messages += _messages(family, table, operation)
        self._commit(family, messages)
        return len(wanted)

    def _commit(self, family: int, messages: list[tuple[int, int, bytes]]) -> None:
        first = self.next_sequence(len(messages) + 2)
        border = struct.pack("=BBH", 0, 0, 0)[:2] + struct.pack(">H", _SUBSYSTEM)
        head = struct.pack("=BBH", family, 0, 0)
        raw = [encode(0x10, 0, first, border)]
        last = len(messages) - 1
        for i, (kind, flags, body) in enumerate(messages):
            flags |= NLM_ACK if i == last else 0
            raw.append(encode(_SUBSYSTEM << 8 | kind, flags, first + 1 + i, head + body))
        raw.append(encode(0x11, 0, first + len(messages) + 1, border))
        self.send(b"".join(raw))
        acknowledged, failure = False, None
        # The kernel runs the batch inside sendmsg: every reply is already queued.
        while (replies := self.receive(wait=False)) is not None:
            for kind, sequence, body in replies:
                if kind != 2 or sequence < first:
                    continue
                code = -struct.unpack_from("=i", body)[0]
                if code and failure is None:
                    failure = (code, sequence - first - 1)
                acknowledged = acknowledged or not code
        if failure is not None:
            code, index = failure
            detail = f"message {index} of {len(messages)}"
            raise NftError(code, f"nftables transaction: {os.strerror(code)} in {detail}")
        if not acknowledged:
            raise NftError(errno.EIO, "nftables transaction: no acknowledgement")

    def read(self, family: int, name: str) -> nx.TableState | None:
        """Return a table as the kernel holds it, or None; rules by fingerprint only."""
        chains = self._chains(family, name)
        sets = self._sets(family, name)
        if not chains and not sets:
            return None
        rules = self._rules(family, name)
        whole = {
            key: nx.Chain(tuple(rules.get(key, ())), c.kind, c.hook, c.priority, c.device)
            for key, c in chains.items()
        }
        elements = {key: self._elements(family, name, key, fact[2]) for key, fact in sets.items()}
        return nx.TableState(family, name, whole, sets, elements)

    def _dump(self, family: int, kind: int, body: bytes) -> list[dict[int, bytes]]:
        request = struct.pack("=BBH", family, 0, 0) + body
        try:
            found = list(self.dump(_SUBSYSTEM << 8 | kind, request))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            raise
        return [attributes(raw, 4) for raw in found]

    def _chains(self, family: int, table: str) -> dict[str, nx.Chain]:
        found: dict[str, nx.Chain] = {}
        for parts in self._dump(family, _GETCHAIN, b""):
            if _string(parts[1]) != table:
                continue
            hook = attributes(parts.get(4, b""))
            device = _string(hook[3]) if 3 in hook else _first_device(hook)
            found[_string(parts[3])] = nx.Chain(
                (),
                kind=_KINDS[_string(parts[7])] if 7 in parts else "",
                hook=struct.unpack(">I", hook[1])[0] if 1 in hook else None,
                priority=struct.unpack(">i", hook[2])[0] if 2 in hook else 0,
                device=device,
            )
        return found

    def _rules(self, family: int, table: str) -> dict[str, list[nx.Rule]]:
        found: dict[str, list[nx.Rule]] = {}
        for parts in self._dump(family, _GETRULE, text(1, table)):
            if _string(parts[1]) == table:
                found.setdefault(_string(parts[2]), []).append(nx.Rule(parts.get(7, b"")))
        return found

    def _sets(self, family: int, table: str) -> dict[str, tuple[int, int, int]]:
        found = {}
        for parts in self._dump(family, _GETSET, text(1, table)):
            flags, key = _number(parts.get(3)), _number(parts.get(5))
            verdicts = _number(parts.get(6)) == nx.TYPE_VERDICT
            size = 0 if verdicts else _number(parts.get(7))
            found[_string(parts[2])] = (key, size, flags)
        return found

    def _elements(self, family: int, table: str, name: str, _: int) -> dict[bytes, nx.Value]:
        found: dict[bytes, nx.Value] = {}
        for parts in self._dump(family, _GETSETELEM, text(1, table) + text(2, name)):
            for raw in _list(parts.get(3, b"")):
                element = attributes(raw)
                found[attributes(element[1])[1]] = _value(element.get(2))
        return found


_KINDS: Mapping[str, nx.ChainKind] = {
    "nat": "nat",
    "filter": "filter",
    "route": "route",
}


def _string(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()


def _number(raw: bytes | None) -> int:
    return 0 if raw is None else int(struct.unpack(">I", raw)[0])


def _list(raw: bytes) -> list[bytes]:
    items, offset = [], 0
    while offset + 4 <= len(raw):
        size, _ = struct.unpack_from("=HH", raw, offset)
        items.append(raw[offset + 4 : offset + size])
        offset += (size + 3) & ~3
    return items


def _first_device(hook: Mapping[int, bytes]) -> str:
    devices = _list(hook.get(4, b""))
    return _string(devices[0]) if devices else ""


def _value(raw: bytes | None) -> nx.Value:
    if raw is None:
        return None
    parts = attributes(raw)
    if 1 in parts:
        return parts[1]
    return _string(attributes(parts[2])[2])


def _rule_messages(table: str, name: str, chain: nx.Chain) -> list[tuple[int, int, bytes]]:
    return [
        (
            _NEWRULE,
            NLM_CREATE | _APPEND,
            text(1, table)
            + text(2, name)
            + nested(4, rule.expressions)
            + attribute(7, rule.fingerprint),
        )
        for rule in chain.rules
    ]


def _add_chain(table: str, name: str, chain: nx.Chain) -> list[tuple[int, int, bytes]]:
    body = text(1, table) + text(3, name)
    if chain.hook is not None:
        device = [text(3, chain.device)] if chain.device else []
        body += nested(4, be32(1, chain.hook), be32(2, chain.priority), *device)
        body += text(7, chain.kind)
    return [(_NEWCHAIN, NLM_CREATE, body), *_rule_messages(table, name, chain)]


def _add_set(table: str, name: str, shape: nx.SetShape) -> bytes:
    body = text(1, table) + text(2, name) + be32(3, shape.flags)
    body += be32(4, shape.key_type) + be32(5, shape.key_size)
    if shape.verdicts:
        body += be32(6, nx.TYPE_VERDICT) + be32(7, 0)
    elif shape.data_size:
        body += be32(6, shape.data_type) + be32(7, shape.data_size)
    body += be32(10, 1)
    if shape.concat:
        body += nested(9, nested(2, *(nested(1, be32(1, size)) for size in shape.key_sizes)))
    return body


def _element(key: bytes, value: nx.Value) -> bytes:
    body = nx.data(1, key)
    if isinstance(value, str):
        body += nx.verdict(2, nx.VERDICT_GOTO, value)
    elif value is not None:
        body += nx.data(2, value)
    return nested(1, body)


def _element_messages(
    kind: int, table: str, name: str, encoded: Iterable[bytes]
) -> list[tuple[int, int, bytes]]:
    messages: list[tuple[int, int, bytes]] = []
    chunk: list[bytes] = []
    size = 0
    head = text(1, table) + text(2, name)
    flags = NLM_CREATE if kind == _NEWSETELEM else 0
    for item in encoded:
        if size + len(item) > _ELEMENTS_MAX_BYTES:
            messages.append((kind, flags, head + nested(3, *chunk)))
            chunk, size = [], 0
        chunk.append(item)
        size += len(item)
    messages.append((kind, flags, head + nested(3, *chunk)))
    return messages


def _messages(  # one short arm per kind of operation
    family: int, table: str, operation: nx.Operation
) -> list[tuple[int, int, bytes]]:
    match operation:
        case nx.RemoveTable():
            return [(_DELTABLE, 0, text(1, table))]
        case nx.AddTable():
            return [(_NEWTABLE, NLM_CREATE, text(1, table) + be32(2, 0))]
        case nx.AddSet(name, shape):
            return [(_NEWSET, NLM_CREATE, _add_set(table, name, shape))]
        case nx.AddChain(name, chain):
            return _add_chain(table, name, chain)
        case nx.RewriteChain(name, chain):
            flush = (_DELRULE, 0, text(1, table) + text(2, name))
            return [flush, *_rule_messages(table, name, chain)]
        case nx.RemoveChain(name):
            # Its rules first: a chain with rules is busy.
            return [
                (_DELRULE, 0, text(1, table) + text(2, name)),
                (_DELCHAIN, 0, text(1, table) + text(3, name)),
            ]
        case nx.AddElements(name, elements):
            encoded = [_element(k, v) for k, v in elements.items()]
            return _element_messages(_NEWSETELEM, table, name, encoded)
        case nx.RemoveElements(name, keys):
            return _element_messages(_DELSETELEM, table, name, [_element(k, None) for k in keys])
