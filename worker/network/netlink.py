"""AF_NETLINK sockets and rtnetlink messages as thin batches: one send, all acknowledgements.

Numbers are those of linux/rtnetlink.h, if_link.h and neighbour.h.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from worker.network.nftexpr import attribute, nested

NLM_REQUEST, NLM_ACK, NLM_REPLACE, NLM_DUMP, NLM_CREATE = 1, 4, 0x100, 0x300, 0x400
NLM_EXCL, NLM_APPEND = 0x200, 0x800
NLMSG_ERROR, NLMSG_DONE = 2, 3

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
AF_BRIDGE = 7
NUD_PERMANENT, NUD_NOARP = 0x80, 0x40
NTF_SELF, NTF_MASTER, NTF_STICKY = 0x02, 0x04, 0x40
IFF_UP = 1
IFA_F_NODAD = 0x02

_HEADER = struct.Struct("=IHHII")
Message = tuple[int, int, bytes]
"""Type, flags beyond REQUEST, and body."""


class NetlinkError(OSError):
    """The kernel refused a message; `index` is its place in the batch."""

    def __init__(self, code: int, what: str, index: int = 0) -> None:
        super().__init__(code, f"{what}: {os.strerror(code)} in message {index}")
        self.index = index


class NetlinkSocket:
    """One netlink socket. It belongs to the network namespace of the thread that opens it."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        for option in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, 1 << 24)
        self._socket.bind((0, 0))
        self._sequence = 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, raw: bytes) -> None:
        """Send bytes made of whole messages."""
        self._socket.send(raw)

    def next_sequence(self, count: int = 1) -> int:
        """Reserve `count` sequence numbers and return the first."""
        first = self._sequence
        self._sequence += count
        return first

    def receive(self, *, wait: bool = True) -> list[tuple[int, int, bytes]] | None:
        """Return (type, sequence, body) of one datagram's messages; None if there is none."""
        try:
            raw = self._socket.recv(1 << 20, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        messages, offset = [], 0
        while offset + 16 <= len(raw):
            size, kind, _, sequence, _ = _HEADER.unpack_from(raw, offset)
            messages.append((kind, sequence, raw[offset + 16 : offset + size]))
            offset += (size + 3) & ~3
        return messages

    def batch(self, messages: Sequence[Message], *, ignore: Sequence[int] = ()) -> int:
        """Send messages, wait for every acknowledgement and return how many were obeyed.

        All are executed; the first failure is raised as NetlinkError unless its errno is
        in `ignore`.
        """
        failure: NetlinkError | None = None
        refused = 0
        for start in range(0, len(messages), 500):
            part = messages[start : start + 500]
            first = self.next_sequence(len(part))
            self.send(
                b"".join(
                    encode(kind, flags | NLM_ACK, first + i, body)
                    for i, (kind, flags, body) in enumerate(part)
                )
            )
            waiting = len(part)
            while waiting:
                for kind, sequence, body in self.receive() or []:
                    if kind != NLMSG_ERROR or sequence < first:
                        continue
                    waiting -= 1
                    code = -struct.unpack_from("=i", body)[0]
                    refused += bool(code)
                    if code and code not in ignore and failure is None:
                        failure = NetlinkError(code, "netlink", start + sequence - first)
        if failure is not None:
            raise failure
        return len(messages) - refused

    def dump(self, kind: int, body: bytes, flags: int = NLM_DUMP) -> Iterator[bytes]:
        """Yield the bodies of a dump."""
        sequence = self.next_sequence()
        self.send(encode(kind, flags, sequence, body))
        while True:
            for got, number, reply in self.receive() or []:
                if number != sequence:
                    continue
                if got == NLMSG_DONE:
                    return
                if got == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", reply)[0]
                    if code:
                        raise NetlinkError(code, "netlink dump")
                    return
                yield reply


def encode(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return one netlink message."""
    head = _HEADER.pack(16 + len(body), kind, flags | NLM_REQUEST, sequence, 0)
    return head + body + b"\0" * (-len(body) & 3)


def attributes(raw: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return attribute payloads by type, without the nested and byte-order bits."""
    found: dict[int, bytes] = {}
    while offset + 4 <= len(raw):
        size, kind = struct.unpack_from("=HH", raw, offset)
        if size < 4:
            break
        found[kind & 0x3FFF] = raw[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


def mac_bytes(mac: str) -> bytes:
    """Return the six bytes of a colon-separated MAC address."""
    return bytes.fromhex(mac.replace(":", ""))


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BBHiII", 0, 0, 0, index, flags, change)


def add_bridge(name: str, mtu: int, mac: str = "") -> Message:
    """Create a bridge that is up, with no spanning tree."""
    extra = attribute(1, mac_bytes(mac)) if mac else b""
    body = _link(0, IFF_UP, IFF_UP) + _text(3, name) + _u32(4, mtu) + extra
    return RTM_NEWLINK, NLM_CREATE | NLM_EXCL, body + nested(18, _text(1, "bridge"))


def add_vxlan(name: str, vni: int, local: str, port: int, mtu: int) -> Message:
    """Create a VXLAN without learning that answers ARP from its neighbours (`proxy`)."""
    details = nested(
        2,
        _u32(1, vni),
        attribute(4, socket.inet_aton(local)),
        attribute(7, b"\0"),  # IFLA_VXLAN_LEARNING
        attribute(11, b"\1"),  # IFLA_VXLAN_PROXY: cannot be changed later
        attribute(15, struct.pack(">H", port)),
    )
    body = _link() + _text(3, name) + _u32(4, mtu) + nested(18, _text(1, "vxlan"), details)
    return RTM_NEWLINK, NLM_CREATE | NLM_EXCL, body


def add_veth(
    name: str,
    peer: str,
    peer_netns: int,
    *,
    mtu: int,
    master: int = 0,
    mac: str = "",
    peer_mac: str = "",
) -> Message:
    """Create a veth pair, this end up, the peer in the namespace of fd `peer_netns`.

    The peer stays down: IFF_UP on it here fails with ENOTCONN.
    """
    other = _link() + _text(3, peer) + _u32(28, peer_netns) + _u32(4, mtu)
    if peer_mac:
        other += attribute(1, mac_bytes(peer_mac))
    body = _link(0, IFF_UP, IFF_UP) + _text(3, name) + _u32(4, mtu)
    if master:
        body += _u32(10, master)
    if mac:
        body += attribute(1, mac_bytes(mac))
    info = nested(18, _text(1, "veth"), nested(2, nested(1, other)))
    return RTM_NEWLINK, NLM_CREATE | NLM_EXCL, body + info


def set_link(index: int, *, up: bool = False, master: int | None = None) -> Message:
    """Bring a link up and/or enslave it."""
    flags = IFF_UP if up else 0
    extra = b"" if master is None else _u32(10, master)
    return RTM_NEWLINK, 0, _link(index, flags, flags) + extra


def rename_link(index: int, name: str) -> Message:
    """Rename a link that is down."""
    return RTM_NEWLINK, 0, _link(index) + _text(3, name)


def set_port(index: int, *, isolated: bool) -> Message:
    """Set up a bridge's port: frames may go back out of it; isolated ones do not meet.

    With br_netfilter a container that calls its own published port is rewritten in the bridge.
    """
    # IFLA_INFO_SLAVE_DATA of IFLA_BRPORT_MODE (hairpin) and IFLA_BRPORT_ISOLATED
    port = nested(5, attribute(4, b"\1"), attribute(33, bytes([isolated])))
    return RTM_NEWLINK, 0, _link(index) + nested(18, _text(4, "bridge"), port)


def move_link(index: int, netns: int) -> Message:
    """Move a link into the namespace of fd `netns`."""
    return RTM_NEWLINK, 0, _link(index) + _u32(28, netns)


def remove_link(index: int) -> Message:
    """Delete a link. Never for a veth on a hot path: it blocks for tens of milliseconds."""
    return RTM_DELLINK, 0, _link(index)


def family_of(address: str) -> socket.AddressFamily:
    """Return the family of an address or prefix."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _packed(address: str) -> bytes:
    return socket.inet_pton(family_of(address), address)


def add_address(index: int, place: str) -> Message:
    """Give a link an address, said with its prefix length; one of IPv6 is usable at once."""
    address, _, prefix = place.partition("/")
    raw, flags = _packed(address), IFA_F_NODAD if ":" in address else 0
    head = struct.pack("=BBBBI", family_of(address), int(prefix), flags, 0, index)
    return RTM_NEWADDR, NLM_CREATE | NLM_REPLACE, head + attribute(2, raw) + attribute(1, raw)


def default_route(gateway: str, index: int) -> Message:
    """Route everything else through `gateway`."""
    head = struct.pack("=BBBBBBBBI", family_of(gateway), 0, 0, 0, 254, 3, 0, 1, 0)
    body = head + attribute(5, _packed(gateway)) + _u32(4, index)
    return RTM_NEWROUTE, NLM_CREATE | NLM_REPLACE, body


def link_route(index: int, subnet: str, source: str) -> Message:
    """Route a subnet into the link that has the address `source` in it."""
    first, _, prefix = subnet.partition("/")
    head = struct.pack("=BBBBBBBBI", family_of(subnet), int(prefix), 0, 0, 254, 2, 253, 1, 0)
    body = head + attribute(1, _packed(first)) + _u32(4, index) + attribute(7, _packed(source))
    return RTM_NEWROUTE, NLM_CREATE | NLM_REPLACE, body


def remove_default_route() -> Message:
    """Delete the default route."""
    return (
        RTM_NEWROUTE + 1,
        0,
        struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 0, 255, 0, 0),
    )


def _neighbour(family: int, index: int, state: int, flags: int) -> bytes:
    return struct.pack("=BBHiHBB", family, 0, 0, index, state, flags, 0)


def fdb_entry(index: int, mac: str, destination: str, *, remove: bool = False) -> Message:
    """Say behind which underlay address a VXLAN finds `mac`."""
    head = _neighbour(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF)
    body = head + attribute(2, mac_bytes(mac)) + attribute(1, socket.inet_aton(destination))
    return (RTM_DELNEIGH, 0, body) if remove else (RTM_NEWNEIGH, NLM_CREATE | NLM_REPLACE, body)


def bridge_station(port: int, mac: str, *, remove: bool = False) -> Message:
    """Say behind which port of its bridge `mac` is, whatever was or will be learned."""
    head = _neighbour(AF_BRIDGE, port, NUD_NOARP, NTF_MASTER | NTF_STICKY)
    body = head + attribute(2, mac_bytes(mac))
    return (RTM_DELNEIGH, 0, body) if remove else (RTM_NEWNEIGH, NLM_CREATE | NLM_REPLACE, body)


def neighbour(index: int, address: str, mac: str, *, remove: bool = False) -> Message:
    """Set or delete a permanent neighbour."""
    head = _neighbour(family_of(address), index, NUD_PERMANENT, 0)
    body = head + attribute(1, _packed(address)) + attribute(2, mac_bytes(mac))
    return (RTM_DELNEIGH, 0, body) if remove else (RTM_NEWNEIGH, NLM_CREATE | NLM_REPLACE, body)


@dataclass(frozen=True)
class Link:
    """A link as the kernel describes it."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    master: int
    kind: str
    peer: int
    """Of a veth: the index that its other end has in its own namespace."""


class RouteSocket(NetlinkSocket):
    """NETLINK_ROUTE with the dumps that read-back needs."""

    def __init__(self) -> None:
        super().__init__(0)

    def links(self) -> dict[str, Link]:
        """Return all links by name."""
        found = (_parse_link(raw) for raw in self.dump(RTM_GETLINK, _link()))
        return {link.name: link for link in found}

    def link(self, name: str) -> Link | None:
        """Return one link, or None."""
        sequence = self.next_sequence()
        self.send(encode(RTM_GETLINK, 0, sequence, _link() + _text(3, name)))
        while True:
            for kind, number, body in self.receive() or []:
                if number != sequence:
                    continue
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    if code == errno.ENODEV:
                        return None
                    raise NetlinkError(code, f"link {name}")
                return _parse_link(body)

    def index(self, name: str) -> int:
        """Return a link's index; NetlinkError with ENODEV if there is none."""
        link = self.link(name)
        if link is None:
            raise NetlinkError(errno.ENODEV, f"link {name}")
        return link.index

    def addresses(self) -> set[tuple[int, str, int]]:
        """Return (link index, address, prefix length) of every address, link-local ones too."""
        found = set()
        for raw in self.dump(RTM_GETADDR, struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)):
            family, prefix, _, _, index = struct.unpack_from("=BBBBI", raw)
            parts = attributes(raw, 8)
            own = parts.get(2, parts.get(1))  # IFA_LOCAL; IPv6 has IFA_ADDRESS alone
            if own is not None and family in (socket.AF_INET, socket.AF_INET6):
                found.add((index, socket.inet_ntop(family, own), prefix))
        return found

    def fdb(self, index: int) -> set[tuple[str, str]]:
        """Return (MAC, underlay address) a VXLAN link holds."""
        found = set()
        for raw in self.dump(RTM_GETNEIGH, _neighbour(AF_BRIDGE, 0, 0, 0)):
            _, _, _, got, _, flags, _ = struct.unpack_from("=BBHiHBB", raw)
            parts = attributes(raw, 12)
            if got == index and flags & NTF_SELF and 1 in parts and 2 in parts:
                found.add((parts[2].hex(":"), socket.inet_ntoa(parts[1])))
        return found

    def stations(self) -> set[tuple[str, int]]:
        """Return (MAC, port) of what bridges were told, without what they learned."""
        found = set()
        for raw in self.dump(RTM_GETNEIGH, _neighbour(AF_BRIDGE, 0, 0, 0)):
            _, _, _, port, state, flags, _ = struct.unpack_from("=BBHiHBB", raw)
            mac = attributes(raw, 12).get(2)
            told = state & (NUD_NOARP | NUD_PERMANENT) == NUD_NOARP
            if told and mac is not None and not flags & NTF_SELF:
                found.add((mac.hex(":"), port))
        return found

    def routes(self) -> set[tuple[str, int]]:
        """Return (prefix, link index) of every route of the main table."""
        found = set()
        for raw in self.dump(RTM_GETROUTE, struct.pack("=BBBBBBBBI", *(0,) * 9)):
            family, length, _, _, table = struct.unpack_from("=BBBBB", raw)
            parts = attributes(raw, 12)
            if family in (socket.AF_INET, socket.AF_INET6) and table == 254 and 4 in parts:
                nowhere = bytes(16 if family == socket.AF_INET6 else 4)
                where = socket.inet_ntop(family, parts.get(1, nowhere))
                found.add((f"{where}/{length}", struct.unpack("=I", parts[4])[0]))
        return found

    def neighbours(self, index: int) -> set[tuple[str, str]]:
        """Return (address, MAC) of a link's permanent neighbours."""
        found = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for raw in self.dump(RTM_GETNEIGH, _neighbour(family, 0, 0, 0)):
                _, _, _, got, state, _, _ = struct.unpack_from("=BBHiHBB", raw)
                parts = attributes(raw, 12)
                if got == index and state & NUD_PERMANENT and 1 in parts and 2 in parts:
                    found.add((socket.inet_ntop(family, parts[1]), parts[2].hex(":")))
        return found


def _parse_link(raw: bytes) -> Link:
    _, _, _, index, flags, _ = struct.unpack_from("=BBHiII", raw)
    parts = attributes(raw, 16)
    info = attributes(parts.get(18, b""))
    return Link(
        index=index,
        name=parts[3].rstrip(b"\0").decode(),
        mac=parts.get(1, b"").hex(":"),
        mtu=struct.unpack("=I", parts[4])[0],
        up=bool(flags & IFF_UP),
        master=struct.unpack("=I", parts[10])[0] if 10 in parts else 0,
        kind=info.get(1, b"").rstrip(b"\0").decode(),
        peer=struct.unpack("=I", parts[5])[0] if 5 in parts else 0,
    )
