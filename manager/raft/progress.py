"""What a leader knows of one follower: flow control and a snapshot under way."""

from collections import deque
from dataclasses import dataclass


@dataclass
class Transfer:
    """A snapshot on its way to a follower."""

    index: int
    data: bytes
    sent_bytes: int = 0
    acked_bytes: int = 0


class Progress:
    """Appends in flight to one follower.

    Every append carries a sequence that its ack echoes, so a leader can tell an answer to what
    it sent after a reset (`floor`) or after a read began from an older one.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.acked = 0
        self.in_flight: deque[tuple[int, int]] = deque()
        self.in_flight_bytes = 0
        self.probing = True
        self.resting = False
        """Whether it is sent something with heartbeats alone: it holds less than it said."""
        self.floor = 1
        self.transfer: Transfer | None = None
        self.transfer_moved_at = 0.0

    def reset(self) -> None:
        """Forget what is in flight and probe with one append before sending more."""
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self.probing, self.resting = True, False
        self.floor = self.sequence + 1
        self.transfer = None

    def sent(self, size_bytes: int) -> int:
        """Count an append and return its sequence; `size_bytes` 0 is a heartbeat."""
        self.sequence += 1
        if size_bytes:
            self.in_flight.append((self.sequence, size_bytes))
            self.in_flight_bytes += size_bytes
        return self.sequence

    def ack(self, sequence: int) -> None:
        """Note an answer; links keep order, so it answers everything before as well."""
        self.acked = max(self.acked, sequence)
        while self.in_flight and self.in_flight[0][0] <= sequence:
            self.in_flight_bytes -= self.in_flight.popleft()[1]

    def may_send(self, max_messages: int, max_bytes: int) -> bool:
        """Whether another append with entries may leave."""
        if self.transfer is not None or (self.probing and self.in_flight):
            return False
        return len(self.in_flight) < max_messages and self.in_flight_bytes < max_bytes
