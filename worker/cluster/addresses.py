"""Addresses of a node: what users write, and what is chosen when they write nothing."""

import fcntl
import ipaddress
import socket
import struct

from swarmapi.errors import InvalidArgument

CLUSTER_PORT = 2377
_IPV6 = "address {} is IPv6: nodes reach each other by IPv4 alone"
_SIOCGIFADDR = 0x8915
_ANYWHERE = "192.0.2.1"
"""A documentation address (RFC 5737): only the route to it is looked up, nothing is sent."""


def split(text: str, default_port: int = CLUSTER_PORT) -> tuple[str, int]:
    """Return (host, port) of `host[:port]`; raises InvalidArgument."""
    if text.count(":") > 1:
        raise InvalidArgument(_IPV6.format(text))
    host, colon, port = text.strip().rpartition(":")
    if not colon:
        host, port = port, str(default_port)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"address {text!r} must be host:port with an IPv4 address or name")
    return host, int(port)


def source_address(towards: str = _ANYWHERE, port: int = CLUSTER_PORT) -> str:
    """Return this machine's IPv4 address on the route to a host; empty when there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, port))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def resolve(text: str) -> str:
    """Return the IPv4 address of an address or of an interface of this machine.

    Raises:
        InvalidArgument: when it is neither, or the unspecified address.
    """
    if ":" in text:
        raise InvalidArgument(_IPV6.format(text))
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return _interface_address(text)
    if address.is_unspecified:
        raise InvalidArgument(f"address {text} names no machine: give an address others can reach")
    return str(address)


def _interface_address(name: str) -> str:
    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, request)
        except OSError:
            raise InvalidArgument(
                f"{name!r} is neither an IPv4 address nor an interface with one"
            ) from None
    return socket.inet_ntoa(answer[20:24])


def advertised(
    wanted: str, listen: str, towards: str = _ANYWHERE, towards_port: int = CLUSTER_PORT
) -> str:
    """Return `address:port` that other nodes reach this one at.

    Takes, in this order: what is wanted, what is listened on, the address of the route
    `towards` a host.

    Raises:
        InvalidArgument: when no address can be chosen.
    """
    listen_host, listen_port = split(listen)
    if wanted:
        host, port = split(wanted, listen_port)
        return f"{resolve(host)}:{port}"
    if listen_host != "0.0.0.0":
        return f"{resolve(listen_host)}:{listen_port}"
    host = source_address(towards, towards_port)
    if not host:
        raise InvalidArgument(
            "could not choose an IP address to advertise: no route leads out; give --advertise-addr"
        )
    return f"{host}:{listen_port}"


def listening(wanted: str) -> str:
    """Return `address:port` to listen on; an interface's name stands for its address."""
    host, port = split(wanted or f"0.0.0.0:{CLUSTER_PORT}")
    return f"{host if host == '0.0.0.0' else resolve(host)}:{port}"
