"""What IPv4 and IPv6 differ in for a ruleset. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from worker.network import nftexpr as nx

_SCRATCH: Final = 16  # NFT_REG32_08: behind every key that is built
_NEXT_AFTER: Final = 4


@dataclass(frozen=True)
class Family:
    """One address family in packets, registers and sets."""

    number: int
    """Of the sockets and, the same, of nf_tables."""
    size: int
    """Of an address, in bytes."""
    source_at: int
    destination_at: int
    address_type: int
    unreachable: bytes
    """ICMP's code of an unreachable port."""
    asked_address: int
    """Conntrack's key of a destination."""

    def pack(self, address: str) -> bytes:
        """Return an address as registers hold it."""
        return ip_address(address).packed

    def of(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """Return those of some addresses, or prefixes, that are of this family."""
        return tuple(a for a in addresses if a and (":" in a) == (self.size == 16))

    def behind(self, register: int) -> int:
        """Return the 32-bit register behind an address in `register`."""
        return register + self.size // _NEXT_AFTER

    def load_source(self, register: int = nx.REG_1) -> bytes:
        """Load the source address."""
        return nx.load_payload(register, 1, self.source_at, self.size)

    def load_destination(self, register: int = nx.REG_1) -> bytes:
        """Load the destination address."""
        return nx.load_payload(register, 1, self.destination_at, self.size)

    def from_subnet(self, subnet: str) -> bytes:
        """Go on only with a source in `subnet`."""
        network = ip_network(subnet)
        return (
            self.load_source()
            + nx.masked(nx.REG_1, network.netmask.packed)
            + nx.equal(nx.REG_1, network.network_address.packed)
        )

    def source_slot(self, register: int, slots: int) -> bytes:
        """Load the slot number below `slots` that belongs to the source address.

        It is jhash with a seed of zero, so every node answers the same.
        """
        return self.load_source(_SCRATCH) + nx.hashed(register, _SCRATCH, self.size, slots)

    def dnat(self, address: int, port: int | None = None) -> bytes:
        """Rewrite the destination from registers."""
        return nx.dnat(self.number, address, port)

    def snat(self, address: int, port_low: int, port_high: int) -> bytes:
        """Rewrite the source from registers, the port within an inclusive range."""
        return nx.snat(self.number, address, port_low, port_high)

    def reject(self) -> bytes:
        """Answer with ICMP port unreachable."""
        return nx.reject_unreachable(self.unreachable)


IPV4: Final = Family(nx.FAMILY_IPV4, 4, 12, 16, nx.TYPE_IPV4, b"\3", nx.CT_DESTINATION_IPV4)
IPV6: Final = Family(nx.FAMILY_IPV6, 16, 8, 24, nx.TYPE_IPV6, b"\4", nx.CT_DESTINATION_IPV6)
