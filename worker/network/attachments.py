"""What the engine and the agent ask of the network, and what they get back."""

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


@dataclass(frozen=True)
class BridgeNetwork:
    """A network of this machine alone."""

    network_id: str
    name: str
    bridge: str
    """Interface name, at most 15 bytes."""
    subnet: str = ""
    """IPv4 prefix; empty takes the next free one of the pool."""
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


@dataclass(frozen=True)
class PortBinding:
    """One published port of this node."""

    protocol: PortProtocol
    container_port: int
    host_port: int = 0
    """0 takes a free port of the node."""
    host_ip: str = ""
    """Empty or 0.0.0.0: every address of the node."""
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
    """Return the MAC derived from an IPv4 address: 02:42 and the four bytes."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def check_binding(binding: PortBinding) -> None:
    """Refuse a port that cannot be published; raises NetworkError."""
    if binding.protocol not in ("tcp", "udp"):
        raise NetworkError(f"protocol {binding.protocol} cannot be published: use tcp or udp")
    if ":" in binding.host_ip:
        raise NetworkError(f"host address {binding.host_ip} is IPv6: only IPv4 can be published")
