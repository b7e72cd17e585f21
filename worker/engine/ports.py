"""What the engine needs from the runtime and the network, as small Protocols.

The real ones are `runtime.client.Supervisor` and those of `worker.network`; the fakes live
in `tests/fakes/engine.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from runtime.oci import ContainerState, Launch
from runtime.supervisor.ids import IdMap
from runtime.supervisor.restart import RestartPolicy
from worker.engine.endpoints import EndpointSpec


class ExecProcess(Protocol):
    """A further process in a container; `master_fd` is -1 without a terminal."""

    @property
    def pid(self) -> int: ...
    @property
    def master_fd(self) -> int: ...
    async def wait(self) -> int: ...
    async def resize(self, rows: int, cols: int) -> None: ...
    def signal(self, number: int) -> None: ...
    def close(self) -> None: ...


class Attachment(Protocol):
    """The live streams of a container: yields (stdout or stderr, bytes) until its end."""

    def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]: ...
    async def write(self, data: bytes) -> None: ...
    async def close_stdin(self) -> None: ...
    async def close(self) -> None: ...


class Supervisor(Protocol):
    """The owner of every container of the machine."""

    async def start(self, launch: Launch, *, netns_fd: int | None = None) -> ContainerState: ...
    async def new_netns(self, ids: IdMap, joined_pid: int = 0) -> int: ...
    async def exec(
        self, container_id: str, process: dict[str, Any], stdio: tuple[int, int, int] | None
    ) -> ExecProcess: ...
    async def kill(
        self, container_id: str, signal: int, *, everyone: bool = False, final: bool = False
    ) -> None: ...
    async def set_restart(self, container_id: str, restart: RestartPolicy) -> None: ...
    async def pause(self, container_id: str) -> None: ...
    async def resume(self, container_id: str) -> None: ...
    async def update(self, container_id: str, resources: dict[str, Any]) -> None: ...
    async def wait(self, container_id: str) -> ContainerState: ...
    async def delete(self, container_id: str, *, force: bool = False) -> None: ...
    async def resize(self, container_id: str, rows: int, cols: int) -> None: ...
    async def attach(self, container_id: str) -> Attachment: ...
    async def stats(self, container_id: str) -> Mapping[str, Any]: ...
    async def processes(self, container_id: str) -> Sequence[int]: ...
    async def strangers(self, *, end: bool) -> Sequence[str]: ...
    async def list(self) -> list[ContainerState]: ...
    def subscribe(self) -> asyncio.Queue[ContainerState]: ...
    async def close(self) -> None: ...


@dataclass(frozen=True)
class JoinedEndpoint:
    """The place of a container in one network."""

    network: str
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


@dataclass(frozen=True)
class Joined:
    """A configured network namespace and what is in it; the caller closes `netns_fd`."""

    netns_fd: int
    endpoints: tuple[JoinedEndpoint, ...]
    ports: tuple[tuple[int, str, str, int], ...] = ()
    """(container port, protocol, host address, host port) as bound."""


class PortWish(NamedTuple):
    """A port to publish."""

    container_port: int
    protocol: str
    host_ip: str = ""
    """Empty: as the network has it, in general every address."""
    host_port: int = 0
    """0: any free one."""
    host_port_last: int = 0
    """Above `host_port`: the first free one of the range."""


@dataclass(frozen=True)
class JoinRequest:
    """What `Networking.join` is to build for one container."""

    container_id: str
    name: str
    names: tuple[str, ...]
    """What it answers to besides its name and its aliases."""
    networks: Mapping[str, EndpointSpec] = field(default_factory=dict)
    """By the network's name or id."""
    ports: tuple[PortWish, ...] = ()
    dns: tuple[str, ...] = ()
    netns_fd: int = -1
    """The namespace to be configured, the caller's; -1: a new one."""


@dataclass(frozen=True)
class NetworkInfo:
    """One network of this machine."""

    id: str
    name: str
    driver: str
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    reserved: dict[str, str] = field(default_factory=dict)
    """Docker's AuxiliaryAddresses: name → address that is never handed out."""
    internal: bool = False
    attachable: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    created_ns: int = 0
    scope: str = "local"
    ipv4: bool = True
    ipv6: bool = False
    ipv6_subnet: str = ""
    ipv6_gateway: str = ""
    ipv6_range: str = ""
    allotted: tuple[int, ...] = ()
    """The IP versions whose subnet nobody asked for: no address of it can be asked for, either."""

    def subnets(self) -> tuple[str, ...]:
        """Return its subnets that are known."""
        return tuple(filter(None, (self.subnet, self.ipv6_subnet)))


class Networking(Protocol):
    """Namespaces with addresses, and their end."""

    async def open(self, networks: Sequence[NetworkInfo]) -> None:
        """Say which user-defined networks there are; they are made when they are needed."""
        ...

    async def create(self, network: NetworkInfo) -> NetworkInfo:
        """Make a network and return it with subnet and gateway."""
        ...

    async def remove(self, network_id: str) -> None:
        """Take a network away; Conflict while a container is on it."""
        ...

    async def connect(self, request: JoinRequest) -> JoinedEndpoint:
        """Put a running container on the one network of the request."""
        ...

    async def disconnect(self, container_id: str, network_id: str) -> None:
        """Take a running container off a network."""
        ...

    async def rename(self, request: JoinRequest) -> None:
        """Let a running container answer to other names."""
        ...

    async def find(self, reference: str) -> NetworkInfo:
        """Return a network of the cluster, known here or not; NotFound when there is none."""
        ...

    async def host_gateway(self) -> str:
        """Return the address by which every container reaches the host."""
        ...

    async def join(self, request: JoinRequest) -> Joined: ...
    async def rejoin(
        self, request: JoinRequest, pid: int, endpoints: Sequence[JoinedEndpoint]
    ) -> None: ...
    async def leave(self, container_id: str) -> None: ...
    async def connections(self, container_id: str, addresses: Sequence[str]) -> int:
        """Return how many TCP connections to these addresses of a container are open."""
        ...

    async def kept(self) -> Sequence[str]:
        """Return the ids of all containers that this or an earlier daemon let in."""
        ...

    def networks(self) -> Sequence[NetworkInfo]: ...
    async def close(self) -> None: ...


class Clock(Protocol):
    """Time, so that tests have their own."""

    def now_ns(self) -> int: ...
    async def sleep(self, seconds: float) -> None: ...
