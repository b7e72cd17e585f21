"""How long the next attempt at a slot waits: the policy's delay, then ever longer.

Every attempt costs the log a dozen writes. A service that crashes at once would cost it a
thousand a minute; so from the fourth early end in a row on the delay doubles, up to five minutes.
"""

from typing import Final
from zlib import crc32

from swarmapi.model import defaults
from swarmapi.model.objects import Task, TaskState

FREE: Final = 3
"""Early ends in a row that cost no more than the policy's delay."""
LONGEST_NS: Final = 300 * defaults.SECOND_NS
STABLE_NS: Final = LONGEST_NS
"""An attempt that ran so long was no crash: counting begins anew."""


def is_stable(task: Task) -> bool:
    """Tell whether an attempt ran long enough to make its end no crash."""
    return task.running_ns > 0 and task.status.applied_ns - task.running_ns >= STABLE_NS


def early_ends(ended: Task) -> int:
    """Return how many attempts in a row ended early, up to this one; 0 when it was stable."""
    return 0 if is_stable(ended) else ended.early_ends + 1


def restart_delay_ns(policy_delay_ns: int, ended: Task) -> int:
    """Return how long the attempt after `ended` waits.

    A jitter of up to a quarter keeps the replicas of a service from starting in step; it is drawn
    from the task's id, so that every member computes the same. What completes by itself may be
    meant to: it never waits longer than the default delay, or its own.
    """
    doublings = min(early_ends(ended) - FREE, 16)
    if doublings <= 0:
        return policy_delay_ns
    completed = ended.status.state == TaskState.COMPLETE
    longest_ns = max(defaults.RESTART_DELAY_NS if completed else LONGEST_NS, policy_delay_ns)
    wanted_ns = min(max(policy_delay_ns, defaults.SECOND_NS) << doublings, longest_ns)
    extra_ns = wanted_ns - policy_delay_ns
    return policy_delay_ns + extra_ns + extra_ns * (crc32(ended.id.encode()) % 256) // 1024
