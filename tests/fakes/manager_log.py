"""A log of a single copy: what is proposed is committed and applied at once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manager.raft.replication import RaftConfig
from manager.replica import LogStatus, Replica
from swarmapi.errors import InvalidArgument, NotLeader
from swarmapi.model.spec import RaftSettings

COMMAND_MAX_BYTES = RaftConfig().command_max_bytes


@dataclass(frozen=True)
class FakeEntry:
    index: int
    payload: bytes


class SingleCopyLog:
    """Stands in for Raft with one member that leads until told otherwise."""

    def __init__(self, replica: Replica, node_id: str = "m1") -> None:
        self._replica = replica
        self._index = 0
        self._status = LogStatus(True, True, node_id, "127.0.0.1:2377")
        self._callbacks: list[Callable[[LogStatus], None]] = []
        self._members = {node_id: "127.0.0.1:2377"}
        self.started = False
        self.resealed = self.started_anew = 0
        self.tuned: list[RaftSettings] = []
        self.refusals = 0
        """How many reads are answered by NotLeader before the status tells."""
        self.refused_proposals = 0
        """The same of proposals; after the last one the status becomes `next_status`."""
        self.next_status: LogStatus | None = None

    @property
    def status(self) -> LogStatus:
        return self._status

    def on_status(self, callback: Callable[[LogStatus], None]) -> None:
        self._callbacks.append(callback)

    def become(self, status: LogStatus) -> None:
        self._status = status
        for callback in self._callbacks:
            callback(status)

    def usage(self) -> dict[str, Any]:
        return {"LastIndex": self._index}

    def tune(self, settings: RaftSettings) -> None:
        self.tuned.append(settings)

    async def hand_over(self) -> None:
        self.become(LogStatus(False, False, "m2", "127.0.0.1:2378"))

    async def reseal(self) -> None:
        self.resealed += 1

    async def propose(self, payload: bytes) -> int:
        if not self._status.is_leader:
            raise NotLeader(leader=self._status.leader_address)
        if self.refused_proposals > 0:
            self.refused_proposals -= 1
            if not self.refused_proposals and self.next_status is not None:
                self.become(self.next_status)
            raise NotLeader()
        if len(payload) > COMMAND_MAX_BYTES:
            raise InvalidArgument(f"change has {len(payload)} bytes: split it")
        await asyncio.sleep(0)
        self._index += 1
        index = self._index
        self._replica.apply([FakeEntry(index, payload)])
        return index

    async def read_index(self) -> int:
        if not self._status.is_leader or self.refusals > 0:
            self.refusals -= 1
            raise NotLeader(leader=self._status.leader_address)
        return self._index

    def members(self) -> dict[str, str]:
        return dict(self._members)

    @property
    def backends(self) -> dict[str, str]:
        return {}

    async def start(self) -> None:
        self.started = True

    async def stop(self) -> None:
        self.started = False

    async def listen(self, generation: int) -> None:
        """There is no port."""

    async def add_member(self, node_id: str, address: str) -> int:
        self._members[node_id] = address
        return self._index

    async def release(self, node_id: str) -> int:
        await self.remove_member(node_id)
        return self._index

    @property
    def returning(self) -> bool:
        return False

    async def speak_from(self, index: int) -> None:
        """It has never been silent."""

    def start_anew(self) -> bool:
        self.started_anew += 1
        return True

    async def remove_member(self, node_id: str) -> None:
        self._members.pop(node_id, None)
