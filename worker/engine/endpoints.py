"""How a container joins a network: Docker's EndpointSettings, decoded strictly."""

import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import Any

import msgspec

from swarmapi.errors import InvalidArgument, Unsupported

_MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\Z")
_REFUSED = ("Links", "DriverOpts")


class EndpointSpec(msgspec.Struct, kw_only=True):
    """A container's wishes for one network; empty values are chosen for it."""

    network_id: str = ""
    """Of the network meant; empty while only its name is known."""
    aliases: list[str] = []
    ipv4_address: str = ""
    mac_address: str = ""
    gateway_priority: int = 0


def decode_endpoint(settings: Mapping[str, Any] | None) -> EndpointSpec:
    """Decode one EndpointSettings.

    Raises:
        InvalidArgument: for a value that is no address.
        Unsupported: for a setting we do not serve.
    """
    settings = settings or {}
    ipam = settings.get("IPAMConfig") or {}
    for key in _REFUSED:
        if settings.get(key):
            raise Unsupported(f"EndpointsConfig.{key} is not supported")
    for key in ("IPv6Address", "LinkLocalIPs"):
        if ipam.get(key):
            raise Unsupported(f"IPAMConfig.{key} is not supported")
    address, mac = ipam.get("IPv4Address") or "", settings.get("MacAddress") or ""
    if address:
        _check_address(address)
    check_mac(mac)
    return EndpointSpec(
        aliases=list(settings.get("Aliases") or []),
        ipv4_address=address,
        mac_address=mac,
        gateway_priority=int(settings.get("GwPriority") or 0),
    )


def decode_endpoints(networking: Mapping[str, Any]) -> dict[str, EndpointSpec]:
    """Decode a NetworkingConfig: endpoints by the network's name, id or `default`."""
    found = networking.get("EndpointsConfig") or {}
    return {network: decode_endpoint(settings) for network, settings in found.items()}


def check_mac(mac: str) -> None:
    """Refuse what is no MAC address; empty is fine."""
    if mac and not _MAC.match(mac):
        raise InvalidArgument(f"invalid MAC address: {mac}")


def _check_address(address: str) -> None:
    try:
        IPv4Address(address)
    except AddressValueError:
        raise InvalidArgument(f"invalid IPv4 address: {address}") from None
