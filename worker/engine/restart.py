"""Which containers are started with the daemon; ends under it are the supervisor's to judge."""

from runtime.supervisor.restart import RestartPolicy, should_restart


def should_start_at_boot(
    policy: RestartPolicy, exit_code: int, restart_count: int, *, stopped_by_user: bool
) -> bool:
    """Tell whether a container whose end nobody saw is to run again (Docker's rules)."""
    if policy.name == "always":
        return True
    return not stopped_by_user and should_restart(policy, exit_code, restart_count)
