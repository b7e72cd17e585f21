"""The leader's side of the core: entries, acknowledgements and snapshots to the followers."""

# ruff: noqa: N802 - the names are PySyncObj's

from dataclasses import dataclass

from manager.raft.journal import SEGMENT_MAX_BYTES, Corrupt, Entry
from manager.raft.messages import Ack, Append, SnapshotAck, SnapshotChunk
from manager.raft.pinned import LEADER, SyncObj, monotonic
from manager.raft.ports import JournalPort, Member, Outbox, Snapshots
from manager.raft.progress import Progress, Transfer
from swarmapi.override import override

_ENTRY_OVERHEAD_BYTES = 20
_APPEND_MAX_ENTRIES = 1000


class Halt(Exception):
    """The member must stop: to go on could damage the cluster."""


@dataclass(frozen=True)
class RaftConfig:
    """Times and limits; the same on all members."""

    election_min_s: float = 0.5
    election_max_s: float = 1.0
    heartbeat_s: float = 0.1
    leader_fallback_s: float = 1.0
    command_max_bytes: int = 1 << 20
    append_max_bytes: int = 1 << 20
    in_flight_max_bytes: int = 8 << 20
    in_flight_max: int = 64
    chunk_bytes: int = 256 << 10
    chunk_window: int = 4
    chunk_timeout_s: float = 3.0
    snapshot_entries: int = 5000
    snapshot_bytes: int = 64 << 20
    keep_entries: int = 500
    keep_bytes: int = 16 << 20
    """Entries, and their bytes, kept behind a snapshot so that a slow follower needs none."""
    segment_bytes: int = SEGMENT_MAX_BYTES
    """Of a file of the journal, before the next one is begun."""
    reserve_bytes: int = 4 << 20
    """Kept free on the disk, so that elections go on where it is full."""
    pending_max: int = 20_000
    pending_max_bytes: int = 64 << 20
    """Commands proposed and not yet applied, before more are refused."""
    reach_timeout_s: float = 5.0
    """How long a new member may take to answer before it is added."""
    apply_max: int = 2000
    """Entries applied in one turn."""


class Replication(SyncObj):
    """Flow control to each follower; replaces the original's sending, which has none."""

    config: RaftConfig
    log: JournalPort
    _outbox: Outbox
    _snapshots: Snapshots
    _progress: dict[str, Progress]

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, as far as it knows."""
        return self._SyncObj__raftState == LEADER

    @property
    def others(self) -> set[Member]:
        """The other voting members."""
        return self._SyncObj__otherNodes

    @property
    def last_index(self) -> int:
        """The index of the last entry, committed or not."""
        return self.log.journal.last_index

    def _peers(self) -> list[Member]:
        return sorted(self.others, key=lambda member: member.id)

    def _replicate(self) -> None:
        """Send what is new, without waiting for the next heartbeat."""
        for member in self._peers():
            if self._SyncObj__raftNextIndex.get(member, 0) <= self.last_index:
                self._send_to(member, heartbeat=False)

    @override
    def _SyncObj__sendAppendEntries(self) -> None:
        self._SyncObj__newAppendEntriesTime = monotonic() + self.config.heartbeat_s
        for member in self._peers():
            self._send_to(member, heartbeat=True)

    def _send_to(self, member: Member, heartbeat: bool) -> None:
        following = self._SyncObj__raftNextIndex
        if member not in self._SyncObj__connectedNodes or member not in following:
            return
        progress = self._progress.setdefault(member.id, Progress())
        if progress.resting and not heartbeat:
            return
        first = self.log[0][1]
        sent = False
        while progress.may_send(self.config.in_flight_max, self.config.in_flight_max_bytes):
            start = following[member]
            if start <= first:
                self._start_transfer(member, progress)
                break
            if start > self.last_index:
                break
            following[member] = self._send_batch(member, progress, start)
            sent = True
        if heartbeat and not sent:
            self._send_heartbeat(member, progress, first)

    def _send_batch(self, member: Member, progress: Progress, start: int) -> int:
        entries: list[Entry] = []
        size_bytes = 0
        last = min(self.last_index, start + _APPEND_MAX_ENTRIES - 1)
        for entry in self.log.between(start, last):
            if entries and size_bytes + len(entry[0]) > self.config.append_max_bytes:
                break
            entries.append(entry)
            size_bytes += len(entry[0]) + _ENTRY_OVERHEAD_BYTES
        self._send_append(member, progress.sent(size_bytes), start - 1, entries)
        return entries[-1][1] + 1

    def _send_heartbeat(self, member: Member, progress: Progress, first: int) -> None:
        previous = self._SyncObj__raftNextIndex[member] - 1
        if progress.transfer is not None:
            if monotonic() - progress.transfer_moved_at > self.config.chunk_timeout_s:
                self._start_transfer(member, progress)
            previous = self._SyncObj__raftMatchIndex.get(member, 0)
        self._send_append(member, progress.sent(0), max(previous, first), [])

    def _send_append(
        self, member: Member, sequence: int, previous: int, entries: list[Entry]
    ) -> None:
        previous_term = self.log.term_at(previous)
        if previous_term is None:
            raise Halt(f"log lost entry {previous}, which {member.id} still needs")
        self._outbox.send(
            member.id,
            Append(
                term=self._SyncObj__raftCurrentTerm,
                sequence=sequence,
                commit_index=self._SyncObj__raftCommitIndex,
                prev_index=previous,
                prev_term=previous_term,
                entries=entries,
            ),
        )

    def _on_ack(self, member: Member, ack: Ack) -> None:
        """Count an answer, but never one to an earlier leadership of this member."""
        if ack.term != self._SyncObj__raftCurrentTerm or not self.is_leader:
            return
        if member not in self.others:
            return
        progress = self._progress.setdefault(member.id, Progress())
        self._SyncObj__lastResponseTime[member] = monotonic()
        progress.ack(ack.sequence)
        matching, following = self._SyncObj__raftMatchIndex, self._SyncObj__raftNextIndex
        if ack.success:
            matched = ack.next_index - 1
            if matched > self.last_index:
                raise Halt(f"{member.id} acknowledged {matched}, past our log {self.last_index}")
            progress.probing = progress.resting = False
            matching[member] = max(matching.get(member, 0), matched)
            following[member] = max(following.get(member, 0), matched + 1)
            if progress.transfer is not None and matched >= progress.transfer.index:
                progress.transfer = None
        elif ack.reset and ack.sequence >= progress.floor and progress.transfer is None:
            following[member] = max(ack.next_index, matching.get(member, 0) + 1)
            progress.reset()
            # It may have lost its log: each answer would bring the next question at once.
            progress.resting = ack.next_index <= matching.get(member, 0)
        if following.get(member, 0) <= self.last_index:
            self._send_to(member, heartbeat=False)

    def _start_transfer(self, member: Member, progress: Progress) -> None:
        found = self._snapshots.raw()
        if found is None:
            raise Corrupt(f"log starts at {self.log[0][1]} and there is no snapshot before it")
        header, data = found
        progress.transfer = Transfer(header.index, data)
        progress.transfer_moved_at = monotonic()
        self._send_chunks(member, progress)

    def _send_chunks(self, member: Member, progress: Progress) -> None:
        transfer = progress.transfer
        if transfer is None:
            return
        window_bytes = self.config.chunk_window * self.config.chunk_bytes
        while transfer.sent_bytes < len(transfer.data):
            if transfer.sent_bytes - transfer.acked_bytes >= window_bytes:
                return
            offset = transfer.sent_bytes
            data = transfer.data[offset : offset + self.config.chunk_bytes]
            transfer.sent_bytes += len(data)
            self._outbox.send(
                member.id,
                SnapshotChunk(
                    term=self._SyncObj__raftCurrentTerm,
                    sequence=progress.sent(0),
                    index=transfer.index,
                    offset=offset,
                    total_bytes=len(transfer.data),
                    data=data,
                ),
            )

    def _on_snapshot_ack(self, member: Member, ack: SnapshotAck) -> None:
        progress = self._progress.get(member.id)
        if ack.term != self._SyncObj__raftCurrentTerm or not self.is_leader or progress is None:
            return
        self._SyncObj__lastResponseTime[member] = monotonic()
        transfer = progress.transfer
        if transfer is None or ack.index != transfer.index:
            return
        if ack.received_bytes < 0:
            self._start_transfer(member, progress)
            return
        transfer.acked_bytes = max(transfer.acked_bytes, ack.received_bytes)
        progress.transfer_moved_at = monotonic()
        self._send_chunks(member, progress)

    @override
    def _SyncObj__onNodeDisconnected(self, node: Member) -> None:
        super()._SyncObj__onNodeDisconnected(node)
        progress = self._progress.get(node.id)
        if progress is not None:
            progress.reset()
            matched = self._SyncObj__raftMatchIndex.get(node, 0)
            if node in self._SyncObj__raftNextIndex:
                self._SyncObj__raftNextIndex[node] = (matched or self.last_index) + 1
