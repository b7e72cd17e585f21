"""Address pools: which subnet, address or port is free."""

from collections.abc import Collection, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from manager.store.view import bare


@lru_cache(maxsize=1 << 17)
def _number(address: str) -> int:
    return int(ip_address(address))


def is_ipv6(text: str) -> bool:
    """Tell the family of an address or prefix."""
    return ":" in text


class AddressPool:
    """The host addresses of one subnet, given out upwards and reused as late as possible."""

    def __init__(
        self, subnet: str, gateway: str, used: Collection[str], ip_range: str = ""
    ) -> None:
        """Without `ip_range`, the part to choose from, it is all of the subnet."""
        network = ip_network(subnet)
        self.is_ipv6 = is_ipv6(subnet)
        self._kind = IPv6Address if self.is_ipv6 else IPv4Address
        self._prefix = network.prefixlen
        self._first = int(network.network_address) + 1
        self._last = int(network.broadcast_address) - 1
        self._used = {_number(a) for a in used if is_ipv6(a) == self.is_ipv6}
        if gateway:
            self._used.add(_number(bare(gateway)))
        part = ip_network(ip_range) if ip_range else network
        self._low = max(self._first, int(part.network_address))
        self._high = min(self._last, int(part.broadcast_address))
        in_range = [a for a in self._used if self._low <= a <= self._high]
        self._next = max(in_range, default=self._low - 1) + 1
        self._is_full = False
        """Known to be: nothing comes back to a pool, so it is looked through in vain but once."""

    def take(self) -> str | None:
        """Return a free address with prefix length, or None when there is none."""
        size = self._high - self._low + 1
        if size <= 0 or self._is_full:
            return None
        for step in range(size):
            candidate = self._low + (self._next - self._low + step) % size
            if candidate not in self._used:
                self._used.add(candidate)
                self._next = candidate + 1
                return f"{self._kind(candidate)}/{self._prefix}"
        self._is_full = True
        return None

    def take_this(self, wanted: str) -> str | None:
        """Return `wanted` with prefix length, or None when it cannot be had."""
        number = _number(wanted)
        foreign = is_ipv6(wanted) != self.is_ipv6 or not self._first <= number <= self._last
        if foreign or number in self._used:
            return None
        self._used.add(number)
        return f"{wanted}/{self._prefix}"


def free_subnet(pools: Iterable[str], prefix: int, used: Iterable[str]) -> str | None:
    """Return the lowest subnet of the pools that overlaps no used one; all are of one family."""
    taken = sorted(
        (int(n.network_address), int(n.broadcast_address)) for n in map(ip_network, used)
    )
    for pool in map(ip_network, pools):
        length = max(prefix, pool.prefixlen)
        size = 1 << (pool.max_prefixlen - length)
        start = int(pool.network_address)
        for low, high in taken:
            if high < start:
                continue
            if low >= start + size:
                break
            start = (high // size + 1) * size
        if start + size - 1 <= int(pool.broadcast_address):
            return f"{type(pool.network_address)(start)}/{length}"
    return None


def overlapping(subnet: str, used: Iterable[str]) -> str | None:
    """Return a used subnet that overlaps `subnet`."""
    wanted = ip_network(subnet)
    same = (u for u in used if is_ipv6(u) == is_ipv6(subnet))
    if isinstance(wanted, IPv6Network):
        return next((u for u in same if wanted.overlaps(IPv6Network(u))), None)
    return next((u for u in same if wanted.overlaps(IPv4Network(u))), None)
