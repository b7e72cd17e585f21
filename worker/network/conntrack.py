"""Connection tracking entries of a backend: found by reply source, deleted by reply tuple and id.

Deleting by the original tuple races with reuse of the client's port for another backend;
the reply tuple together with CTA_ID names exactly one entry.
"""

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network

from worker.network.netlink import NLM_DUMP, NetlinkSocket, attributes, family_of
from worker.network.nftexpr import attribute, nested

_GET, _DELETE, _STATS = 0x101, 0x102, 0x105
_CTA_TUPLE_REPLY, _CTA_PROTOINFO, _CTA_ID, _CTA_FILTER = 2, 4, 12, 25
_CTA_IP_V4_SRC, _CTA_IP_V6_SRC = 1, 3
_TCP_OPEN = range(2, 6)
"""SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT: one side at least may still send."""


class ConntrackSocket(NetlinkSocket):
    """The connection table of the namespace the socket was opened in."""

    def __init__(self) -> None:
        super().__init__(12)

    def count(self) -> int:
        """Return how many entries the namespace has, without walking the table."""
        for raw in self.dump(_STATS, _head(socket.AF_UNSPEC), flags=0):
            entries = attributes(raw, 4).get(1)
            return 0 if entries is None else int(struct.unpack(">I", entries)[0])
        return 0

    def of_backend(self, address: str) -> list[dict[int, bytes]]:
        """Return the entries whose replies come from `address`, as raw attributes."""
        family = family_of(address)
        kind = _CTA_IP_V6_SRC if family == socket.AF_INET6 else _CTA_IP_V4_SRC
        place = attribute(kind, socket.inet_pton(family, address))
        source = nested(_CTA_TUPLE_REPLY, nested(1, place))
        # CTA_FILTER_REPLY_FLAGS: compare the reply's source address only.
        wanted = nested(_CTA_FILTER, attribute(2, struct.pack("=I", 1)))
        body = _head(family) + source + wanted
        return [attributes(raw, 4) for raw in self.dump(_GET, body, flags=NLM_DUMP)]

    def connections(self, address: str) -> int:
        """Return how many TCP connections to `address` are open, or being opened or closed."""
        return sum(_is_open(entry) for entry in self.of_backend(address))

    def forget(self, address: str, protocols: Iterable[int] = ()) -> int:
        """Delete a backend's entries and return how many; only `protocols` if any are given."""
        only = set(protocols)
        return self._delete(
            [e for e in self.of_backend(address) if not only or _protocol(e) in only]
        )

    def forget_dead(self, subnets: Mapping[str, Collection[str]]) -> int:
        """Delete entries whose backend's address is in a subnet and not in use there."""
        ranges = [(ip_network(subnet), used) for subnet, used in subnets.items()]

        def is_dead(entry: dict[int, bytes]) -> bool:
            backend = ip_address(_source(entry))
            return any(backend in subnet and str(backend) not in used for subnet, used in ranges)

        whole = _head(socket.AF_UNSPEC)
        entries = (attributes(raw, 4) for raw in self.dump(_GET, whole, flags=NLM_DUMP))
        return self._delete([e for e in entries if is_dead(e)])

    def _delete(self, found: Sequence[dict[int, bytes]]) -> int:
        self.batch(
            [
                (
                    _DELETE,
                    0,
                    _head(socket.AF_INET6 if len(_source(e)) == 16 else socket.AF_INET)
                    + nested(_CTA_TUPLE_REPLY, e[_CTA_TUPLE_REPLY])
                    + (attribute(_CTA_ID, e[_CTA_ID]) if _CTA_ID in e else b""),
                )
                for e in found
            ],
            ignore=(errno.ENOENT,),
        )
        return len(found)


def _head(family: int) -> bytes:
    return struct.pack("=BBH", family, 0, 0)


def _source(entry: dict[int, bytes]) -> bytes:
    """Return the address that replies come from, of either family."""
    place = attributes(attributes(entry[_CTA_TUPLE_REPLY])[1])
    return place[_CTA_IP_V6_SRC] if _CTA_IP_V6_SRC in place else place[_CTA_IP_V4_SRC]


def _protocol(entry: dict[int, bytes]) -> int:
    transport = attributes(attributes(entry[_CTA_TUPLE_REPLY])[2])
    return transport[1][0]


def _is_open(entry: dict[int, bytes]) -> bool:
    tcp = attributes(entry.get(_CTA_PROTOINFO, b"")).get(1)
    return tcp is not None and attributes(tcp)[1][0] in _TCP_OPEN
