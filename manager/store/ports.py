"""Published ports of a spec, and where on a node they are: two may share a number elsewhere."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

from swarmapi.model.spec import PortConfig, ServiceSpec
from swarmapi.override import override

PortKey = tuple[str, int]
"""Protocol and number."""


class HostPort(NamedTuple):
    """A port that a task takes of its node."""

    protocol: str
    number: int
    place: str = ""
    """See `place_of`."""

    @property
    def key(self) -> PortKey:
        """Return what it shares with the same port elsewhere."""
        return self.protocol, self.number

    def clashes(self, other: "HostPort") -> bool:
        """Tell whether one node cannot give both."""
        return self.key == other.key and overlap(self.place, other.place)

    @override
    def __str__(self) -> str:
        """Return `80/tcp`, with its place in front where it has one."""
        return f"{shown(self.place)}{self.number}/{self.protocol}"


def key_of(port: PortConfig) -> PortKey:
    """Return protocol and published number; the number is 0 while none is given."""
    return port.protocol or "tcp", port.published_port


def place_of(port: PortConfig) -> str:
    """Return where it is published: blank for everywhere, an address or prefix, or `%LINK`.

    `0.0.0.0` and `::` are every address of their family, as Docker has it.
    """
    if port.interface:
        return f"%{port.interface}"
    return _at(port.address) if port.address else ""


@lru_cache(maxsize=4096)
def _at(address: str) -> str:
    network = ip_network(address)
    if network.num_addresses == 1 and network.network_address.is_unspecified:
        return f"{network.network_address}/0"
    return address


def shown(place: str) -> str:
    """Return a place as it stands before a port."""
    if not place:
        return ""
    place = place.removesuffix("/0").removeprefix("%")
    return f"[{place}]:" if ":" in place else f"{place}:"


@lru_cache(maxsize=4096)
def overlap(one: str, other: str) -> bool:
    """Tell whether two places may share an address; a link may have any but another link's."""
    if not one or not other:
        return True
    if one.startswith("%") or other.startswith("%"):
        return one == other or not (one.startswith("%") and other.startswith("%"))
    first, second = ip_network(one), ip_network(other)
    return first.version == second.version and first.overlaps(second)


def collides(one: PortConfig, other: PortConfig) -> bool:
    """Tell whether two ports are the same at an address that both are at."""
    return key_of(one) == key_of(other) and overlap(place_of(one), place_of(other))


def is_ingress(port: PortConfig) -> bool:
    """Tell whether a port is published by the routing mesh (the default)."""
    return port.publish_mode != "host"


def has_place_or_source(port: PortConfig) -> bool:
    """Tell whether a port has what Docker's clients, and nodes of before, do not know."""
    return bool(port.source or port.address or port.interface)


def ports_of(spec: ServiceSpec) -> tuple[PortConfig, ...]:
    """Return the ports a spec publishes, as given."""
    return (spec.endpoint_spec.ports or ()) if spec.endpoint_spec is not None else ()


def host_ports(spec: ServiceSpec) -> tuple[HostPort, ...]:
    """Return the ports by number that each task of a spec takes of its node."""
    taken = (p for p in ports_of(spec) if p.published_port and not is_ingress(p))
    return tuple(HostPort(*key_of(p), place_of(p)) for p in taken)


def numbers(ports: Iterable[PortConfig]) -> Iterator[PortKey]:
    """Yield protocol and number of the ports published by number."""
    return (key_of(port) for port in ports if port.published_port)
