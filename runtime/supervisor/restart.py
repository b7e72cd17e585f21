"""When a container that ended is started again, and after how long (Docker's rules); pure."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 60.0
PROVEN_S = 10.0
"""A container that ran this long starts over with the shortest delay."""


@dataclass(frozen=True)
class RestartPolicy:
    """`name` is no, always, unless-stopped or on-failure; 0 retries are without limit."""

    name: str = "no"
    max_retries: int = 0


def should_restart(policy: RestartPolicy, exit_code: int, restart_count: int) -> bool:
    """Tell whether a container that nobody asked to stop is to run again."""
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name != "on-failure" or exit_code == 0:
        return False
    return policy.max_retries == 0 or restart_count < policy.max_retries


def next_delay_s(previous_s: float, ran_s: float) -> float:
    """Return the pause before the next start: doubling from 100 ms to one minute."""
    if previous_s <= 0 or ran_s >= PROVEN_S:
        return FIRST_DELAY_S
    return min(previous_s * 2, LONGEST_DELAY_S)
