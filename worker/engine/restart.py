"""When a container that ended is started again, and after how long (Docker's rules)."""

from worker.engine.spec import RestartPolicy

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 60.0
PROVEN_S = 10.0
"""A container that ran this long starts over with the shortest delay."""


def should_restart(
    policy: RestartPolicy, exit_code: int, restart_count: int, *, stopped_by_user: bool
) -> bool:
    """Tell whether a container that ended by itself or by the user is to run again."""
    if stopped_by_user:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name != "on-failure" or exit_code == 0:
        return False
    return policy.maximum_retry_count == 0 or restart_count < policy.maximum_retry_count


def should_start_at_boot(policy: RestartPolicy, exit_code: int, *, stopped_by_user: bool) -> bool:
    """Tell whether a container found dead when the daemon starts is to run again."""
    if policy.name == "always":
        return True
    return should_restart(policy, exit_code, 0, stopped_by_user=stopped_by_user)


def next_delay_s(previous_s: float, ran_s: float) -> float:
    """Return the pause before the next start: doubling from 100 ms to one minute."""
    if previous_s <= 0 or ran_s >= PROVEN_S:
        return FIRST_DELAY_S
    return min(previous_s * 2, LONGEST_DELAY_S)
