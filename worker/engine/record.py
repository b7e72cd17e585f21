"""What the engine remembers of a container, and the filter by which containers are chosen."""

import asyncio
from typing import Any, TypeVar

import msgspec

from worker.engine.endpoints import EndpointSpec
from worker.engine.spec import ContainerConfig, HostConfig

_T = TypeVar("_T")


class MountPoint(msgspec.Struct, kw_only=True):
    """One resolved mount; `kind` is bind, volume or tmpfs."""

    kind: str
    source: str
    target: str
    name: str = ""
    mode: str = ""
    read_only: bool = False
    propagation: str = ""
    options: list[str] = []
    anonymous: bool = False
    no_copy: bool = False
    """Whether the volume stays empty where the image has files."""
    subpath: str = ""
    """The part of the volume that is mounted."""
    of_host: bool = False
    """Whether the volume shows a directory of the host, whose files have the host's ids."""
    recursion: str = ""
    """Of the mounts below a bind: disabled, or writable or readonly where it is read-only."""

    @property
    def translated(self) -> bool:
        """Whether its files have the container's ids, also where that is in a user namespace."""
        return self.kind == "volume" and not self.of_host


class EndpointState(msgspec.Struct, kw_only=True):
    """Where the running container is in one network."""

    network_id: str
    endpoint_id: str
    address: str
    prefix_length: int
    gateway: str
    mac: str
    driver: str = "bridge"
    ipv6_address: str = ""
    ipv6_prefix_length: int = 0
    ipv6_gateway: str = ""


class Probe(msgspec.Struct, kw_only=True):
    """One run of a health check; -1 is the exit code of what was killed or could not be run."""

    start_ns: int
    end_ns: int
    exit_code: int
    output: str


class Health(msgspec.Struct, kw_only=True):
    """`status` is starting, healthy or unhealthy; `log` holds the last probes, oldest first."""

    status: str
    failing_streak: int
    log: list[Probe]


class ExitStatus(msgspec.Struct, frozen=True):
    """How a container ended; `error` is empty unless it could not be started."""

    code: int
    error: str = ""
    oom_killed: bool = False


class Record(msgspec.Struct, kw_only=True):
    """The durable part of a container, one journal record."""

    id: str
    name: str
    created_ns: int
    image_id: str
    image_config: dict[str, Any]
    config: ContainerConfig
    host: HostConfig
    endpoints: dict[str, EndpointSpec]
    path: str
    args: list[str]
    env: list[str]
    mounts: list[MountPoint] = []
    status: str = "created"
    """created, running, paused, restarting, exited, removing or dead."""
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0
    stopped_by_user: bool = False
    joined: dict[str, EndpointState] = {}
    ports: list[tuple[int, str, str, int]] = []
    """(container port, protocol, host address, host port) as bound."""
    warnings: list[str] = []
    health: Health | None = None
    """None without a health check. As of the last save: the supervisor knows it better."""

    @property
    def running(self) -> bool:
        """Whether it has a process (paused counts)."""
        return self.status in ("running", "paused")

    @property
    def owns_network(self) -> bool:
        """Whether its network namespace is one that networks are plugged into."""
        mode = self.host.network_mode
        return mode not in ("none", "host") and not mode.startswith("container:")

    @property
    def leans_on(self) -> list[str]:
        """The containers, by id or name, that must run for it to start: links, shared namespaces.

        A link is taken as `id:alias`.
        """
        host = self.host
        modes = (host.network_mode, host.pid_mode, host.ipc_mode)
        shared = [mode.partition(":")[2] for mode in modes if mode.startswith("container:")]
        return [link.partition(":")[0] for link in host.links] + shared

    @property
    def alive(self) -> bool:
        """Whether it runs, or will again without anyone's doing."""
        return self.running or self.status == "restarting"

    @property
    def health_status(self) -> str:
        """Its health while it runs; none without a check."""
        return "none" if self.health is None else self.health.status


class Container:
    """A record and what hangs on it while the daemon lives."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        """Held while the container changes state."""
        self.exec_ids: list[str] = []
        self.launches = 0
        """How often this daemon started it: what was said of an earlier run is void."""
        self.networked = False
        """Whether this daemon's network knows it."""
        self.console_size: tuple[int, int] | None = None
        self.exit_waiters: set[asyncio.Future[ExitStatus]] = set()
        self.removal_waiters: set[asyncio.Future[ExitStatus]] = set()
        self.health_waiters: set[asyncio.Future[None]] = set()

    @property
    def exit_status(self) -> ExitStatus:
        """The last end."""
        record = self.record
        return ExitStatus(record.exit_code, record.error, record.oom_killed)

    def announce_exit(self) -> None:
        """Wake everyone who waits for the end of a process."""
        _resolve(self.exit_waiters, self.exit_status)
        self.announce_health()

    def announce_health(self) -> None:
        """Wake everyone who waits for a change of health, which an end is too."""
        _resolve(self.health_waiters, None)

    def announce_removal(self) -> None:
        """Wake everyone who waits for the removal."""
        _resolve(self.exit_waiters, self.exit_status)
        _resolve(self.removal_waiters, self.exit_status)


def _resolve(waiters: set[asyncio.Future[_T]], result: _T) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(result)
    waiters.clear()
