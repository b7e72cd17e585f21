"""What a network is asked to be: the body of `POST /networks/create`, decoded strictly."""

import re
from collections.abc import Mapping, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, NamedTuple

import msgspec

from swarmapi.errors import AlreadyExists, Forbidden, InvalidArgument, Unsupported
from worker.engine.ports import NetworkInfo

BRIDGE = "com.docker.network.bridge."
BRIDGE_NAME = BRIDGE + "name"
TALKATIVE = BRIDGE + "enable_icc"
MASQUERADE = BRIDGE + "enable_ip_masquerade"
HOST_ADDRESS = BRIDGE + "host_binding_ipv4"
MTU = "com.docker.network.driver.mtu"
_AS_IT_IS = {
    BRIDGE + "default_bridge": "false",
    BRIDGE + "inhibit_ipv4": "false",
    BRIDGE + "gateway_mode_ipv4": "nat",
    BRIDGE + "gateway_mode_ipv6": "nat",
}
"""Options of which one value is what every network of ours has."""
PREDEFINED = ("bridge", "host", "none")

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_. -]*\Z")
_INTERFACE = re.compile(r"[^\s/:]{1,15}\Z")
_SWITCHES = {"true": True, "1": True, "false": False, "0": False}
_MTU_SMALLEST, _MTU_LARGEST = 68, 65535
_RENAMED = {"ipam": "IPAM", "enable_ipv4": "EnableIPv4", "enable_ipv6": "EnableIPv6"}


def _pascal(name: str) -> str:
    return _RENAMED.get(name) or name.title().replace("_", "")


class NetworkRequest(msgspec.Struct, rename=_pascal):
    """The body of `POST /networks/create`, as documented; `decode_network` reads it."""

    name: str = ""
    driver: str = "bridge"
    scope: str = ""
    ipam: dict[str, Any] | None = None
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: dict[str, Any] | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    check_duplicate: bool = False
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None


_KNOWN = {field.encode_name for field in msgspec.structs.fields(NetworkRequest)}


def decode_network(body: Mapping[str, Any]) -> NetworkInfo:
    """Return the network asked for, still without an id.

    Raises:
        InvalidArgument: for a malformed name, subnet or option.
        Forbidden, AlreadyExists: for a second host or null network, a predefined name.
        Unsupported: for a driver, key or option we do not serve.
    """
    name, driver = str(body.get("Name") or ""), body.get("Driver") or "bridge"
    if name in PREDEFINED:
        raise AlreadyExists(f"network with name {name} already exists")
    if not _NAME.match(name):
        raise InvalidArgument(
            f"invalid network name {name!r}: only letters, digits, blank and _.- are allowed"
        )
    if driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    if driver != "bridge":
        raise Unsupported(f"network driver {driver!r} is not supported: use bridge or overlay")
    _refuse(body)
    options = {str(key): str(value) for key, value in (body.get("Options") or {}).items()}
    check_options(options)
    pools = _pools(body.get("IPAM") or {})
    ipv4, ipv6 = body.get("EnableIPv4") is not False, bool(body.get("EnableIPv6"))
    _check_families(pools, ipv4, ipv6)
    own, ipv6_own = pools.get(4, _Pool()), pools.get(6, _Pool())
    return NetworkInfo(
        id="",
        name=name,
        driver=driver,
        subnet=own.subnet,
        gateway=own.gateway,
        ip_range=own.ip_range,
        reserved={**own.reserved, **ipv6_own.reserved},
        ipv4=ipv4,
        ipv6=ipv6,
        ipv6_subnet=ipv6_own.subnet,
        ipv6_gateway=ipv6_own.gateway,
        ipv6_range=ipv6_own.ip_range,
        allotted=tuple(v for v, has in ((4, ipv4), (6, ipv6)) if has and v not in pools),
        internal=bool(body.get("Internal")),
        attachable=bool(body.get("Attachable")),
        labels={str(k): str(v) for k, v in (body.get("Labels") or {}).items()},
        options=options,
    )


def _refuse(body: Mapping[str, Any]) -> None:
    if body.get("Scope") not in (None, "", "local"):
        raise InvalidArgument(f"invalid scope {body['Scope']!r} for the bridge driver")
    config_from = (body.get("ConfigFrom") or {}).get("Network")
    for key, asked in (
        ("ConfigOnly", body.get("ConfigOnly")),
        ("ConfigFrom", config_from),
        ("Ingress", body.get("Ingress")),
    ):
        if asked:
            raise Unsupported(f"{key} is not supported for a bridge network")
    for key, value in body.items():
        if key not in _KNOWN and value:
            raise Unsupported(f"network {key} is not supported")


def check_options(options: Mapping[str, str]) -> None:
    """Refuse a driver option we do not serve, or a value it cannot have."""
    for key, value in options.items():
        if key in (TALKATIVE, MASQUERADE):
            switch(options, key)
        elif key == BRIDGE_NAME:
            if not _INTERFACE.match(value):
                raise InvalidArgument(f"invalid interface name {value!r}: at most 15 characters")
        elif key == HOST_ADDRESS:
            _address(value, key)
        elif key == MTU:
            if not value.isdecimal() or not _MTU_SMALLEST <= int(value) <= _MTU_LARGEST:
                raise InvalidArgument(f"invalid {key} {value!r}: want 68 to 65535")
        elif key in _AS_IT_IS and value != _AS_IT_IS[key]:
            raise Unsupported(
                f"network option {key}={value} is not supported: only {_AS_IT_IS[key]}"
            )
        elif key not in _AS_IT_IS:
            raise Unsupported(f"network option {key} is not supported")


def switch(options: Mapping[str, str], key: str, default: bool = True) -> bool:
    """Return the value of a driver option that is true or false."""
    if key not in options:
        return default
    try:
        return _SWITCHES[options[key].lower()]
    except KeyError:
        raise InvalidArgument(f"invalid {key} {options[key]!r}: want true or false") from None


class _Pool(NamedTuple):
    """The subnet of one family, and what is said of it."""

    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    reserved: Mapping[str, str] = {}


def _check_families(pools: Mapping[int, _Pool], ipv4: bool, ipv6: bool) -> None:
    if not ipv4 and not ipv6:
        raise InvalidArgument("IPv4 or IPv6 must be enabled")
    for version, enabled in ((4, ipv4), (6, ipv6)):
        if version in pools and not enabled:
            raise InvalidArgument(
                f"subnet {pools[version].subnet}: IPv{version} is not enabled for this network:"
                f" add --ipv{version}"
            )


def _pools(ipam: Mapping[str, Any]) -> dict[int, _Pool]:
    """Return the pool asked for of each IP version."""
    if ipam.get("Driver") not in (None, "", "default"):
        raise Unsupported(f"IPAM driver {ipam['Driver']!r} is not supported")
    if ipam.get("Options"):
        raise Unsupported("IPAM options are not supported")
    found: dict[int, _Pool] = {}
    for config in ipam.get("Config") or []:
        pool = _pool(config or {})
        if not pool.subnet:
            continue
        version = ip_network(pool.subnet).version
        if version in found:
            raise Unsupported(
                f"subnet {pool.subnet}: a bridge network has one subnet of IPv{version}"
            )
        found[version] = pool
    return found


def _pool(config: Mapping[str, Any]) -> _Pool:
    subnet, gateway = str(config.get("Subnet") or ""), str(config.get("Gateway") or "")
    ip_range = str(config.get("IPRange") or "")
    reserved = {str(k): str(v) for k, v in (config.get("AuxiliaryAddresses") or {}).items()}
    if not subnet:
        if gateway or ip_range or reserved:
            raise InvalidArgument("a gateway, range or reserved address needs a subnet")
        return _Pool()
    whole = _subnet(subnet, "subnet")
    if ip_range and not _is_part(_subnet(ip_range, "range"), whole):
        raise InvalidArgument(f"invalid ip-range {ip_range}: parent subnet is {whole}")
    for what, address in [("gateway", gateway), *((f"address {k}", reserved[k]) for k in reserved)]:
        if address and _inside(address, what) not in whole:
            raise InvalidArgument(f"invalid {what} {address}: parent subnet is {whole}")
    if ip_range and not gateway:
        gateway = _first_of(ip_range, [whole.network_address, *map(ip_address, reserved.values())])
    return _Pool(str(whole), gateway and str(ip_address(gateway)), ip_range, reserved)


def _first_of(ip_range: str, taken: Sequence[object]) -> str:
    """Return the first address of a range, which the gateway takes as in Docker; empty for none."""
    found = (str(address) for address in ip_network(ip_range) if address not in taken)
    return next(found, "")


def _is_part(part: IPv4Network | IPv6Network, whole: IPv4Network | IPv6Network) -> bool:
    return part.network_address in whole and part.broadcast_address in whole


def _subnet(text: str, what: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidArgument(f"invalid {what} {text}: {error}") from None
    raise InvalidArgument(f"invalid {what} {text}: it should be {meant}")


def _inside(text: str, what: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid {what} {text!r}: want an IP address") from None


def _address(text: str, what: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise InvalidArgument(f"invalid {what} {text!r}: want an IPv4 address") from None
