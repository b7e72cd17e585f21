"""`system check`: whether records, containers, networks and images agree, and making them."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from runtime.image.store import ImageStore
from runtime.image.verify import Finding, verify
from worker.engine.launcher import Places
from worker.engine.lifecycle import Lifecycle
from worker.engine.ports import Networking, Supervisor
from worker.engine.table import ContainerTable

_NO_RECORD = "no container has this id"


class SystemCheck:
    """Compares what is here with what the records say; `steps` are the build steps that run."""

    def __init__(
        self,
        table: ContainerTable,
        places: Places,
        supervisor: Supervisor,
        networking: Networking,
        lifecycle: Lifecycle,
        images: ImageStore,
        steps: Callable[[], set[str]],
    ) -> None:
        self._table = table
        self._places = places
        self._supervisor = supervisor
        self._networking = networking
        self._lifecycle = lifecycle
        self._images = images
        self._steps = steps

    async def run(self, *, repair: bool) -> list[Finding]:
        """Return what is wrong, or was; a damaged image only its user can repair."""
        findings = [
            *await self._containers(repair),
            *await self._directories(repair),
            *await self._networks(repair),
            *await self._leftovers(repair),
        ]
        return findings + await asyncio.to_thread(verify, self._images, repair=repair)

    async def _containers(self, repair: bool) -> list[Finding]:
        """What the supervisor runs without a record, and records of what it does not run."""
        found = []
        known = {state.container_id for state in await self._supervisor.list()}
        for container in self._table:
            # the lock: a start or an end may be half done
            async with container.lock:
                record = container.record
                if record.alive and record.id not in known and not await self._runs(record.id):
                    finding = Finding("container", record.id, "recorded as running, but it is gone")
                    if repair:
                        await self._lifecycle.adopt(container, None)
                    found.append(replace(finding, repaired=repair))
        for name in known - self._steps():
            if self._table.find(name) is None:
                if repair:
                    await self._lifecycle.end_orphan(name)
                found.append(Finding("process", name, _NO_RECORD, repair))
        return found

    async def _runs(self, container_id: str) -> bool:
        states = await self._supervisor.list()
        return any(state.container_id == container_id for state in states)

    async def _directories(self, repair: bool) -> list[Finding]:
        def strangers() -> list[Path]:
            places = self._places.containers
            return [path for path in places.iterdir() if self._table.find(path.name) is None]

        found = await asyncio.to_thread(strangers)
        if repair:
            for path in found:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        return [
            Finding("directory", str(path), _NO_RECORD, repair and not path.exists())
            for path in found
        ]

    async def _networks(self, repair: bool) -> list[Finding]:
        kept = await self._networking.kept()
        alive = {c.record.id for c in self._table if c.record.alive or c.lock.locked()}
        strangers = sorted(set(kept) - alive - self._steps())
        if repair:
            for name in strangers:
                await self._networking.leave(name)
        return [Finding("endpoint", name, "it does not run", repair) for name in strangers]

    async def _leftovers(self, repair: bool) -> list[Finding]:
        strangers = await self._supervisor.strangers(end=repair)
        found = [Finding("cgroup", name, _NO_RECORD, repair) for name in strangers]
        below = f" {self._places.containers}/"
        mounts = await asyncio.to_thread(Path("/proc/self/mountinfo").read_text)
        found += [
            Finding("mount", line.split()[4], "no container is mounted on the host: unmount it")
            for line in mounts.splitlines()
            if below in line
        ]
        return found
