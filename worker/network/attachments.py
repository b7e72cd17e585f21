"""What the engine and the agent ask of the network, and what they get back."""

import hashlib
from dataclasses import dataclass
from typing import Literal

NetworkKind = Literal["bridge", "overlay", "ingress"]
PortProtocol = Literal["tcp", "udp"]


@dataclass(frozen=True)
class Attachment:
    """A container's wish to be on a network."""

    network_id: str
    kind: NetworkKind
    address: str | None = None
    """Dotted IPv4; None lets a bridge network choose. Overlays always bring one."""
    aliases: tuple[str, ...] = ()
    """Names the address answers to on this network; the first is the one PTR gives."""
    mac: str = ""
    """Empty: derived from the address."""
    priority: int = 0
    """The bridge of the highest priority is the container's way out."""
    links: tuple[tuple[str, str], ...] = ()
    """(name, alias): names of others on this network that the container also calls by an alias."""
    ipv6_address: str | None = None
    """None lets a bridge network choose; an overlay with IPv6 brings one."""


@dataclass(frozen=True)
class BridgeNetwork:
    """A network of this machine alone."""

    network_id: str
    name: str
    bridge: str
    """Interface name, at most 15 bytes."""
    subnet: str = ""
    """IPv4 prefix; empty takes the next free one of the pool, or is none without `ipv4`."""
    gateway: str = ""
    """Empty takes the subnet's first address."""
    ip_range: str = ""
    """Part of the subnet that addresses are chosen from; empty means all of it."""
    internal: bool = False
    masquerade: bool = True
    talkative: bool = True
    """Whether its containers reach each other (Docker's `enable_icc`)."""
    reserved: tuple[str, ...] = ()
    """Addresses that are never handed out."""
    default: bool = False
    """The default bridge: no name service, the host's resolvers in resolv.conf."""
    mtu: int = 1500
    ipv4: bool = True
    ipv6: bool = False
    ipv6_subnet: str = ""
    """Empty takes the next free one of this machine's unique local addresses."""
    ipv6_gateway: str = ""
    ipv6_range: str = ""

    def own_addresses(self) -> tuple[str, ...]:
        """Return the node's addresses on it with prefix length, once they are known."""
        pairs = ((self.gateway, self.subnet), (self.ipv6_gateway, self.ipv6_subnet))
        return tuple(f"{own}/{subnet.partition('/')[2]}" for own, subnet in pairs if subnet)


@dataclass(frozen=True)
class PortBinding:
    """One published port of this node."""

    protocol: PortProtocol
    container_port: int
    host_port: int = 0
    """0 takes a free port of the node."""
    host_ip: str = ""
    """Empty: every address of the node; 0.0.0.0 or ::, every one of that family."""
    host_port_last: int = 0
    """Above `host_port`: the first free one of this range is taken."""


@dataclass(frozen=True)
class AttachedEndpoint:
    """A container's place on one network, as made."""

    network_id: str
    interface: str
    address: str
    prefix: int
    mac: str
    gateway: str
    ipv6_address: str = ""
    ipv6_prefix: int = 0
    ipv6_gateway: str = ""

    def addresses(self) -> tuple[str, ...]:
        """Return its addresses, one per family at most."""
        return tuple(filter(None, (self.address, self.ipv6_address)))

    def places(self) -> tuple[str, ...]:
        """Return its addresses with prefix length."""
        pairs = ((self.address, self.prefix), (self.ipv6_address, self.ipv6_prefix))
        return tuple(f"{address}/{prefix}" for address, prefix in pairs if address)

    def gateways(self) -> tuple[str, ...]:
        """Return the ways out of it, one per family at most."""
        return tuple(filter(None, (self.gateway, self.ipv6_gateway)))


@dataclass(frozen=True)
class Attached:
    """A configured network namespace."""

    netns_fd: int
    """Belongs to the network: duplicate it to keep it."""
    endpoints: tuple[AttachedEndpoint, ...]
    ports: tuple[PortBinding, ...]
    """Bindings with the host port actually taken."""
    resolver: bool
    """Whether names are served at 127.0.0.11 in it."""


class NetworkError(Exception):
    """A request the network cannot meet; the message says why and the way out."""


class PortTaken(NetworkError):
    """A port of the node that another container, or another program, has."""


class NetworkBusy(NetworkError):
    """A network that containers are on cannot be removed."""


def mac_of(address: str) -> str:
    """Return the MAC derived from an address: 02:42 and four bytes, IPv4's own or a digest."""
    if ":" in address:
        return "02:42:" + hashlib.sha256(address.encode()).digest()[:4].hex(":")
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))
