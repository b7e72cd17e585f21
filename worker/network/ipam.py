"""Addresses of this machine's own networks. Pure."""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network

from worker.network.attachments import NetworkError

LOCAL_PREFIX = 16


def choose_subnet(pool: str, taken: Iterable[str]) -> str:
    """Return the first subnet of `pool` that overlaps none of `taken`.

    `pool` is one prefix or several, separated by commas; `192.168.0.0/16:20` is cut into /20,
    without the colon into /16. Raises NetworkError when it is used up.
    """
    used = [IPv4Network(item) for item in taken]
    for part in pool.split(","):
        prefix, _, size = part.strip().partition(":")
        whole = IPv4Network(prefix)
        for subnet in whole.subnets(new_prefix=max(int(size or LOCAL_PREFIX), whole.prefixlen)):
            if not any(subnet.overlaps(other) for other in used):
                return str(subnet)
    raise NetworkError(f"no free subnet in the pool {pool}: give --subnet or a larger pool")


def check_subnet(subnet: str, taken: Iterable[str]) -> IPv4Network:
    """Return the parsed subnet; NetworkError if it is malformed or overlaps another's."""
    try:
        network = IPv4Network(subnet)
    except ValueError as error:
        raise NetworkError(f"invalid subnet {subnet}: {error}") from error
    if network.prefixlen > 30:
        raise NetworkError(f"subnet {subnet} is too small: at least a /30 is needed")
    for other in taken:
        if network.overlaps(IPv4Network(other)):
            raise NetworkError(f"subnet {subnet} overlaps {other}: choose another")
    return network


class AddressPool:
    """The addresses of one subnet; hands them out in ascending order and reuses the longest free.

    Always moving on before reusing keeps a stopped container's address out of sight for long.
    """

    def __init__(
        self, subnet: str, gateway: str, ip_range: str = "", reserved: Iterable[str] = ()
    ) -> None:
        self.network = IPv4Network(subnet)
        self.gateway = IPv4Address(gateway) if gateway else self.network.network_address + 1
        self._range = IPv4Network(ip_range) if ip_range else self.network
        if self.gateway not in self.network:
            raise NetworkError(f"gateway {gateway} is not in subnet {subnet}")
        if not self._range.subnet_of(self.network):
            raise NetworkError(f"ip range {ip_range} is not in subnet {subnet}")
        self._reserved = {IPv4Address(address) for address in reserved}
        self._taken: set[IPv4Address] = set()
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
            address = IPv4Address(first + (self._next - first + step) % size)
            if self._usable(address):
                self._next = int(address) + 1
                self._taken.add(address)
                return str(address)
        raise NetworkError(f"no free address in {self._range}: remove containers or widen it")

    def _take_wanted(self, wanted: str) -> str:
        try:
            address = IPv4Address(wanted)
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
        self._taken.discard(IPv4Address(address))

    def _usable(self, address: IPv4Address) -> bool:
        edges = (self.network.network_address, self.network.broadcast_address, self.gateway)
        return address not in edges and address not in self._taken | self._reserved
