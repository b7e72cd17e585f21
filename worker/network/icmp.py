"""Which sizes of packets come back from whom: ICMP echoes that must not be fragmented."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_HEADERS_BYTES: Final = 28
_ROUNDS, _ROUND_S = 4, 0.4
_RECEIVE_BYTES: Final = 1 << 20


class Echoed(NamedTuple):
    """The largest packet that came back, 0 for none, and the shortest round trip."""

    largest_bytes: int = 0
    round_trip_s: float = 0.0


async def ladder(addresses: Iterable[str], sizes: Sequence[int]) -> dict[str, Echoed]:
    """Send each address packets of all sizes (bytes of IPv4) and tell which came back.

    Lost ones are sent again, some rounds long. Raises OSError without leave for raw sockets.
    """
    steps = [(address, size) for address in dict.fromkeys(addresses) for size in sizes]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
        icmp.setblocking(False)
        # DF is set, and what was learnt of the path is not believed: it may be what is wrong.
        icmp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        icmp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        found = await _ask(icmp, steps)
    result = dict.fromkeys((address for address, _ in steps), Echoed())
    for (address, size), trip_s in found.items():
        best = result[address]
        shortest = min(trip_s, best.round_trip_s or trip_s)
        result[address] = Echoed(max(size, best.largest_bytes), shortest)
    return result


async def _ask(
    icmp: socket.socket, steps: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], float]:
    loop, ident = asyncio.get_running_loop(), os.urandom(2)
    found: dict[tuple[str, int], float] = {}
    sent_s: dict[int, float] = {}
    complete = asyncio.Event()

    def take() -> None:
        while True:
            try:
                packet, (source, _) = icmp.recvfrom(65535)
            except BlockingIOError:
                return
            number = _answered(packet, ident)
            if number in sent_s and steps[number][0] == source:
                found.setdefault(steps[number], loop.time() - sent_s[number])
                if len(found) == len(steps):
                    complete.set()

    loop.add_reader(icmp, take)
    try:
        for _ in range(_ROUNDS if steps else 0):
            for number, (address, size) in enumerate(steps):
                if (address, size) not in found:
                    sent_s[number] = loop.time()
                    _send(icmp, address, ident, number, size)
            try:
                async with asyncio.timeout(_ROUND_S):
                    await complete.wait()
                break
            except TimeoutError:
                continue
    finally:
        loop.remove_reader(icmp)
    return found


def _send(icmp: socket.socket, address: str, ident: bytes, number: int, size: int) -> None:
    payload = bytes(size - _HEADERS_BYTES)
    body = ident + struct.pack(">H", number) + payload
    checksum = _checksum(struct.pack(">BBH", _ECHO_REQUEST, 0, 0) + body)
    try:
        icmp.sendto(struct.pack(">BBH", _ECHO_REQUEST, 0, checksum) + body, (address, 0))
    except OSError:  # larger than the link, no way there, a full queue: no answer comes
        return


def _answered(packet: bytes, ident: bytes) -> int:
    """Return the number of the echo that a packet answers; -1 for anything else."""
    start = (packet[0] & 15) * 4
    if len(packet) < start + 8 or packet[start] != _ECHO_REPLY:
        return -1
    if packet[start + 4 : start + 6] != ident:
        return -1
    return int.from_bytes(packet[start + 6 : start + 8], "big")


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
