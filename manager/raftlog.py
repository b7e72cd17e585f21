"""The log of a running manager: Raft, behind the public port."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from manager.config import RunConfig
from manager.raft.disk import make_directory
from manager.raft.journal import Corrupt, Sealed
from manager.raft.node import RaftNode
from manager.raft.outcomes import RaftStatus
from manager.replica import LogStatus, Replica
from manager.returning import Aside
from swarmapi.identity import LiveTLS
from swarmapi.keyring import Keyring
from swarmapi.model.spec import RaftSettings

EXIT_ANEW: Final = 71
log = logging.getLogger(__name__)


def open_log(
    config: RunConfig, tls: LiveTLS, replica: Replica, keyring: Keyring, *, first: bool
) -> "RaftLog":
    """Return this node's log; `first` founds a cluster where there is no state yet."""
    return RaftLog(config, tls, replica, keyring, first=first)


class RaftLog:
    """`manager.replica.Log` over a Raft member.

    The member serves a socket of its own; other members reach it on the public port, by this
    node's id as the TLS server name.
    """

    def __init__(
        self,
        config: RunConfig,
        tls: LiveTLS,
        replica: Replica,
        keyring: Keyring,
        *,
        first: bool,
    ) -> None:
        self._node_id = tls.identity.node_id
        self._paths = config.paths
        self._socket = config.paths.inner("raft")
        self._state_dir = config.paths.raft
        self._aside = Aside(config.paths.state_dir, config.paths.raft)
        self._others = bool(config.known)
        self._node = RaftNode(
            node_id=self._node_id,
            address=config.advertise,
            state_dir=config.paths.raft,
            machine=replica,
            tls=tls,
            bootstrap=first,
            listen_address=f"unix:{self._socket}",
            keyring=keyring,
        )

    @property
    def backends(self) -> dict[str, str]:
        """Return the server name of this member and where it is served."""
        return {self._node_id: f"unix:{self._socket}"}

    async def start(self) -> None:
        """Start the member. With a damaged log it starts anew, if there are other managers.

        Raises OSError or Corrupt, also for one that the keys here do not open.
        """
        await asyncio.to_thread(self._aside.finish)
        make_directory(self._state_dir)
        try:
            await self._node.start(mute=self.returning)
        except Corrupt as error:
            if not self._others or isinstance(error, Sealed):
                raise
            log.critical("%s: set aside, this manager comes back with the others' log", error)
            await asyncio.to_thread(self._aside.set_aside)
            await self._node.start(mute=True)

    @property
    def returning(self) -> bool:
        """Whether this member lost its log, and is to ask for its membership anew."""
        return self._aside.is_marked

    async def speak_from(self, index: int) -> None:
        """Listen to leaders; return once this member holds the entry that the leader named."""
        await self._node.speak_from(index)
        self._aside.forget()

    def start_anew(self) -> bool:
        """End the process and come back without the present state; False when it did so lately."""
        if len(self.members()) < 2 or not self._aside.want():
            return False
        log.critical("this manager's state differs from the others': it starts anew with theirs")
        os._exit(EXIT_ANEW)

    async def listen(self, generation: int) -> None:
        """Serve with the present TLS material from now on. Raises OSError."""
        socket = self._paths.inner("raft", generation)
        await self._node.listen(f"unix:{socket}")
        self._socket = socket

    async def stop(self) -> None:
        """Stop the member."""
        await self._node.stop()

    @property
    def status(self) -> LogStatus:
        """Return how this member stands."""
        return _status(self._node.status)

    def on_status(self, callback: Callable[[LogStatus], None]) -> None:
        """Call back in the API loop when it changes."""
        self._node.on_status(lambda status: callback(_status(status)))

    async def propose(self, payload: bytes) -> int:
        """Commit a command (see `RaftNode.propose`)."""
        return await self._node.propose(payload)

    async def read_index(self) -> int:
        """Return once the state here is as new as any acknowledged write."""
        return await self._node.read_index()

    def members(self) -> dict[str, str]:
        """Return the members' addresses by node id."""
        return self._node.members()

    async def add_member(self, node_id: str, address: str) -> int:
        """Add a member that runs at its address; return an entry behind that."""
        return await self._node.add_member(node_id, address)

    async def release(self, node_id: str) -> int:
        """Remove a member that lost its log; return an entry behind that."""
        return await self._node.release(node_id)

    def usage(self) -> dict[str, Any]:
        """Return what the log takes on this manager's disk, and how far it reaches.

        Bytes and times of files are as the directory has them now.
        """
        status = self._node.status
        snapshot = _stat(self._state_dir / "snapshot")
        segments = [found for p in (self._state_dir / "log").glob("*.wal") if (found := _stat(p))]
        return {
            "NodeID": self._node_id,
            "LeaderID": status.leader_id,
            "Term": status.term,
            "Members": self._node.members(),
            "Entries": status.last_index - status.first_index + 1 if status.last_index else 0,
            "FirstIndex": status.first_index,
            "LastIndex": status.last_index,
            "CommitIndex": status.commit_index,
            "AppliedIndex": status.applied_index,
            "Segments": len(segments),
            "LogBytes": sum(found.st_size for found in segments),
            "DiskFull": status.disk_full,
            "Returning": self.returning,
            "SnapshotIndex": status.snapshot_index,
            "SnapshotBytes": snapshot.st_size if snapshot else 0,
            "LastCompactionNs": snapshot.st_mtime_ns if snapshot else 0,
        }

    def tune(self, settings: RaftSettings) -> None:
        """Keep the log as the cluster's settings say."""
        self._node.tune(
            settings.snapshot_interval,
            settings.log_entries_for_slow_followers,
            settings.keep_old_snapshots or 0,
        )

    async def reseal(self) -> None:
        """Return once everything on the disk is sealed with the newest key of the ring."""
        await self._node.reseal()

    async def hand_over(self) -> None:
        """Make another member lead, where there is one."""
        if len(self.members()) > 1:
            await self._node.transfer_leadership()

    async def remove_member(self, node_id: str) -> None:
        """Remove a member; where it is this one, another leader is made to do it."""
        if node_id == self._node_id:
            await self._node.transfer_leadership()
        else:
            await self._node.remove_member(node_id)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _status(status: RaftStatus) -> LogStatus:
    return LogStatus(status.is_leader, status.ready, status.leader_id, status.leader_address)
