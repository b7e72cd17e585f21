"""Addresses of this machine's own networks. Pure."""

import hashlib
from collections.abc import Collection, Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from worker.network.attachments import NetworkError

LOCAL_PREFIX = 16
IpNetwork = IPv4Network | IPv6Network
IpAddress = IPv4Address | IPv6Address


def choose_subnet(pool: str, taken: Iterable[str]) -> str:
    """Return the first subnet of `pool` that overlaps none of `taken`.

    `pool` is one prefix or several, separated by commas; `192.168.0.0/16:20` is cut into /20,
    without the colon into /16. Raises NetworkError when it is used up.
    """
    used = [ip_network(item) for item in taken if ":" not in item]
    for part in pool.split(","):
        prefix, _, size = part.strip().partition(":")
        whole = ip_network(prefix)
        for subnet in whole.subnets(new_prefix=max(int(size or LOCAL_PREFIX), whole.prefixlen)):
            if not any(_overlap(subnet, other) for other in used):
                return str(subnet)
    raise NetworkError(f"no free subnet in the pool {pool}: give --subnet or a larger pool")


def choose_ipv6_subnet(seed: str, taken: Iterable[str]) -> str:
    """Return the first /64 of a seed's unique local addresses (RFC 4193) that is not taken."""
    whole = IPv6Network((b"\xfd" + hashlib.sha256(seed.encode()).digest()[:5] + bytes(10), 48))
    used = [ip_network(item) for item in taken]
    for subnet in whole.subnets(new_prefix=64):
        if not any(_overlap(subnet, other) for other in used):
            return str(subnet)
    raise NetworkError(f"no free subnet in {whole}: give --subnet")


def _overlap(one: IpNetwork, other: IpNetwork) -> bool:
    if isinstance(one, IPv6Network):
        return isinstance(other, IPv6Network) and one.overlaps(other)
    return not isinstance(other, IPv6Network) and one.overlaps(other)


def check_subnet(subnet: str, taken: Iterable[str]) -> IpNetwork:
    """Return the parsed subnet; NetworkError if it is malformed or overlaps another's."""
    try:
        network = ip_network(subnet)
    except ValueError as error:
        raise NetworkError(f"invalid subnet {subnet}: {error}") from error
    largest = network.max_prefixlen - 2
    if network.prefixlen > largest:
        raise NetworkError(f"subnet {subnet} is too small: at least a /{largest} is needed")
    for other in taken:
        if _overlap(network, ip_network(other)):
            raise NetworkError(f"subnet {subnet} overlaps {other}: choose another")
    return network


class AddressPool:
    """The addresses of one subnet; hands them out in ascending order and reuses the longest free.

    Always moving on before reusing keeps a stopped container's address out of sight for long.
    """

    def __init__(
        self, subnet: str, gateway: str, ip_range: str = "", reserved: Iterable[str] = ()
    ) -> None:
        self.network = ip_network(subnet)
        self.gateway = ip_address(gateway) if gateway else self.network.network_address + 1
        self._range = ip_network(ip_range) if ip_range else self.network
        if self.gateway not in self.network:
            raise NetworkError(f"gateway {gateway} is not in subnet {subnet}")
        edges = (self._range.network_address, self._range.broadcast_address)
        if not all(edge in self.network for edge in edges):
            raise NetworkError(f"ip range {ip_range} is not in subnet {subnet}")
        self._reserved = {ip_address(address) for address in reserved}
        self._taken: set[IpAddress] = set()
        self._next = int(self._range.network_address)

    @property
    def taken(self) -> Collection[str]:
        """Addresses handed out."""
        return {str(address) for address in self._taken}

    def take(self, wanted: str | None = None) -> str:
        """Return `wanted`, or a free address; NetworkError if it is in use or none is left."""
        if wanted is not None:
            return self._take_wanted(wanted)
        first, size = int(self._range.network_address), self._range.num_addresses
        for step in range(size):
            address = self.network[
                first - int(self.network[0]) + (self._next - first + step) % size
            ]
            if self._usable(address):
                self._next = int(address) + 1
                self._taken.add(address)
                return str(address)
        raise NetworkError(f"no free address in {self._range}: remove containers or widen it")

    def _take_wanted(self, wanted: str) -> str:
        try:
            address = ip_address(wanted)
        except ValueError as error:
            raise NetworkError(f"invalid address {wanted}: {error}") from error
        if address not in self.network:
            raise NetworkError(f"address {wanted} is not in subnet {self.network}")
        if not self._usable(address):
            raise NetworkError(f"address {wanted} is in use or reserved in {self.network}")
        self._taken.add(address)
        return str(address)

    def release(self, address: str) -> None:
        """Give an address back."""
        self._taken.discard(ip_address(address))

    def _usable(self, address: IpAddress) -> bool:
        edges = (self.network.network_address, self.network.broadcast_address, self.gateway)
        return address not in edges and address not in self._taken and address not in self._reserved
