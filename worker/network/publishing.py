"""Published ports of the node: which addresses a binding means, and sockets that hold them."""

import errno
import socket
from collections.abc import MutableSequence, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Protocol

from worker.network import netns
from worker.network.attachments import AttachedEndpoint, NetworkError, PortBinding, PortTaken
from worker.network.local import is_carried
from worker.network.netlink import family_of

_FREE_PORTS_TRIED = 16


class Closable(Protocol):
    """What holds a port."""

    def close(self) -> None:
        """Give it back."""
        ...


def per_family(binding: PortBinding, inside: AttachedEndpoint) -> tuple[PortBinding, ...]:
    """Return a binding for each family that leads into a container.

    Raises:
        NetworkError: when the address asked for is of a family the container does not have.
    """
    if binding.protocol not in ("tcp", "udp"):
        raise NetworkError(f"protocol {binding.protocol} cannot be published: use tcp or udp")
    if not binding.host_ip:
        everywhere = (("0.0.0.0", inside.address), ("::", inside.ipv6_address))
        return tuple(replace(binding, host_ip=host) for host, found in everywhere if found)
    is_ipv6 = ":" in binding.host_ip
    if not (inside.ipv6_address if is_ipv6 else inside.address):
        family, flag = ("IPv6", "--ipv6") if is_ipv6 else ("IPv4", "IPv4")
        raise NetworkError(
            f"cannot publish on {binding.host_ip}: the container has no {family} address:"
            f" put it on a network made with {flag}"
        )
    return (replace(binding, host_ip=str(ip_address(binding.host_ip))),)


def hold(node_fd: int, bindings: Sequence[PortBinding]) -> list[socket.socket]:
    """Hold one port of the node, the same for all `bindings`, so that no other program takes it.

    Nothing listens on it: packets are rewritten before they would reach it. Raises
    PortTaken when it, or every one of its range, is in use; NetworkError when an address
    is not this node's.
    """
    asked = bindings[0]
    first, last = asked.host_port, max(asked.host_port, asked.host_port_last)
    refused = asked
    for port in range(first, last + 1):
        # A free port of one family may be taken in the other: then another free one.
        for _ in range(1 if port else _FREE_PORTS_TRIED):
            held, taken = _hold_all(node_fd, bindings, port)
            if taken is None:
                return held
            refused = taken
    where = f"{_shown(refused.host_ip)}:{first}"
    where += f"-{last}" if last > first else ""
    raise PortTaken(f"Bind for {where} failed: port is already allocated")


def _hold_all(
    node_fd: int, bindings: Sequence[PortBinding], port: int
) -> tuple[list[socket.socket], PortBinding | None]:
    """Return the sockets, or none and the binding whose port is taken."""
    held: list[socket.socket] = []
    try:
        for binding in bindings:
            holder = _bind(node_fd, binding, port)
            if holder is None:
                close_all(held)
                return [], binding
            held.append(holder)
            port = holder.getsockname()[1]
    except BaseException:
        close_all(held)
        raise
    return held, None


def _bind(node_fd: int, binding: PortBinding, port: int) -> socket.socket | None:
    kind = socket.SOCK_STREAM if binding.protocol == "tcp" else socket.SOCK_DGRAM
    family = family_of(binding.host_ip)
    holder = netns.inside(node_fd, lambda: socket.socket(family, kind))
    try:
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listens = kind == socket.SOCK_STREAM and is_carried(binding)
        # Connections of the port's former holder may be in TIME_WAIT still; listening keeps it.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, listens)
        holder.bind((binding.host_ip, port))
        if listens:
            holder.listen()
    except OSError as error:
        holder.close()
        if error.errno == errno.EADDRINUSE:
            return None
        where = f"{_shown(binding.host_ip)}:{port}/{binding.protocol}"
        raise NetworkError(f"cannot publish {where}: {error.strerror}") from error
    return holder


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def close_all(held: MutableSequence[socket.socket] | MutableSequence[Closable]) -> None:
    """Give ports back."""
    for holder in held:
        holder.close()
    held.clear()
