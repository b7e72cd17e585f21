"""Which nodes are heard from. Pure: monotonic time comes in as an argument."""

from dataclasses import dataclass
from typing import Final

MISSED: Final = 3
"""Beats that may be missed before a node counts as silent."""
LOST_AFTER: Final = 0.25
"""Periods between silent (UNKNOWN) and lost (DOWN): time for a broken stream to come back."""
NEW_LEADER_GRACE: Final = 2
_SMALL, _LARGE = 100, 1_000
_SLOWEST_FACTOR: Final = 5.0


def beat_period_s(base_s: float, nodes: int) -> float:
    """Return the period for a cluster's size: `base_s` up to 100 nodes, five times at 1,000."""
    share = min(1.0, max(0.0, (nodes - _SMALL) / (_LARGE - _SMALL)))
    return base_s * (1 + share * (_SLOWEST_FACTOR - 1))


@dataclass
class _Heard:
    last_s: float
    period_s: float
    """What the node was told; a later setting reaches it with its next session."""
    grace: float = 1
    told: str = ""


class Liveness:
    """Remembers when each node was last heard; `expired` tells each step down once."""

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}
        self._next_tick_s: float | None = None

    def lead(self, node_ids: list[str], now_s: float, period_s: float) -> None:
        """Begin as a new leader: every node gets double the time to find us."""
        self._heard = {i: _Heard(now_s, period_s, NEW_LEADER_GRACE) for i in node_ids}
        self._next_tick_s = None

    def register(self, node_id: str, now_s: float, period_s: float) -> None:
        """A session begins."""
        self._heard[node_id] = _Heard(now_s, period_s)

    def expect(self, node_id: str, now_s: float, period_s: float) -> None:
        """A node joined: it has double the time for its first session."""
        self._heard.setdefault(node_id, _Heard(now_s, period_s, NEW_LEADER_GRACE))

    def beat(self, node_id: str, now_s: float) -> None:
        """A node was heard."""
        heard = self._heard.get(node_id)
        if heard is not None:
            heard.last_s = now_s
            heard.told = ""

    def forget(self, node_id: str) -> None:
        """A node was removed."""
        self._heard.pop(node_id, None)

    def tick(self, now_s: float, every_s: float) -> None:
        """Note that the loop runs; what it is late by is forgiven to every node."""
        if self._next_tick_s is not None and now_s > self._next_tick_s:
            late_s = now_s - self._next_tick_s
            for heard in self._heard.values():
                heard.last_s = min(now_s, heard.last_s + late_s)
        self._next_tick_s = now_s + every_s

    def expired(self, now_s: float) -> list[tuple[str, str]]:
        """Return (node id, `unknown` or `down`) for nodes that just became that silent."""
        result = []
        for node_id, heard in sorted(self._heard.items()):
            silent_s = now_s - heard.last_s
            allowed_s = MISSED * heard.period_s * heard.grace
            if silent_s > allowed_s + LOST_AFTER * heard.period_s:
                state = "down"
            elif silent_s > allowed_s:
                state = "unknown"
            else:
                continue
            if state != heard.told:
                heard.told = state
                result.append((node_id, state))
        return result
