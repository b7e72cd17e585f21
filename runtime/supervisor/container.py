"""What the fork server knows of one container, and its form in the journal."""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.supervisor.health import Health, HealthCheck
from runtime.supervisor.restart import RestartPolicy

_NOT_KEPT = ("pidfd", "master", "netns_fd", "check", "probes")


@dataclass
class Container:
    """State of one container; descriptors are -1 when absent.

    `status` is created, running, paused, restarting (it ended and will be started) or stopped.
    """

    id: str
    status: str
    boot_id: str
    terminal: bool = False
    args: list[str] = field(default_factory=list)
    bpf_key: str = ""
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    stop_asked: bool = False
    restart_count: int = 0
    restart_delay_s: float = 0.0
    next_start_ns: int = 0
    layout: dict[str, Any] | None = None
    """Where its cgroups lie when it asked for a parent of its own: `cgroups.Layout`'s fields."""
    # of the present or last run
    pid: int = 0
    stop_signal: int = signal.SIGTERM
    """What the holder ends it with when the machine shuts down."""
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    health: Health | None = None
    # of this process
    pidfd: int = -1
    master: int = -1
    netns_fd: int = -1
    check: HealthCheck | None = None
    probes: int = 0
    """Which series of probes is the present one."""

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Container:
        """Return the container a journal record tells of."""
        container = cls(**record)
        container.policy = RestartPolicy(**record["policy"])
        if record["health"] is not None:
            container.health = Health(**record["health"])
        return container

    @property
    def has_process(self) -> bool:
        """Whether it runs, may be frozen, or is just being started."""
        return self.status in ("created", "running", "paused")

    def state(self) -> dict[str, Any]:
        """Return the fields of ContainerState."""
        return {
            "container_id": self.id,
            "status": self.status,
            "pid": self.pid if self.has_process else 0,
            "exit_code": self.exit_code,
            "oom_killed": self.oom_killed,
            "started_ns": self.started_ns,
            "finished_ns": self.finished_ns,
            "error": self.error,
            "warnings": self.warnings,
            "restart_count": self.restart_count,
            "stop_asked": self.stop_asked,
            "health": None if self.health is None else asdict(self.health),
        }

    def record(self) -> dict[str, Any]:
        """Return what the journal keeps."""
        fields = {key: value for key, value in self.__dict__.items() if key not in _NOT_KEPT}
        fields["policy"] = asdict(self.policy)
        fields["health"] = None if self.health is None else asdict(self.health)
        return fields
