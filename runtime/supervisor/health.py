"""What the results of a container's health check make of it (Docker's rules); pure.

A container is `starting` until its check first succeeds or has failed `retries` times in a row.
Failures within the start period do not count, unless it was healthy before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LOG_LENGTH = 5
OUTPUT_BYTES = 4096
TIMED_OUT = -1
"""The exit code of a probe that was killed or could not be run."""


@dataclass(frozen=True)
class HealthCheck:
    """How to ask a container for its health: an OCI process and when to run it."""

    process: dict[str, Any]
    interval_s: float = 30.0
    timeout_s: float = 30.0
    start_period_s: float = 0.0
    start_interval_s: float = 5.0
    retries: int = 3


@dataclass
class Health:
    """`status` is starting, healthy or unhealthy; `log` holds the last probes, oldest first.

    An entry has start_ns, end_ns, exit_code and output.
    """

    status: str = "starting"
    failing_streak: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)

    def pause_s(self, check: HealthCheck, ran_s: float) -> float:
        """Return the pause before the next probe of a container that has run for `ran_s`."""
        if self.status == "starting" and ran_s < check.start_period_s:
            return check.start_interval_s
        return check.interval_s

    def probed(self, check: HealthCheck, ran_s: float, entry: dict[str, Any]) -> None:
        """Take the result of a probe that began when the container had run for `ran_s`."""
        self.log = [*self.log, entry][-LOG_LENGTH:]
        if entry["exit_code"] == 0:
            self.status, self.failing_streak = "healthy", 0
        elif self.status != "starting" or ran_s >= check.start_period_s:
            self.failing_streak += 1
            if self.failing_streak >= check.retries:
                self.status = "unhealthy"


def output_of(raw: bytes, timed_out_after_s: float | None) -> str:
    """Return a probe's output as it is shown: cut, and with the reason of a forced end."""
    text = raw[:OUTPUT_BYTES].decode("utf-8", "replace")
    if len(raw) > OUTPUT_BYTES:
        text += "..."
    if timed_out_after_s is None:
        return text
    reason = f"Health check exceeded timeout ({timed_out_after_s:g}s)"
    return f"{reason}: {text}" if text else reason
