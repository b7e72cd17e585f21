"""Which ports of the mesh are carried byte by byte, and what a PROXY header says. Pure.

The kernel forwards all others. It cannot rewrite what is for `::1`, and writes no header.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, NamedTuple

from swarmapi.model.tables import NetworkTable, PublishedPort, ServiceEntry
from worker.network.family import IPV4, IPV6
from worker.network.local import LOOPBACK, serving_by_service
from worker.network.mesh import ANYWHERE, HEADERS, Links, addresses_at

Place = tuple[str, int]
"""Address and port."""
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"


class Front(NamedTuple):
    """Where a carried port listens."""

    protocol: str
    address: str
    port: int


@dataclass(frozen=True)
class Way:
    """Where a carried port leads."""

    targets: tuple[Place, ...]
    is_sticky: bool = False
    header: str = ""
    """The source it was published with, when that asks for a PROXY header."""
    others: tuple[Place, ...] = ()
    """The same tasks by IPv6, for who does not listen on IPv4."""


def carried_ports(tables: Mapping[str, NetworkTable], links: Links) -> dict[Front, Way]:
    """Return the ports to carry; one without a serving task is none."""
    fronts: dict[Front, Way] = {}
    for table in tables.values():
        if not table.ingress:
            continue
        serving = [serving_by_service(table, families=(family,)) for family in (IPV4, IPV6)]
        for service in table.services.values():
            groups = [found.get(service.service_id, ()) for found in serving]
            for port in service.ports if any(groups) else ():
                way = _way(service, port, [group for group in groups if group])
                fronts |= dict.fromkeys(_fronts(port, links), way)
    return fronts


def _fronts(port: PublishedPort, links: Links) -> Iterator[Front]:
    if port.protocol not in ("tcp", "udp"):
        return
    for family in (IPV4, IPV6):
        own = addresses_at(port.place, links, family)
        addresses: tuple[str, ...] = (ANYWHERE[family],) if own is None else own
        if port.source not in HEADERS:
            addresses = (LOOPBACK,) if LOOPBACK in addresses or ANYWHERE[IPV6] in addresses else ()
        for address in addresses:
            yield Front(port.protocol, address, port.published)


def _way(service: ServiceEntry, port: PublishedPort, groups: Sequence[tuple[str, ...]]) -> Way:
    targets, *others = (tuple((one, port.target) for one in group) for group in groups)
    header = port.source if port.source in HEADERS else ""
    return Way(targets, service.sticky, header, others[0] if others else ())


def proxy_header(kind: str, client: Place, asked: Place) -> bytes:
    """Return the header that names a TCP client and what it connected to.

    Both are of one family. From HAProxy's proxy-protocol.txt, versions 1 and 2.
    """
    source, destination = (ip_address(place[0].partition("%")[0]) for place in (client, asked))
    if kind == "proxy-protocol-v1":
        words = f"TCP{source.version} {source} {destination} {client[1]} {asked[1]}"
        return f"PROXY {words}\r\n".encode()
    body = source.packed + destination.packed + struct.pack(">HH", client[1], asked[1])
    family = 0x11 if source.version == 4 else 0x21
    return _SIGNATURE + struct.pack(">BBH", 0x21, family, len(body)) + body
