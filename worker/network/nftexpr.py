"""nf_tables as plain data: table states, expressions as bytes, and the difference of two states.

Numbers are those of include/uapi/linux/netfilter/nf_tables.h. Nothing here touches the kernel.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

FAMILY_IPV4 = 2
FAMILY_NETDEV = 5
FAMILY_IPV6 = 10

HOOK_PREROUTING, HOOK_INPUT, HOOK_FORWARD, HOOK_OUTPUT, HOOK_POSTROUTING = range(5)
HOOK_NETDEV_EGRESS = 1

REG_VERDICT = 0
REG_1 = 1
REG32_00, REG32_01, REG32_02, REG32_03 = 8, 9, 10, 11

VERDICT_DROP, VERDICT_ACCEPT = 0, 1
VERDICT_GOTO = -4

SET_FLAG_MAP = 0x8
SET_FLAG_CONCAT = 0x80
TYPE_VERDICT = 0xFFFFFF00
TYPE_IPV4, TYPE_IPV6, TYPE_ETHER, TYPE_PROTO, TYPE_SERVICE, TYPE_MARK = 7, 8, 9, 12, 13, 19

META_L4PROTO, META_MARK, META_IIFNAME, META_OIFNAME = 16, 3, 6, 7
CT_STATE, CT_DIRECTION, CT_STATUS, CT_MARK = 0, 1, 2, 3
CT_PORT_DESTINATION, CT_DESTINATION_IPV4, CT_DESTINATION_IPV6 = 12, 20, 22
CT_STATE_ESTABLISHED_RELATED = 2 | 4
CT_STATE_NEW = 8
CT_STATUS_DNAT = 0x20
FIB_RESULT_ADDRTYPE = 3
FIB_SADDR, FIB_DADDR = 1, 2
RTN_LOCAL = 2

_HEADER = struct.Struct("=HH")
ChainKind = Literal["", "nat", "filter", "route"]
Value = bytes | str | None
"""What a set element holds: bytes of data, the name of a chain to go to, or nothing."""


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one netlink attribute, padded to four bytes."""
    size = 4 + len(payload)
    return _HEADER.pack(size, kind) + payload + b"\0" * (-size & 3)


def nested(kind: int, *parts: bytes) -> bytes:
    """Return a nested netlink attribute."""
    return attribute(kind | 0x8000, b"".join(parts))


def be32(kind: int, value: int) -> bytes:
    """Return a 32-bit attribute in network order, as nf_tables wants its numbers."""
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def text(kind: int, value: str) -> bytes:
    """Return a NUL-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def expression(name: str, *attributes: bytes) -> bytes:
    """Return one list element holding a named expression."""
    return nested(1, text(1, name), nested(2, *attributes))


def data(kind: int, value: bytes) -> bytes:
    """Return an NFTA_DATA_VALUE."""
    return nested(kind, attribute(1, value))


def verdict(kind: int, code: int, chain: str = "") -> bytes:
    """Return an NFTA_DATA_VERDICT; `chain` goes with a jump or goto."""
    return nested(kind, nested(2, be32(1, code), *([text(2, chain)] if chain else [])))


def load_payload(register: int, header: int, offset: int, size: int) -> bytes:
    """Load packet bytes; `header` is 0 link layer, 1 network, 2 transport."""
    return expression("payload", be32(1, register), be32(2, header), be32(3, offset), be32(4, size))


def store_payload(register: int, header: int, offset: int, size: int) -> bytes:
    """Write packet bytes from a register, leaving checksums alone."""
    return expression(
        "payload",
        be32(5, register),
        be32(2, header),
        be32(3, offset),
        be32(4, size),
        be32(6, 0),
        be32(7, 0),
        be32(8, 0),
    )


def load_port(register: int) -> bytes:
    """Load the transport destination port."""
    return load_payload(register, 2, 2, 2)


def load_meta(register: int, key: int) -> bytes:
    """Load a meta key."""
    return expression("meta", be32(2, key), be32(1, register))


def store_meta(register: int, key: int) -> bytes:
    """Set a meta key from a register."""
    return expression("meta", be32(2, key), be32(3, register))


def load_ct(register: int, key: int) -> bytes:
    """Load a conntrack key."""
    return expression("ct", be32(2, key), be32(1, register))


def load_original(register: int, key: int) -> bytes:
    """Load a conntrack key of the direction a flow began in."""
    return expression("ct", be32(2, key), be32(1, register), attribute(3, b"\0"))


def store_ct(register: int, key: int) -> bytes:
    """Set a conntrack key from a register."""
    return expression("ct", be32(2, key), be32(4, register))


def load_address_type(register: int, source_or_destination: int) -> bytes:
    """Load the routing type (RTN_LOCAL …) of the source or destination address."""
    return expression(
        "fib", be32(1, register), be32(2, FIB_RESULT_ADDRTYPE), be32(3, source_or_destination)
    )


def equal(register: int, value: bytes) -> bytes:
    """Go on only if the register equals `value`."""
    return expression("cmp", be32(1, register), be32(2, 0), data(3, value))


def differs(register: int, value: bytes) -> bytes:
    """Go on only if the register differs from `value`."""
    return expression("cmp", be32(1, register), be32(2, 1), data(3, value))


def masked(register: int, mask: bytes) -> bytes:
    """Apply a bit mask to the register."""
    return expression(
        "bitwise",
        be32(1, register),
        be32(2, register),
        be32(3, len(mask)),
        data(4, mask),
        data(5, b"\0" * len(mask)),
    )


def lookup(
    set_name: str, source: int, destination: int | None = None, *, inverted: bool = False
) -> bytes:
    """Match a set, or with `destination` read a map (REG_VERDICT for a verdict map)."""
    target = [] if destination is None else [be32(3, destination)]
    if inverted:
        target.append(be32(5, 1))
    return expression("lookup", text(1, set_name), be32(2, source), *target)


def random_slot(register: int, slots: int) -> bytes:
    """Load a uniformly random slot number below `slots`."""
    return expression("numgen", be32(1, register), be32(2, slots), be32(3, 1), be32(4, 0))


def hashed(register: int, source: int, size: int, slots: int) -> bytes:
    """Load jhash, with a seed of zero, of `size` bytes at `source`, below `slots`."""
    seeded = (be32(1, source), be32(2, register), be32(3, size), be32(4, slots), be32(5, 0))
    return expression("hash", *seeded)


def immediate(register: int, value: bytes) -> bytes:
    """Load a constant."""
    return expression("immediate", be32(1, register), data(2, value))


def decide(code: int) -> bytes:
    """End the rule with a verdict."""
    return expression("immediate", be32(1, REG_VERDICT), verdict(2, code))


def dnat(family: int, address: int, port: int | None = None) -> bytes:
    """Rewrite the destination from registers."""
    parts = [be32(1, 1), be32(2, family), be32(3, address)]
    return expression("nat", *parts, *([] if port is None else [be32(5, port)]))


def snat(family: int, address: int, port_low: int, port_high: int) -> bytes:
    """Rewrite the source from registers, the port within an inclusive range."""
    return expression(
        "nat",
        be32(1, 0),
        be32(2, family),
        be32(3, address),
        be32(5, port_low),
        be32(6, port_high),
        be32(7, 2),  # NF_NAT_RANGE_PROTO_SPECIFIED
    )


def masquerade() -> bytes:
    """Rewrite the source to the leaving interface's address."""
    return expression("masq")


def untracked() -> bytes:
    """Keep the packet out of connection tracking; only ahead of that, at priorities below -200."""
    return expression("notrack")


def reject_with_reset() -> bytes:
    """Answer a TCP segment with RST."""
    return expression("reject", be32(1, 1))


def reject_unreachable(code: bytes) -> bytes:
    """Answer with ICMP unreachable; `code` is a port's."""
    return expression("reject", be32(1, 0), attribute(2, code))


def interface_name(name: str) -> bytes:
    """Return an interface name as registers hold it: 16 bytes, NUL padded."""
    return name.encode().ljust(16, b"\0")


@dataclass(frozen=True)
class Rule:
    """A rule. Read back from the kernel only `fingerprint` is known, and it alone counts."""

    fingerprint: bytes
    expressions: bytes = field(default=b"", compare=False)


def rule(*expressions: bytes) -> Rule:
    """Return a rule whose fingerprint is derived from its expressions."""
    body = b"".join(expressions)
    return Rule(hashlib.sha256(body).digest()[:12], body)


@dataclass(frozen=True)
class Chain:
    """A chain; `hook` None for one that is only gone to. Rules run in order."""

    rules: tuple[Rule, ...]
    kind: ChainKind = ""
    hook: int | None = None
    priority: int = 0
    device: str = ""


@dataclass(frozen=True)
class SetShape:
    """Key and data layout of a set or map; lengths in bytes, fields padded to four."""

    key_sizes: tuple[int, ...]
    data_size: int = 0
    verdicts: bool = False
    key_type: int = TYPE_IPV4
    data_type: int = TYPE_IPV4

    @property
    def key_size(self) -> int:
        """Length of the whole key."""
        return (
            sum(-(-size // 4) * 4 for size in self.key_sizes) if self.concat else self.key_sizes[0]
        )

    @property
    def concat(self) -> bool:
        """Whether the key has more than one field."""
        return len(self.key_sizes) > 1

    @property
    def flags(self) -> int:
        """NFT_SET_* flags."""
        is_map = self.verdicts or self.data_size
        return (SET_FLAG_MAP if is_map else 0) | (SET_FLAG_CONCAT if self.concat else 0)


@dataclass(frozen=True)
class TableState:
    """All of one table: chains, sets and the sets' elements."""

    family: int
    name: str
    chains: Mapping[str, Chain]
    sets: Mapping[str, tuple[int, int, int]]
    """Set name to (key size, data size, flags): what the kernel tells back."""
    elements: Mapping[str, Mapping[bytes, Value]]
    shapes: Mapping[str, SetShape] = field(default_factory=dict, compare=False)


def table(
    family: int,
    name: str,
    chains: Mapping[str, Chain],
    shapes: Mapping[str, SetShape],
    elements: Mapping[str, Mapping[bytes, Value]],
) -> TableState:
    """Return a table state; every set has an entry in `elements`, perhaps empty."""
    facts = {key: (s.key_size, s.data_size, s.flags) for key, s in shapes.items()}
    full = {key: dict(elements.get(key, {})) for key in shapes}
    return TableState(family, name, dict(chains), facts, full, dict(shapes))


@dataclass(frozen=True)
class RemoveTable:
    """Delete a table and all it holds."""


@dataclass(frozen=True)
class AddTable:
    """Create the table."""


@dataclass(frozen=True)
class AddSet:
    """Create a set or map."""

    name: str
    shape: SetShape


@dataclass(frozen=True)
class AddChain:
    """Create a chain with its rules."""

    name: str
    chain: Chain


@dataclass(frozen=True)
class RewriteChain:
    """Replace a chain's rules."""

    name: str
    chain: Chain


@dataclass(frozen=True)
class RemoveChain:
    """Delete a chain nothing goes to any more."""

    name: str


@dataclass(frozen=True)
class AddElements:
    """Add elements to a set."""

    set_name: str
    elements: Mapping[bytes, Value]


@dataclass(frozen=True)
class RemoveElements:
    """Delete elements of a set by key."""

    set_name: str
    keys: tuple[bytes, ...]


Operation = (
    RemoveTable
    | AddTable
    | AddSet
    | AddChain
    | RewriteChain
    | RemoveChain
    | AddElements
    | RemoveElements
)


def difference(present: TableState | None, desired: TableState | None) -> list[Operation]:
    """Return the operations of one transaction that turn `present` into `desired`.

    A table whose sets or hooked chains differ in shape is rebuilt within the transaction.
    """
    if desired is None:
        return [] if present is None else [RemoveTable()]
    if present is None:
        return _build(desired)
    if present.sets != desired.sets or _hooks(present) != _hooks(desired):
        return [RemoveTable(), *_build(desired)]
    operations: list[Operation] = []
    for name, chain in desired.chains.items():
        old = present.chains.get(name)
        if old is None:
            operations.append(AddChain(name, chain))
        elif old != chain:
            operations.append(RewriteChain(name, chain))
    for name, wanted in desired.elements.items():
        operations += _element_difference(name, present.elements.get(name, {}), wanted)
    # Chains go last: the verdict elements that led to them are gone by then.
    operations += [RemoveChain(name) for name in present.chains if name not in desired.chains]
    return operations


def _hooks(state: TableState) -> dict[str, tuple[ChainKind, int | None, int, str]]:
    return {
        name: (chain.kind, chain.hook, chain.priority, chain.device)
        for name, chain in state.chains.items()
        if chain.hook is not None
    }


def _build(desired: TableState) -> list[Operation]:
    operations: list[Operation] = [AddTable()]
    operations += [AddSet(name, shape) for name, shape in desired.shapes.items()]
    operations += [AddChain(name, chain) for name, chain in desired.chains.items()]
    operations += [AddElements(n, dict(e)) for n, e in desired.elements.items() if e]
    return operations


def _element_difference(
    name: str, present: Mapping[bytes, Value], wanted: Mapping[bytes, Value]
) -> list[Operation]:
    stale = tuple(k for k, v in present.items() if k not in wanted or wanted[k] != v)
    fresh = {k: v for k, v in wanted.items() if k not in present or present[k] != v}
    operations: list[Operation] = []
    if stale:
        operations.append(RemoveElements(name, stale))
    if fresh:
        operations.append(AddElements(name, fresh))
    return operations
