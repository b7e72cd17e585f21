"""Raft members in this process: real files, real TLS, loopback."""

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from manager.raft.node import RaftNode
from manager.raft.outcomes import Applied, RaftStatus
from manager.raft.replication import RaftConfig
from swarmapi.identity import LiveTLS
from tests.fakes.pki import CertificateAuthority


def free_address() -> str:
    """Return a loopback address nobody serves now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@dataclass
class RecordingMachine:
    """Keeps the commands it applied."""

    commands: list[bytes] = field(default_factory=list)
    restored: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def apply(self, batch: Sequence[Applied]) -> None:
        self.commands += [entry.payload for entry in batch if entry.payload]
        self.changed.set()

    def freeze(self) -> Iterable[bytes]:
        return [msgspec.msgpack.encode(self.commands)]

    def restore(self, parts: Iterable[bytes]) -> None:
        self.commands = [each for part in parts for each in msgspec.msgpack.decode(part)]
        self.restored += 1
        self.changed.set()

    async def until(self, commands: list[bytes]) -> None:
        """Wait until exactly these commands were applied."""
        while self.commands != commands:
            self.changed.clear()
            await self.changed.wait()


class RaftCluster:
    """Starts, stops and finds members by node id."""

    def __init__(self, path: Path, config: RaftConfig | None = None) -> None:
        self._path = path
        self._config = config
        self._authority = CertificateAuthority()
        self._addresses: dict[str, str] = {}
        self.nodes: dict[str, RaftNode] = {}
        self.machines: dict[str, RecordingMachine] = {}
        self.halts: list[BaseException] = []

    def address(self, node_id: str) -> str:
        """Return the member's address, a free port of loopback."""
        if node_id not in self._addresses:
            self._addresses[node_id] = free_address()
        return self._addresses[node_id]

    async def start(
        self,
        node_id: str,
        bootstrap: bool = False,
        authority: CertificateAuthority | None = None,
        *,
        mute: bool = False,
    ) -> RaftNode:
        """Start a member on its directory; a `mute` one lost what it had."""
        machine = RecordingMachine()
        node = RaftNode(
            node_id=node_id,
            address=self.address(node_id),
            state_dir=self._path / node_id,
            machine=machine,
            tls=LiveTLS((authority or self._authority).issue(node_id)),
            bootstrap=bootstrap,
            config=self._config,
            on_halt=self.halts.append,
        )
        await node.start(mute=mute)
        self.nodes[node_id] = node
        self.machines[node_id] = machine
        return node

    async def stop(self, *node_ids: str) -> None:
        """Stop members, all when none is named."""
        for node_id in node_ids or tuple(self.nodes):
            await self.nodes.pop(node_id).stop()

    async def until(self, node: RaftNode, holds: Callable[[RaftStatus], bool]) -> RaftStatus:
        """Wait until the node's status is as wanted."""
        reached = asyncio.Event()

        def look(status: RaftStatus) -> None:
            if holds(status):
                reached.set()

        node.on_status(look)
        look(node.status)
        await reached.wait()
        return node.status

    async def leader(self) -> str:
        """Wait for a leader that is ready, and return its node id."""
        waits = [
            asyncio.ensure_future(self.until(node, lambda status: status.ready))
            for node in self.nodes.values()
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        return next(name for name, node in self.nodes.items() if node.status.ready)
