"""Bugs in the replicated log: the core, its journal, snapshots and membership."""

from typing import Final

from tests.sim.mutations.planted import Planted

_CORE: Final = "manager/raft/core.py"
_DRIVER: Final = "manager/raft/driver.py"
_FOLLOWING: Final = "manager/raft/following.py"
_JOURNAL: Final = "manager/raft/journal.py"
_PORTS: Final = "manager/raft/ports.py"
_PROGRESS: Final = "manager/raft/progress.py"
_REPLICATION: Final = "manager/raft/replication.py"
_SNAPSHOT: Final = "manager/raft/snapshot.py"

ELECTIONS: Final = (
    Planted(
        "a leader may be unseated while it is heard",
        _CORE,
        "if now - self._leader_heard_at < self.config.election_min_s:\n            return True",
        "if False:\n            return True",
    ),
    Planted(
        "a vote counts as often as it comes",
        _CORE,
        "member in self.others and peer not in self._voters:",
        "member in self.others:",
    ),
    Planted(
        "a vote is forgotten in a restart",
        _JOURNAL,
        "self.vote = vote[1:].decode() if vote else None",
        "self.vote = None",
    ),
    Planted(
        "the term is forgotten in a restart",
        _JOURNAL,
        "self.term = _INDEX.unpack_from(payload)[0]",
        "self.term = 0",
    ),
    Planted(
        "a pre-vote is won with one voice too few",
        _CORE,
        "if len(self._pre_voters) + 1 >= self._quorum():",
        "if len(self._pre_voters) + 2 >= self._quorum():",
    ),
    Planted(
        "a pre-vote is given to a shorter log",
        _CORE,
        "current = (message.last_term, message.last_index) >= (term, index)",
        "current = True",
    ),
    Planted(
        "a member that is not admitted campaigns",
        _CORE,
        "if self.is_leader or not self._voter or self.mute:",
        "if self.is_leader:",
    ),
    Planted(
        "who lost its log votes before it is a member anew",
        _CORE,
        "elif not self.mute and (message.transfer or not self._in_lease()):",
        "elif message.transfer or not self._in_lease():",
    ),
    Planted(
        "who lost its log campaigns before it is a member anew",
        _CORE,
        "if self.is_leader or not self._voter or self.mute:",
        "if self.is_leader or not self._voter:",
    ),
    Planted(
        "who lost its log is one anew before it holds what it is told",
        _CORE,
        "and self.applied_index >= self._speaks_from[0]:",
        "and self.applied_index:",
    ),
    Planted(
        "an old leader is not told of the new term",
        _CORE,
        "        if message.term < self.term:\n"
        "            self._outbox.send(member.id, m.TermHint(self.term))\n            return",
        "        if message.term < self.term:\n            return",
    ),
)

LOGS: Final = (
    Planted(
        "an acknowledgement of an earlier term counts",
        _REPLICATION,
        "if ack.term != self._SyncObj__raftCurrentTerm or not self.is_leader:\n            return\n"
        "        if member",
        "if not self.is_leader:\n            return\n        if member",
    ),
    Planted(
        "promises leave before the disk has them",
        _DRIVER,
        "        core.pump()\n        self._flush(promises=False)\n        return core.log.take()",
        "        core.pump()\n        self._flush(promises=True)\n        return core.log.take()",
    ),
    Planted(
        "a leader counts itself for what is not on its disk",
        _CORE,
        "if self.log.journal.dirty and self.is_leader:",
        "if False:",
    ),
    Planted(
        "a leader without room for its entries goes on leading",
        _DRIVER,
        "        core.resign()\n",
        "",
    ),
    Planted(
        "a lone leader commits before its disk has the entry",
        _CORE,
        "if not self.others:\n            # The same tick",
        "if False:\n            # The same tick",
    ),
    Planted(
        "entries that match are truncated",
        _FOLLOWING,
        "            if index > last or self.log.term_at(index) != term:\n                break",
        "            break",
    ),
    Planted(
        "entries that differ are kept",
        _FOLLOWING,
        "if index > last or self.log.term_at(index) != term:",
        "if index > last:",
    ),
    Planted(
        "the entry before is not compared",
        _FOLLOWING,
        "if previous > last or self.log.term_at(previous) != previous_term:",
        "if previous > last:",
    ),
    Planted(
        "a heartbeat's commit index is believed past what matches",
        _FOLLOWING,
        "self._heard(member, message.term, min(message.commit_index, previous))",
        "self._heard(member, message.term, min(message.commit_index, last))",
    ),
    Planted(
        "a mismatch is answered with what is not known to match",
        _FOLLOWING,
        "self._acknowledge(member, commit + 1, success=False)",
        "self._acknowledge(member, last + 1, success=True)",
    ),
    Planted(
        "a late refusal undoes newer ones",
        _REPLICATION,
        "elif ack.reset and ack.sequence >= progress.floor and progress.transfer is None:",
        "elif ack.reset and False:",
    ),
    Planted(
        "one probe more is sent for every answer awaited",
        _PROGRESS,
        "self.in_flight_bytes -= self.in_flight.popleft()[1]",
        "self.in_flight.popleft()",
    ),
)

READS: Final = (
    Planted(
        "reads do not ask whether the leader still leads",
        _CORE,
        "if confirmed < self._quorum() or self.applied_index < read.index:",
        "if self.applied_index < read.index:",
    ),
    Planted(
        "an answer given before the read confirms it",
        _CORE,
        "self._progress[peer].acked > sequence",
        "self._progress[peer].acked >= sequence - 5",
    ),
    Planted(
        "a read does not wait for what is committed to be applied",
        _FOLLOWING,
        "return self.is_leader and no_op is not None and self.applied_index >= no_op",
        "return self.is_leader",
    ),
)

MEMBERS: Final = (
    Planted(
        "two membership changes at once",
        _CORE,
        "        if self.applied_index < self._changing_index:\n"
        '            raise Refused("another membership change is not committed yet; retry")\n',
        "",
    ),
    Planted(
        "two membership changes at once, in the core as well",
        _CORE,
        "        self._changing_index = self.last_index + 1\n",
        "",
    ),
    Planted(
        "the members of the log are forgotten in a restart",
        _FOLLOWING,
        "if command[:1] == MEMBERSHIP and index > (header.index if header else 0):",
        "if command[:1] == MEMBERSHIP and header is None:",
    ),
    Planted(
        "a snapshot names the members of a later entry",
        _FOLLOWING,
        "if command[:1] == MEMBERSHIP and entry_index > index:",
        "if False:",
    ),
    Planted(
        "a snapshot's members are not taken over",
        _FOLLOWING,
        "        self._SyncObj__updateClusterConfiguration(others)\n",
        "",
    ),
    Planted(
        "a quorum is counted over the others alone",
        _CORE,
        "return (len(self.others) + 1) // 2 + 1",
        "return len(self.others) // 2 + 1",
    ),
)

JOURNAL: Final = (
    Planted(
        "what waits is forgotten when a log cannot be written anew",
        _JOURNAL,
        "            self._buffer[:], self._pending_max, self._segments = buffered, pending_max, segments\n",  # noqa: E501
        "            self._pending_max, self._segments = pending_max, segments\n",
    ),
    Planted(
        "frames are not made durable",
        _JOURNAL,
        "            self._disk.sync(write.segment)\n",
        "            pass\n",
    ),
    Planted(
        "a torn frame is not cut off",
        _JOURNAL,
        "            self._disk.cut(name, end)\n",
        "            pass\n",
    ),
    Planted(
        "a frame's checksum is not looked at",
        _JOURNAL,
        "if zlib.crc32(memoryview(data)[start : start + length]) == crc else 0",
        "if True else 0",
    ),
    Planted(
        "damage in the middle passes for a torn end",
        _JOURNAL,
        "if not last or _has_frame(data, end + 1):",
        "if not last:",
    ),
    Planted(
        "a truncation is not written down",
        _JOURNAL,
        "        self._record(_R_TRUNCATE, _INDEX.pack(index))\n",
        "",
    ),
    Planted(
        "replaced entries count as durable",
        _JOURNAL,
        "self.synced_index = min(write.last_index, self._unchanged)",
        "self.synced_index = write.last_index",
    ),
    Planted(
        "a new segment forgets term and vote",
        _JOURNAL,
        "            self._buffer[:0] = _pack_record(_R_HARD, self._hard_state())\n",
        "",
    ),
    Planted(
        "compaction drops a segment too many",
        _JOURNAL,
        "            if last >= base:\n                return\n",
        "",
    ),
    Planted(
        "compaction drops entries no snapshot has",
        _FOLLOWING,
        "self.log.journal.compact(self._keep_from(done.index))",
        "self.log.journal.compact(self.applied_index)",
    ),
    Planted(
        "what a killed process left counts before it is durable",
        _JOURNAL,
        "            self._disk.sync(next(reversed(self._segments)))\n        self.commit",
        "            pass\n        self.commit",
    ),
    Planted(
        "an old snapshot replaces what is newer",
        _FOLLOWING,
        "        if message.index <= self.commit_index:\n            self._reception = None",
        "        if False:\n            self._reception = None",
    ),
    Planted(
        "a snapshot is put together from two",
        _FOLLOWING,
        "if reception is None or (reception.key, len(reception.data)) != (key, message.offset):",
        "if reception is None:",
    ),
    Planted(
        "a snapshot's part is not checked",
        _SNAPSHOT,
        "if len(part) != length or zlib.crc32(part) != crc:",
        "if len(part) != length:",
    ),
)

RAFT: Final = (*ELECTIONS, *LOGS, *READS, *MEMBERS, *JOURNAL)
