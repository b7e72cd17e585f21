"""Fakes of what the engine stands on: a supervisor without processes, a network, a clock."""

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runtime.errors import BadStatus, NoSuchContainer, StartFailed, SysError
from runtime.oci import ContainerState, Launch
from runtime.supervisor.ids import IdMap
from runtime.supervisor.restart import RestartPolicy, should_restart
from swarmapi.errors import NotFound
from worker.engine.networks import BRIDGE_ID, HOST_ID, NONE_ID
from worker.engine.ports import (
    ExecProcess,
    Joined,
    JoinedEndpoint,
    JoinRequest,
    NetworkInfo,
)


class FakeClock:
    """Time that moves only when told; a sleep returns at once and is remembered."""

    def __init__(self) -> None:
        self.at_ns = 1_000_000_000_000
        self.slept: list[float] = []

    def now_ns(self) -> int:
        """Return the set time, one nanosecond later at each call."""
        self.at_ns += 1
        return self.at_ns

    async def sleep(self, seconds: float) -> None:
        """Remember the wish and go on."""
        self.slept.append(seconds)
        await asyncio.sleep(0)


class FakeExecProcess:
    """A process that ends by SIGKILL alone; its pid is none that can be."""

    pid = 1 << 23
    master_fd = -1

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def wait(self) -> int:
        """Return once it was killed."""
        await self.ended.wait()
        return 137

    async def resize(self, rows: int, cols: int) -> None:
        """Do nothing."""

    def signal(self, number: int) -> None:
        """End by SIGKILL."""
        if number == signal.SIGKILL:
            self.ended.set()

    def close(self) -> None:
        """Do nothing."""


class FakeAttachment:
    """Output put by the test, input remembered."""

    def __init__(self) -> None:
        self.output: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self.written = b""
        self.stdin_closed = False

    async def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        while (item := await self.output.get()) is not None:
            yield item

    async def write(self, data: bytes) -> None:
        """Remember input."""
        self.written += data

    async def close_stdin(self) -> None:
        """Remember the end of input."""
        self.stdin_closed = True

    async def close(self) -> None:
        """End the output."""
        self.output.put_nowait(None)


class FakeSupervisor:
    """Containers as states; the test ends them with `end`."""

    def __init__(self) -> None:
        self.states: dict[str, ContainerState] = {}
        self.launches: list[Launch] = []
        self.policies: dict[str, RestartPolicy] = {}
        self.signals: list[tuple[str, int]] = []
        self.obeys: set[int] = {9, 15}
        """Signals a container ends by."""
        self.refuse = ""
        self.failure: type[Exception] = StartFailed
        """Message of the next failing starts; empty lets them succeed."""
        self.lose_answers = 0
        """How many next starts come up without anybody being told."""
        self.gate: asyncio.Event | None = None
        """When set, a start comes up only once it is set."""
        self.exec_gate: asyncio.Event | None = None
        """When set, an exec is had, once it is set; without, none."""
        self.exec_asked = asyncio.Event()
        self.execs: list[FakeExecProcess] = []
        self.attachments: dict[str, FakeAttachment] = {}
        self._queues: list[asyncio.Queue[ContainerState]] = []
        self._stamp = 0

    async def new_netns(self, ids: IdMap, joined_pid: int = 0) -> int:
        """Return a descriptor that stands for one."""
        return os.open("/proc/self/ns/net", os.O_RDONLY)

    async def start(self, launch: Launch, *, netns_fd: int | None = None) -> ContainerState:
        """Enter a running container."""
        if self.refuse:
            raise self.failure(self.refuse)
        if self.gate is not None:
            await self.gate.wait()
        self._stamp += 1_000_000
        self.launches.append(launch)
        health = {"status": "starting", "failing_streak": 0, "log": []}
        state = ContainerState(
            launch.container_id, "running", 100 + len(self.launches), None, False, self._stamp,
            0, "", (),
            health=health if launch.health else None,
        )  # fmt: skip
        self.states[launch.container_id] = state
        self.policies[launch.container_id] = launch.restart
        if self.lose_answers:
            self.lose_answers -= 1
            raise SysError("recvmsg", errno.EIO)
        return state

    def end(self, container_id: str, code: int) -> None:
        """End a container as the kernel would."""
        state = self.states[container_id]
        again = not state.stop_asked and should_restart(
            self.policies[container_id], code, state.restart_count
        )
        self._change(
            container_id,
            status="restarting" if again else "stopped",
            pid=0,
            exit_code=code,
            finished_ns=self._stamp + 1,
        )
        if container_id in self.attachments:
            self.attachments[container_id].output.put_nowait(None)

    def run_again(self, container_id: str) -> None:
        """Start a container that waits for its restart."""
        state = self.states[container_id]
        assert state.status == "restarting"
        self._stamp += 1_000_000
        self._change(
            container_id,
            status="running",
            pid=state.restart_count + 500,
            started_ns=self._stamp,
            exit_code=None,
            restart_count=state.restart_count + 1,
        )

    def probe(self, container_id: str, status: str) -> None:
        """Let a health check find this."""
        entry = {"start_ns": 1, "end_ns": 2, "exit_code": int(status != "healthy"), "output": "x"}
        health = {"status": status, "failing_streak": entry["exit_code"], "log": [entry]}
        self._change(container_id, health=health)

    def _change(self, container_id: str, **fields: Any) -> None:
        state = self.states[container_id] = replace(self.states[container_id], **fields)
        for queue in self._queues:
            queue.put_nowait(state)

    async def exec(
        self, container_id: str, process: dict[str, Any], stdio: tuple[int, int, int] | None
    ) -> ExecProcess:
        """Return a process once the gate opens; refuse without one."""
        if self.exec_gate is None:
            raise StartFailed("executable file not found in $PATH")
        self.exec_asked.set()
        await self.exec_gate.wait()
        self.execs.append(FakeExecProcess())
        return self.execs[-1]

    async def kill(
        self, container_id: str, signal: int, *, everyone: bool = False, final: bool = False
    ) -> None:
        """Remember a signal, and end the container by those it obeys."""
        state = self._get(container_id)
        if state.status == "stopped":
            raise BadStatus("stopped", "running")
        if final:
            self.states[container_id] = replace(state, stop_asked=True)
        if state.status == "restarting":
            self._change(container_id, status="stopped")
            return
        self.signals.append((container_id, signal))
        if signal in self.obeys:
            self.end(container_id, 128 + signal)

    async def set_restart(self, container_id: str, restart: RestartPolicy) -> None:
        """Take another policy."""
        self._get(container_id)
        self.policies[container_id] = restart

    async def pause(self, container_id: str) -> None:
        """Mark as paused."""
        self.states[container_id] = replace(self._get(container_id), status="paused")

    async def resume(self, container_id: str) -> None:
        """Mark as running."""
        self.states[container_id] = replace(self._get(container_id), status="running")

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """Take any limits."""
        self._get(container_id)

    async def wait(self, container_id: str) -> ContainerState:
        """Return the present state."""
        return self._get(container_id)

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        """Forget a stopped container."""
        if self._get(container_id).status != "stopped" and not force:
            raise BadStatus("running", "stopped")
        del self.states[container_id]

    async def resize(self, container_id: str, rows: int, cols: int) -> None:
        """Take any size."""
        self._get(container_id)

    async def attach(self, container_id: str) -> FakeAttachment:
        """Return the one attachment of a container."""
        return self.attachments.setdefault(container_id, FakeAttachment())

    async def stats(self, container_id: str) -> Mapping[str, Any]:
        """Return no counters."""
        return {}

    async def processes(self, container_id: str) -> Sequence[int]:
        """Return the first process."""
        return [self._get(container_id).pid]

    async def strangers(self, *, end: bool) -> Sequence[str]:
        """Return none: there are no cgroups."""
        return []

    async def list(self) -> list[ContainerState]:
        """Return every state."""
        return [*self.states.values()]

    def subscribe(self) -> asyncio.Queue[ContainerState]:
        """Return a queue of ends."""
        queue: asyncio.Queue[ContainerState] = asyncio.Queue()
        self._queues.append(queue)
        return queue

    async def close(self) -> None:
        """Forget the subscribers."""
        self._queues.clear()

    def _get(self, container_id: str) -> ContainerState:
        if container_id not in self.states:
            raise NoSuchContainer(container_id)
        return self.states[container_id]


class FakeNetworking:
    """Networks that hand out addresses in order; the kernel's part is left out."""

    def __init__(self) -> None:
        self.members: dict[str, str] = {}
        self.requests: list[JoinRequest] = []
        """Every join, connect and rename, in order."""
        self.connected: list[int] = []
        """Connections that any container has, look by look; none when empty."""
        self._next = 2
        self._networks: dict[str, NetworkInfo] = {}

    async def open(self, networks: Sequence[NetworkInfo]) -> None:
        """Take the default bridge and those given."""
        bridge = NetworkInfo(BRIDGE_ID, "bridge", "bridge", "10.9.0.0/24", "10.9.0.1")
        host, none = NetworkInfo(HOST_ID, "host", "host"), NetworkInfo(NONE_ID, "none", "null")
        self._networks = {network.id: network for network in (host, none, bridge, *networks)}

    def enter(self, network: NetworkInfo) -> None:
        """Take a network of the cluster, as it is."""
        self._networks[network.id] = network

    async def create(self, network: NetworkInfo) -> NetworkInfo:
        """Enter a network."""
        made = replace(network, subnet=network.subnet or f"10.{len(self._networks)}.0.0/24")
        self._networks[made.id] = made
        return made

    async def remove(self, network_id: str) -> None:
        """Forget a network."""
        del self._networks[network_id]

    async def join(self, request: JoinRequest) -> Joined:
        """Give addresses; the descriptor is of /dev/null."""
        self.requests.append(request)
        endpoints = tuple(self._endpoint(request, name) for name in request.networks)
        self.members[request.container_id] = endpoints[0].address if endpoints else ""
        ports = tuple((p.container_port, p.protocol, p.host_ip, p.host_port) for p in request.ports)
        return Joined(os.open("/dev/null", os.O_RDONLY), endpoints, ports)

    def _endpoint(self, request: JoinRequest, name: str) -> JoinedEndpoint:
        network = next(n for n in self._networks.values() if name in (n.name, n.id))
        address = request.networks[name].ipv4_address or f"10.9.0.{self._next}"
        self._next += 1
        return JoinedEndpoint(
            name, network.id, f"e{self._next}", address, 24, "10.9.0.1", "02:00:00:00:00:01"
        )

    async def connect(self, request: JoinRequest) -> JoinedEndpoint:
        """Give one more address."""
        self.requests.append(request)
        (name,) = request.networks
        return self._endpoint(request, name)

    async def disconnect(self, container_id: str, network_id: str) -> None:
        """Take any."""

    async def rename(self, request: JoinRequest) -> None:
        """Remember the wish."""
        self.requests.append(request)

    async def find(self, reference: str) -> NetworkInfo:
        """Return one that was entered: this is the managers' word, too."""
        for network in self._networks.values():
            if network.scope != "local" and reference in (network.id, network.name):
                return network
        raise NotFound(f"network {reference} not found")

    async def host_gateway(self) -> str:
        """Return the bridge's address."""
        return "10.9.0.1"

    async def rejoin(
        self, request: JoinRequest, pid: int, endpoints: Sequence[JoinedEndpoint]
    ) -> None:
        """Enter a container with the address it has."""
        self.members[request.container_id] = endpoints[0].address if endpoints else ""

    async def kept(self) -> Sequence[str]:
        """Return who has an address."""
        return sorted(self.members)

    async def leave(self, container_id: str) -> None:
        """Free the address."""
        self.members.pop(container_id, None)

    async def connections(self, container_id: str, addresses: Sequence[str]) -> int:
        """Tell the next number of `connected`, the last one for ever."""
        if not self.connected:
            return 0
        return self.connected.pop(0) if len(self.connected) > 1 else self.connected[0]

    def networks(self) -> Sequence[NetworkInfo]:
        """Return every network."""
        return [*self._networks.values()]

    async def close(self) -> None:
        """Forget everyone."""
        self.members.clear()
