"""How many may be at the door of the API on TCP before they have shown who they are."""

from collections import Counter
from ipaddress import ip_address
from typing import Final

MOST: Final = 1024
MOST_OF_SOURCE: Final = 128


class Strangers:
    """Counts who is let in unknown, in all and by source: one source leaves others room.

    A source is an IPv4 address or an IPv6 /64, which is what one machine may have to itself.
    """

    def __init__(self, most: int = MOST, most_of_source: int = MOST_OF_SOURCE) -> None:
        self._most, self._most_of_source = most, most_of_source
        self._of: Counter[str] = Counter()
        self._count = 0

    def refusal(self, source: str) -> str:
        """Return why one more of a source is not let in, empty where it may come."""
        count = self._of[_whose(source)]
        if count >= self._most_of_source:
            return f"{count} connections of its address have shown nothing yet"
        if self._count >= self._most:
            return f"{self._count} connections have shown nothing yet"
        return ""

    def came(self, source: str) -> None:
        """Count one in."""
        self._of[_whose(source)] += 1
        self._count += 1

    def went(self, source: str) -> None:
        """Count one out: it is known now, or gone."""
        self._count -= 1
        whose = _whose(source)
        self._of[whose] -= 1
        if not self._of[whose]:
            del self._of[whose]


def _whose(source: str) -> str:
    try:
        address = ip_address(source)
    except ValueError:
        return source
    if address.version == 4:
        return source
    return str(address.ipv4_mapped or address.packed[:8].hex())
