"""A member over fakes: a manager that is a real process, a network and an executor that note."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from swarmapi.identity import MANAGER
from swarmapi.model.tables import NetworkTable
from swarmapi.override import override
from tests.fakes.executor import FakeExecutor, RealClock
from tests.fakes.pki import CertificateAuthority
from worker.agent.leases import NodeLeases
from worker.agent.secrets import NodeSecrets
from worker.cluster.manager_process import ManagerProcess
from worker.cluster.membership import Addresses, Member
from worker.cluster.proxy import ManagerProxy
from worker.cluster.running import NodeParts
from worker.cluster.state import ClusterFiles

PROGRAM = (sys.executable, str(Path(__file__).with_name("fake_manager.py")))
CGROUP = f"swarm-unit-{os.getpid()}"


class FakeNetwork:
    """Remembers who we are and the tables."""

    def __init__(self) -> None:
        self.identities: list[tuple[str, str]] = []
        self.tables: list[Mapping[str, NetworkTable]] = []

    async def identify(self, node_id: str, data_path_addr: str) -> None:
        self.identities.append((node_id, data_path_addr))

    async def set_tables(self, tables: Mapping[str, NetworkTable]) -> dict[str, int]:
        self.tables.append(tables)
        return {key: table.revision for key, table in tables.items()}

    async def caught_up(self) -> dict[str, int]:
        await asyncio.Event().wait()  # nothing is ever late
        return {}

    def drift_repaired_total(self) -> int:
        return 0


class WatchedManager(ManagerProcess):
    """Tells the pid of every adoption and launch."""

    def __init__(self, state_dir: Path, run_dir: Path) -> None:
        super().__init__(state_dir, run_dir, CGROUP, PROGRAM)
        self.pids: asyncio.Queue[int] = asyncio.Queue()

    @override
    async def ensure(self, arguments: Sequence[str]) -> int:
        pid = await super().ensure(arguments)
        self.pids.put_nowait(pid)
        return pid


class Machine:
    """One machine's directories; `member` is one life of its daemon."""

    def __init__(self, base: Path) -> None:
        self.files = ClusterFiles(base / "cluster")
        self.state_dir = base / "manager"
        self.run_dir = base / "run"
        self.run_dir.mkdir()
        self.certs = base / "certs"
        self.ca = CertificateAuthority()
        ClusterFiles(self.certs).save_tls(self.ca.issue("n1", MANAGER))
        os.mkfifo(self.certs / "go-on")
        self.network = FakeNetwork()
        self.executor = FakeExecutor()

    def command(self, name: str) -> dict[str, Any]:
        """Return the flags that `swarm-manager NAME` was last run with."""
        flags: dict[str, Any] = json.loads((self.state_dir / f"{name}.json").read_text())
        return flags

    def updates(self) -> list[Any]:
        """Return the paths and bodies of the updates that the manager was asked for."""
        path = self.certs / "updates"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[tuple[Member, WatchedManager, ManagerProxy]]:
        """Run one life of the daemon; the manager outlives it."""
        os.environ["FAKE_CERTS"] = str(self.certs)
        manager = WatchedManager(self.state_dir, self.run_dir)
        proxy = ManagerProxy(manager.socket_path)
        parts = NodeParts(
            self.files,
            manager,
            self.network,
            self.executor,
            NodeSecrets(),
            NodeLeases(tuple),
            RealClock(),
        )
        member = Member(parts, proxy, Addresses())
        try:
            await member.start()
            yield member, manager, proxy
        finally:
            await member.stop()
            await proxy.close()

    async def end(self) -> None:
        """End the manager if it runs."""
        await WatchedManager(self.state_dir, self.run_dir).stop()
