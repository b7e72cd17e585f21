"""The follower's side of the core, snapshots, and which members the log names."""

# ruff: noqa: N802 - the names are PySyncObj's

import logging
from collections.abc import Iterable
from typing import Any, Final

from manager.raft import messages as m
from manager.raft.disk import is_full
from manager.raft.journal import Corrupt
from manager.raft.pinned import MEMBERSHIP, NO_OP, PlainData
from manager.raft.ports import Member, StateMachine
from manager.raft.replication import Halt, Replication
from manager.raft.snapshot import SnapshotHeader

_log = logging.getLogger(__name__)
ADD: Final = "add"
REMOVE: Final = "rem"


class Reception:
    """A snapshot being received."""

    def __init__(self, key: tuple[str, int, int, int]) -> None:
        self.key = key
        self.data = bytearray()


class Following(Replication):
    """Appends without needless truncation, snapshots by offset, and the members as of an entry."""

    me: Member
    _machine: StateMachine
    _voter: bool
    _reception: Reception | None
    _snapshot_index: int
    _applied_bytes: int

    @property
    def ready(self) -> bool:
        """Whether it leads and has applied everything committed before its term."""
        no_op = self._SyncObj__noopIDx
        return self.is_leader and no_op is not None and self.applied_index >= no_op

    @property
    def term(self) -> int:
        """The current term."""
        return self._SyncObj__raftCurrentTerm

    @property
    def commit_index(self) -> int:
        """The last entry known to be committed."""
        return self._SyncObj__raftCommitIndex

    @property
    def applied_index(self) -> int:
        """The last entry handed to the state machine."""
        return self._SyncObj__raftLastApplied

    @property
    def leader_id(self) -> str:
        """The leader's node id, empty when not known."""
        leader = self._SyncObj__raftLeader
        return leader.id if leader is not None else ""

    def members(self) -> dict[str, str]:
        """Return the addresses of the voting members by node id, as of the end of the log."""
        found = {member.id: member.address for member in self._peers()}
        if self._voter:
            found[self.me.id] = self.me.address
        return dict(sorted(found.items()))

    def _members_in_log(self, header: SnapshotHeader | None) -> dict[str, Member]:
        """Return the latest configuration: of the snapshot, then the log, committed or not."""
        members = {spec[0]: Member(spec) for spec in (header.members if header else ())}
        for command, index, _ in self.log.journal.entries:
            if command[:1] == MEMBERSHIP and index > (header.index if header else 0):
                kind, node_id, spec = PlainData.loads(command[1:])
                members.pop(node_id, None)
                if kind == ADD:
                    members[node_id] = Member(spec)
        return members

    def _original(self, member: Member, **message: Any) -> None:
        self._SyncObj__onMessageReceived(member, message)

    def _acknowledge(self, member: Member, next_index: int, success: bool = True) -> None:
        self._SyncObj__sendNextNodeIdx(
            member, nextNodeIdx=next_index, reset=not success, success=success
        )

    def _heard(self, member: Member, term: int, commit_index: int) -> None:
        """Follow the leader without touching the log; commit no further than what matches."""
        self._original(member, type="append_entries", term=term, commit_index=commit_index)

    def _on_append(self, member: Member, message: m.Append) -> None:
        first, last, commit = self.log[0][1], self.last_index, self.commit_index
        previous, previous_term, entries = message.prev_index, message.prev_term, message.entries
        if previous < first:
            # What lies before the log's anchor is in the snapshot, so it is committed and equal.
            entries = [entry for entry in entries if entry[1] > first]
            previous, previous_term = first, self.log[0][2]
            if not entries:
                self._heard(member, message.term, 0)
                self._acknowledge(member, max(commit, first) + 1)
                return
        if previous > last or self.log.term_at(previous) != previous_term:
            if previous <= commit:
                raise Halt(f"leader {member.id} disagrees with the committed entry {previous}")
            self._heard(member, message.term, 0)
            self._acknowledge(member, commit + 1, success=False)
            return
        known = 0
        for _, index, term in entries:
            if index > last or self.log.term_at(index) != term:
                break
            known += 1
        if known:
            _, previous, previous_term = entries[known - 1]
        new = entries[known:]
        if not new:
            self._heard(member, message.term, min(message.commit_index, previous))
            self._acknowledge(member, previous + 1)
            return
        if new[0][1] <= commit:
            raise Halt(f"leader {member.id} would replace the committed entry {new[0][1]}")
        self._original(
            member,
            type="append_entries",
            term=message.term,
            commit_index=message.commit_index,
            prevLogIdx=previous,
            prevLogTerm=previous_term,
            entries=new,
        )

    def _on_chunk(self, member: Member, message: m.SnapshotChunk) -> None:
        self._heard(member, message.term, 0)
        if message.index <= self.commit_index:
            self._reception = None
            self._acknowledge(member, self.commit_index + 1)
            return
        key = (member.id, message.term, message.index, message.total_bytes)
        if message.offset == 0:
            self._reception = Reception(key)
        reception = self._reception
        if reception is None or (reception.key, len(reception.data)) != (key, message.offset):
            self._outbox.send(member.id, m.SnapshotAck(message.term, message.index, -1))
            return
        reception.data += message.data
        received = len(reception.data)
        self._outbox.send(member.id, m.SnapshotAck(message.term, message.index, received))
        if received >= message.total_bytes:
            self._reception = None
            self._install(member, bytes(reception.data))

    def _install(self, member: Member, data: bytes) -> None:
        try:
            header, parts = self._snapshots.install(data)
        except Corrupt as error:
            # Nothing was replaced; without an acknowledgement the leader sends it again.
            _log.error("snapshot from %s refused: %s", member.id, error)
            return
        except OSError as error:
            if not is_full(error):
                raise
            _log.warning("no room for the snapshot from %s: %s", member.id, error)
            return
        if self.log.term_at(header.index) == header.term:
            self.log.journal.compact(header.index)
        else:
            self.log.journal.reset(NO_OP, header.index, header.term)
        self._snapshot_index = self._SyncObj__raftLastApplied = header.index
        self._applied_bytes = 0
        self._SyncObj__raftCommitIndex = max(self.commit_index, header.index)
        self.log.setRaftCommitIndex(self.commit_index)
        self._machine.restored(header.index, parts)
        members = self._members_in_log(header)
        self._voter = self.me.id in members
        others = [member for member in members.values() if member.id != self.me.id]
        self._SyncObj__updateClusterConfiguration(others)
        self._acknowledge(member, header.index + 1)

    def _SyncObj__tryLogCompaction(self) -> None:
        done = self._snapshots.written()
        if done is not None:
            self._snapshot_index = max(self._snapshot_index, done.index)
            self.log.journal.compact(self._keep_from(done.index))
        frozen = self._snapshots.frozen()
        if frozen is not None:
            self._write_snapshot(frozen.index, frozen.parts)
        elif not self._snapshots.busy and (
            self.applied_index - self._snapshot_index >= self.config.snapshot_entries
            or self._applied_bytes >= self.config.snapshot_bytes
        ):
            self._applied_bytes = 0
            self._snapshots.request()

    def _keep_from(self, index: int) -> int:
        """Return the first entry to keep behind a snapshot of `index`."""
        kept_bytes = 0
        first: int = max(self.log[0][1], index - self.config.keep_entries)
        for command, kept, _ in reversed(self.log.between(first, index)):
            kept_bytes += len(command)
            if kept_bytes > self.config.keep_bytes:
                return min(kept + 1, index)
        return first

    def _write_snapshot(self, index: int, parts: Iterable[bytes]) -> None:
        if index <= self._snapshot_index:
            return
        term = self.log.term_at(index)
        if term is None or index > self.applied_index:
            raise Halt(f"state machine was frozen at {index}, which is not an applied entry")
        members = self.members()
        for command, entry_index, _ in reversed(self.log.between(index + 1, self.last_index)):
            if command[:1] == MEMBERSHIP and entry_index > index:
                kind, node_id, spec = PlainData.loads(command[1:])
                members.pop(node_id, None)
                if kind == REMOVE:
                    members[node_id] = spec[1]
        self._snapshots.write(SnapshotHeader(index, term, tuple(sorted(members.items()))), parts)


def membership_command(kind: str, spec: tuple[str, str]) -> bytes:
    """Return the log entry's command for a membership change; `kind` is ADD or REMOVE."""
    return MEMBERSHIP + PlainData.dumps([kind, spec[0], list(spec)])
