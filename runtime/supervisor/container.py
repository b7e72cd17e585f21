"""What the fork server knows of one container, and its form in the journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Container:
    """State of one container; descriptors are -1 when absent."""

    id: str
    status: str
    pid: int
    started_ns: int
    tasks: list[str]
    bpf_key: str
    terminal: bool
    boot_id: str
    finished_ns: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    pidfd: int = -1
    master: int = -1
    args: list[str] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Return the fields of ContainerState."""
        return {
            "container_id": self.id,
            "status": self.status,
            "pid": self.pid if self.status != "stopped" else 0,
            "exit_code": self.exit_code,
            "oom_killed": self.oom_killed,
            "started_ns": self.started_ns,
            "finished_ns": self.finished_ns,
            "error": self.error,
            "warnings": self.warnings,
        }

    def record(self) -> dict[str, Any]:
        """Return what the journal keeps."""
        fields = dict(self.__dict__)
        del fields["pidfd"], fields["master"]
        return fields
