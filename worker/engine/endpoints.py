"""How a container joins a network: Docker's EndpointSettings, decoded strictly."""

import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any

import msgspec

from swarmapi.errors import InvalidArgument, Unsupported

_MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\Z")


class EndpointSpec(msgspec.Struct, kw_only=True):
    """A container's wishes for one network; empty values are chosen for it."""

    network_id: str = ""
    """Of the network meant; empty while only its name is known."""
    aliases: list[str] = []
    links: list[str] = []
    """`container:alias`: the alias answers to this container alone."""
    ipv4_address: str = ""
    ipv6_address: str = ""
    mac_address: str = ""
    gateway_priority: int = 0
    leased: bool = False
    """The cluster gave the address: only so is a network of the cluster joined."""
    attached: bool = False
    """On an attachable network of the cluster, by a container that is no task's."""


class _IpamConfig(msgspec.Struct):
    ipv4_address: str | None = msgspec.field(default=None, name="IPv4Address")
    ipv6_address: str | None = msgspec.field(default=None, name="IPv6Address")
    link_local_ips: Any = msgspec.field(default=None, name="LinkLocalIPs")


class _Settings(msgspec.Struct, rename="pascal"):
    ipam_config: _IpamConfig | None = msgspec.field(default=None, name="IPAMConfig")
    aliases: list[str] | None = None
    mac_address: str | None = None
    gw_priority: int | None = None
    links: list[str] | None = None
    driver_opts: Any = None


def decode_endpoint(settings: object) -> EndpointSpec:
    """Decode one EndpointSettings, or null.

    Raises:
        InvalidArgument: for a wrong type, or a value that is no address.
        Unsupported: for a setting we do not serve.
    """
    try:
        asked = msgspec.convert(settings, _Settings | None) or _Settings()
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"EndpointSettings: {error}") from None
    ipam = asked.ipam_config or _IpamConfig()
    for key, value in (
        ("EndpointsConfig.DriverOpts", asked.driver_opts),
        ("IPAMConfig.LinkLocalIPs", ipam.link_local_ips),
    ):
        if value:
            raise Unsupported(f"{key} is not supported")
    address, mac = ipam.ipv4_address or "", asked.mac_address or ""
    ipv6_address = _ipv6_address(ipam.ipv6_address or "")
    if address:
        _check_address(address)
    check_mac(mac)
    for link in asked.links or ():
        parse_link(link)
    return EndpointSpec(
        aliases=asked.aliases or [],
        links=asked.links or [],
        ipv4_address=address,
        ipv6_address=ipv6_address,
        mac_address=mac,
        gateway_priority=asked.gw_priority or 0,
    )


def decode_endpoints(networking: object) -> dict[str, EndpointSpec]:
    """Decode a NetworkingConfig: endpoints by the network's name, id or `default`."""
    found = _mapping(networking, "NetworkingConfig").get("EndpointsConfig")
    endpoints = _mapping(found, "EndpointsConfig")
    return {network: decode_endpoint(settings) for network, settings in endpoints.items()}


def parse_link(text: str) -> tuple[str, str]:
    """Return (container, alias) of `container[:alias]`, also as an inspect shows it.

    Raises:
        InvalidArgument: for anything else.
    """
    if not text:
        raise InvalidArgument("empty string specified for links")
    target, colon, alias = text.partition(":")
    if not target or ":" in alias or (colon and not alias) or len(text.split()) != 1:
        raise InvalidArgument(f"bad format for links: {text}")
    return target.removeprefix("/"), (alias or target).rpartition("/")[2]


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise InvalidArgument(f"{where}: an object is expected")
    return value or {}


def check_mac(mac: str) -> None:
    """Refuse what is no MAC address; empty is fine."""
    if mac and not _MAC.match(mac):
        raise InvalidArgument(f"invalid MAC address: {mac}")


def _check_address(address: str) -> None:
    try:
        IPv4Address(address)
    except AddressValueError:
        raise InvalidArgument(f"invalid IPv4 address: {address}") from None


def _ipv6_address(address: str) -> str:
    try:
        return str(IPv6Address(address)) if address else ""
    except AddressValueError:
        raise InvalidArgument(f"invalid IPv6 address: {address}") from None
