"""Address pools: which subnet, address or port is free."""

from collections.abc import Collection, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from manager.store.view import bare


@lru_cache(maxsize=1 << 17)
def _number(address: str) -> int:
    return int(IPv4Address(address))


class AddressPool:
    """The host addresses of one subnet, given out upwards and reused as late as possible."""

    def __init__(
        self, subnet: str, gateway: str, used: Collection[str], ip_range: str = ""
    ) -> None:
        """Without `ip_range`, the part to choose from, it is all of the subnet."""
        network = IPv4Network(subnet)
        self._prefix = network.prefixlen
        self._first = int(network.network_address) + 1
        self._last = int(network.broadcast_address) - 1
        self._used = {_number(a) for a in used}
        if gateway:
            self._used.add(int(IPv4Address(bare(gateway))))
        part = IPv4Network(ip_range) if ip_range else network
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
                return f"{IPv4Address(candidate)}/{self._prefix}"
        self._is_full = True
        return None

    def take_this(self, wanted: str) -> str | None:
        """Return `wanted` with prefix length, or None when it cannot be had."""
        number = _number(wanted)
        if not self._first <= number <= self._last or number in self._used:
            return None
        self._used.add(number)
        return f"{wanted}/{self._prefix}"


def free_subnet(pools: Iterable[str], prefix: int, used: Iterable[str]) -> str | None:
    """Return the lowest subnet of the pools that overlaps no used one."""
    taken = sorted(
        (int(n.network_address), int(n.broadcast_address)) for n in map(IPv4Network, used)
    )
    for pool in map(IPv4Network, pools):
        length = max(prefix, pool.prefixlen)
        size = 1 << (32 - length)
        start = int(pool.network_address)
        for low, high in taken:
            if high < start:
                continue
            if low >= start + size:
                break
            start = (high // size + 1) * size
        if start + size - 1 <= int(pool.broadcast_address):
            return f"{IPv4Address(start)}/{length}"
    return None


def overlapping(subnet: str, used: Iterable[str]) -> str | None:
    """Return a used subnet that overlaps `subnet`."""
    wanted = IPv4Network(subnet)
    return next((u for u in used if wanted.overlaps(IPv4Network(u))), None)
