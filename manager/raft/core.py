"""One member of the Raft group: PySyncObj's state machine with its unsafe parts replaced.

The core is driven: `receive` for each message, `propose` and friends, then `tick`. It sends
through an Outbox and never waits. Whoever drives it (see `cycle`) lets no promise leave before
the journal is durable. What is replaced, and the reason:

acknowledgements   carry the term: one given to an earlier leadership must not count
appends            never truncate what matches or is committed; a mismatch goes back in one step
elections          pre-vote, and no vote against a leader that was just heard
membership         one change at a time, in force from its entry on; a function of snapshot + log
applying           strictly in order, an exception is fatal, a callback cannot apply twice
returning          who lost its log is mute: no vote and no candidacy until it is a member anew
snapshots          by offset with flow control, installed only when newer than what is committed
reads              read-index: leadership confirmed after the question (Raft thesis, 6.4)
commands           no pickle, no forwarding, no code versions
"""

# ruff: noqa: N802 - the names are PySyncObj's

from collections.abc import Callable, Mapping
from typing import Any, Final

from manager.raft import messages as m
from manager.raft.following import ADD, REMOVE, Following, Reception, membership_command
from manager.raft.journal import Corrupt, Journal
from manager.raft.pinned import (
    FOLLOWER,
    MEMBERSHIP,
    NO_OP,
    REGULAR,
    SyncObjConf,
    monotonic,
)
from manager.raft.ports import (
    JournalPort,
    Member,
    Outbox,
    Snapshots,
    StateMachine,
    TransportPort,
)
from manager.raft.replication import Halt, RaftConfig
from manager.raft.snapshot import SnapshotHeader
from swarmapi.override import override

_NEVER: Final = 10**12


class NotReady(Exception):
    """This member does not lead, or has not yet committed anything in its term."""


class Refused(Exception):
    """The membership change cannot be made now."""


class _Read:
    """A read waiting for a quorum to confirm the leadership after it was asked."""

    def __init__(
        self, index: int, asked_at: dict[str, int], done: Callable[[int | None], None]
    ) -> None:
        self.index = index
        self.asked_at = asked_at
        self.done = done


class RaftCore(Following):
    """A member. `bootstrap` names the members of a new cluster, the same on each of them.

    A member that joins has none: until it holds the entry that adds it, it can neither campaign
    nor count itself. With a snapshot or a log on the disk, `bootstrap` says nothing. A `mute` one
    lost what it had: it may have voted, and acknowledged what it holds no more (see `speak_from`).
    Raises Corrupt when snapshot and log do not fit together.
    """

    def __init__(
        self,
        member: Member,
        bootstrap: Mapping[str, str],
        machine: StateMachine,
        journal: Journal,
        snapshots: Snapshots,
        outbox: Outbox,
        config: RaftConfig,
        *,
        mute: bool = False,
    ) -> None:
        self.config = config
        self.mute = mute
        self._speaks_from: tuple[int, Callable[[], None]] | None = None
        self.me = member
        self.log = JournalPort(journal)
        self._machine = machine
        self._snapshots = snapshots
        self._outbox = outbox
        self._progress = {}
        self._ack_sequence = 0
        self._booted_at = monotonic()
        self._leader_heard_at = float("-inf")
        self._may_campaign = False
        self._pre_vote_round = 0
        self._pre_vote_term = 0
        self._pre_voters: set[str] = set()
        self._pre_vote_won = 0
        self._voters: set[str] = set()
        self._changing_index = 0
        self._applied_bytes = 0
        self._reception: Reception | None = None
        self._reads: list[_Read] = []
        self._port = TransportPort(outbox, self._make_ack)
        found = snapshots.load()
        header = self._recover(found[0] if found else None, bootstrap)
        members = self._members_in_log(header)
        self._voter = member.id in members
        others = [node for node in members.values() if node.id != member.id]
        super().__init__(
            member, others, self._original_conf(), nodeClass=Member, transport=self._port
        )
        self._SyncObj__needLoadDumpFile = False
        self._SyncObj__raftCommitIndex = self.log.getRaftCommitIndex()
        self._snapshot_index = 1
        if found:
            self._snapshot_index = self._SyncObj__raftLastApplied = found[0].index
            machine.restored(found[0].index, found[1])
        for node in self._peers():
            outbox.add_peer(node)

    def _original_conf(self) -> SyncObjConf:
        return SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,
            journalFile=self.log,
            fullDumpFile=None,
            dynamicMembershipChange=True,
            commandsWaitLeader=False,
            commandsQueueSize=1000,
            raftMinTimeout=self.config.election_min_s,
            raftMaxTimeout=self.config.election_max_s,
            appendEntriesPeriod=self.config.heartbeat_s,
            leaderFallbackTimeout=self.config.leader_fallback_s,
            logCompactionMinEntries=_NEVER,
            logCompactionMinTime=_NEVER,
            appendEntriesBatchSizeBytes=_NEVER,
        )

    def _recover(
        self, header: SnapshotHeader | None, bootstrap: Mapping[str, str]
    ) -> SnapshotHeader | None:
        journal = self.log.journal
        if header is None:
            if not journal.entries:
                journal.add(NO_OP, 1, 0)
                for index, spec in enumerate(sorted(bootstrap.items()), start=2):
                    journal.add(membership_command(ADD, spec), index, 0)
                journal.sync()
            if journal.entries[0][1] > 1:
                raise Corrupt(
                    f"log starts at {journal.entries[0][1]} without a snapshot; restore this member"
                )
            return None
        if journal.entries and journal.entries[0][1] > header.index:
            raise Corrupt(
                f"log starts at {journal.entries[0][1]}, snapshot ends at {header.index};"
                " restore this member"
            )
        if not journal.entries or self.log.term_at(header.index) != header.term:
            journal.reset(NO_OP, header.index, header.term)
        self.log.setRaftCommitIndex(max(self.log.getRaftCommitIndex(), header.index))
        return header

    def snapshot_index(self) -> int:
        """The last entry in the snapshot."""
        return self._snapshot_index

    def _quorum(self) -> int:
        return (len(self.others) + 1) // 2 + 1

    # What the driver asks for

    def propose(self, payload: bytes) -> tuple[int, int]:
        """Append a command; return its index and term. Raises NotReady, ValueError when large."""
        if not self.ready:
            raise NotReady(self.leader_id)
        if len(payload) > self.config.command_max_bytes:
            raise ValueError(f"command has {len(payload)} bytes")
        index = self.last_index + 1
        self.log.add(REGULAR + payload, index, self.term)
        return index, self.term

    def change_members(
        self, add: bool, node_id: str, address: str, done: Callable[[bool], None]
    ) -> None:
        """Append a membership change; `done(False)` when leadership was lost before its commit.

        Raises NotReady; Refused while another change is not yet committed, for this member's own
        removal, and when nothing would change.
        """
        if not self.ready:
            raise NotReady(self.leader_id)
        if node_id == self.me.id:
            raise Refused("the leader cannot change itself; transfer the leadership first")
        if self.is_changing:
            raise Refused("another membership change is not committed yet; retry")
        if add == (node_id in self.members()):
            raise Refused(f"node {node_id} is {'already' if add else 'not'} a member")
        request = membership_command(ADD if add else REMOVE, (node_id, address))
        self._applyCommand(request[1:], lambda _, reason: done(reason == 0), MEMBERSHIP[0])
        self._checkCommandsToApply()

    def read_index(self, done: Callable[[int | None], None]) -> None:
        """Call `done(index)` once a read of the state is linearizable, `done(None)` otherwise."""
        if not self.ready:
            done(None)
            return
        asked_at = {
            member.id: self._progress[member.id].sequence if member.id in self._progress else 0
            for member in self.others
        }
        fresh = not any(read.asked_at == asked_at for read in self._reads)
        self._reads.append(_Read(self.commit_index, asked_at, done))
        if fresh:
            self._SyncObj__sendAppendEntries()
        self._check_reads()

    def transfer(self, target: str | None) -> bool:
        """Ask a follower that has the whole log to take over; False when none can now."""
        outcome: list[int] = []
        node = None if target is None else Member((target, ""))
        self.transferLeadership(node, lambda _, reason: outcome.append(reason))
        return outcome == [0]

    def speak_from(self, index: int, done: Callable[[], None]) -> None:
        """Listen to leaders again, and vote, and say so, once an entry is applied here.

        The entry is one behind the removal of this member, committed since it lost its log: a
        majority without it holds all that it ever acknowledged, no leader that it once left is
        still one of a quorum, and no term in which it may have voted can still be won by a log
        that lacks the removal.
        """
        self._speaks_from = index, done

    def _end_silence(self) -> None:
        if self._speaks_from is not None and self.applied_index >= self._speaks_from[0]:
            (_, done), self._speaks_from, self.mute = self._speaks_from, None, False
            done()

    @property
    def is_changing(self) -> bool:
        """Whether a membership change is not yet committed and applied."""
        return self.applied_index < self._changing_index

    def could_do_without(self, node_id: str) -> bool:
        """Whether most of the members but this one have answered this leader lately."""
        others = [member for member in self.others if member.id != node_id]
        heard = self._SyncObj__lastResponseTime
        since = monotonic() - self.config.leader_fallback_s
        answered = sum(heard.get(member, since) > since for member in others)
        return answered + 1 > (len(others) + 1) // 2

    def resign(self) -> None:
        """Lead no longer, at once, and have the follower with the most of the log try to.

        Whether it has enough is for the others to say. Where there are none, nobody could.
        """
        if not self.is_leader or not self.others:
            return
        matching = self._SyncObj__raftMatchIndex
        heirs = [member for member in self._peers() if member in self._SyncObj__connectedNodes]
        if heirs:
            heir = max(heirs, key=lambda member: matching.get(member, 0))
            self._outbox.send(heir.id, m.TimeoutNow(self.term))
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        timeout_s = self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftElectionDeadline = monotonic() + timeout_s

    def connected(self, peer: str) -> None:
        """Note a link to `peer`."""
        self._SyncObj__connectedNodes.add(self._member(peer))

    def disconnected(self, peer: str) -> None:
        """Note the end of the link to `peer`."""
        self._SyncObj__onNodeDisconnected(self._member(peer))

    def accepts(self, peer: str) -> bool:
        """Tell whether `peer` may open a link.

        Members may. So may anybody while no leader is heard: this member may be new, or have
        slept through changes and not know its leader. Raft is safe without consulting the
        configuration on receipt (Raft thesis, 4.1); links are still to the cluster's managers only.
        """
        if peer == self.leader_id or peer in self.members():
            return True
        silent_s = monotonic() - self._leader_heard_at
        return not self.is_leader and silent_s > self.config.election_max_s

    def pump(self) -> None:
        """Send new entries without waiting for the tick."""
        if self.is_leader:
            self._replicate()

    def tick(self) -> None:
        """Let time act: elections, commits, applying, heartbeats, snapshots."""
        if self.log.journal.dirty and self.is_leader:
            # A leader counts itself for every entry it holds, so all of them must be durable.
            self.log.journal.sync()
        self._open_election()
        self._onTick()
        self._may_campaign = False
        self._end_silence()
        if self.is_leader:
            self._check_reads()

    def _member(self, peer: str) -> Member:
        for member in self.others:
            if member.id == peer:
                return member
        return Member((peer, ""))

    def _check_reads(self) -> None:
        current = {member.id for member in self.others} & self._progress.keys()
        while self._reads:
            read = self._reads[0]
            confirmed = 1 + sum(
                self._progress[peer].acked > sequence
                for peer, sequence in read.asked_at.items()
                if peer in current
            )
            if confirmed < self._quorum() or self.applied_index < read.index:
                return
            self._reads.pop(0)
            read.done(read.index)

    # Elections

    def _open_election(self) -> None:
        """Decide whether this tick may start a candidacy: with a pre-vote won, or alone."""
        now = monotonic()
        if self.is_leader or not self._voter or self.mute:
            return
        if self._SyncObj__transferInProgress:
            self._may_campaign = True
            return
        won, self._pre_vote_won = self._pre_vote_won, 0
        if won == self.term + 1 or not self.others:
            self._may_campaign = True
            self._SyncObj__raftElectionDeadline = 0
        elif self._SyncObj__raftElectionDeadline < now:
            self._SyncObj__raftElectionDeadline = now + self._SyncObj__generateRaftTimeout()
            self._SyncObj__raftLeader = None
            self._ask_pre_votes()

    def _ask_pre_votes(self) -> None:
        self._pre_vote_round += 1
        self._pre_vote_term = self.term + 1
        self._pre_voters = set()
        _, index, term = self.log[-1]
        for member in self._peers():
            question = m.PreVote(self._pre_vote_term, index, term, self._pre_vote_round)
            self._outbox.send(member.id, question)

    def _SyncObj__connectedToAnyone(self) -> bool:
        """Answer the one question the original asks before a candidacy."""
        if self._may_campaign:
            self._port.transferring = self._SyncObj__transferInProgress
        return self._may_campaign

    @override
    def _SyncObj__setCurrentTerm(self, term: int, vote: str | None) -> None:
        if term != self.term:
            self._voters = set()
            self._pre_vote_term = 0
        super()._SyncObj__setCurrentTerm(term, vote)

    @override
    def _SyncObj__onBecomeLeader(self) -> None:
        self._progress = {}
        super()._SyncObj__onBecomeLeader()
        if not self.others:
            # The same tick would commit the no-op on the word of this member alone.
            self.log.journal.sync()

    @override
    def _SyncObj__setState(self, state: int) -> None:
        led = self.is_leader
        super()._SyncObj__setState(state)
        if led and not self.is_leader:
            reads, self._reads = self._reads, []
            for read in reads:
                read.done(None)
            waiting = self._SyncObj__commandsWaitingCommit
            callbacks = [callback for each in waiting.values() for _, callback in each]
            waiting.clear()
            for callback in callbacks:
                callback(None, -1)
            self._machine.lost_leadership()

    def _step_down(self, term: int) -> None:
        if term > self.term:
            self._SyncObj__setCurrentTerm(term, None)
            self._SyncObj__setState(FOLLOWER)
            self._SyncObj__raftLeader = None
            timeout_s = self._SyncObj__generateRaftTimeout()
            self._SyncObj__raftElectionDeadline = monotonic() + timeout_s

    def _in_lease(self) -> bool:
        """Whether a leader was heard so lately that nobody else may be voted for."""
        if self.is_leader:
            return True
        now = monotonic()
        if now - self._leader_heard_at < self.config.election_min_s:
            return True
        booting = now - self._booted_at < self.config.election_min_s
        return booting and self._SyncObj__raftLeader is None and self.last_index > 1

    # Messages

    def receive(self, peer: str, message: m.Message) -> None:
        """Take one message of the member `peer`."""
        member = self._member(peer)
        self._ack_sequence = 0
        match message:
            case m.TermHint():
                self._step_down(message.term)
            case m.PreVote():
                self._on_pre_vote(member, message)
            case m.PreVoteAnswer():
                self._on_pre_vote_answer(member, message)
            case m.RequestVote():
                self._on_request_vote(member, message)
            case m.Vote():
                if message.term == self.term and member in self.others and peer not in self._voters:
                    self._voters.add(peer)
                    self._original(member, type="response_vote", term=message.term)
            case m.TimeoutNow() if not self.mute:
                self._original(member, type="timeout_now", term=message.term)
            case m.Append() | m.SnapshotChunk() if self.mute and self._speaks_from is None:
                pass  # it forgot which terms it may not obey: an answer could confirm an old leader
            case m.Append() | m.SnapshotChunk():
                self._on_leader(member, message)
            case m.Ack():
                self._step_down(message.term)
                self._on_ack(member, message)
            case m.SnapshotAck():
                self._on_snapshot_ack(member, message)

    def _on_pre_vote(self, member: Member, message: m.PreVote) -> None:
        free = message.term > self.term or (
            message.term == self.term and self._SyncObj__votedForNodeId is None
        )
        _, index, term = self.log[-1]
        current = (message.last_term, message.last_index) >= (term, index)
        granted = free and current and not self._in_lease() and not self.mute
        answer = m.PreVoteAnswer(self.term, granted, message.round, message.term)
        self._outbox.send(member.id, answer)

    def _on_pre_vote_answer(self, member: Member, message: m.PreVoteAnswer) -> None:
        if not message.granted:
            self._step_down(message.term)
            return
        asked = (self._pre_vote_round, self._pre_vote_term)
        if (message.round, message.asked_term) != asked or self._pre_vote_term != self.term + 1:
            return
        if member in self.others and not self.is_leader:
            self._pre_voters.add(member.id)
            if len(self._pre_voters) + 1 >= self._quorum():
                self._pre_vote_won, self._pre_vote_term = self._pre_vote_term, 0

    def _on_request_vote(self, member: Member, message: m.RequestVote) -> None:
        if message.term < self.term:
            self._outbox.send(member.id, m.TermHint(self.term))
        elif not self.mute and (message.transfer or not self._in_lease()):
            self._original(
                member,
                type="request_vote",
                term=message.term,
                last_log_index=message.last_index,
                last_log_term=message.last_term,
            )

    def _on_leader(self, member: Member, message: m.Append | m.SnapshotChunk) -> None:
        if message.term < self.term:
            self._outbox.send(member.id, m.TermHint(self.term))
            return
        if message.term == self.term and self.is_leader:
            raise Halt(f"{member.id} and this member both lead term {self.term}")
        self._leader_heard_at = monotonic()
        self._pre_vote_term = self._pre_vote_won = 0
        self._ack_sequence = message.sequence
        if isinstance(message, m.Append):
            self._on_append(member, message)
        else:
            self._on_chunk(member, message)

    def _make_ack(self, message: dict[str, Any]) -> m.Ack:
        return m.Ack(
            term=self.term,
            sequence=self._ack_sequence,
            next_index=message["next_node_idx"],
            reset=message["reset"],
            success=message["success"],
        )

    # Applying

    def _SyncObj__applyLogEntries(self) -> bool:
        applied = self.applied_index
        last = min(self.commit_index, applied + self.config.apply_max)
        if last <= applied:
            return False
        for command, index, term in self.log.between(applied + 1, last):
            if index != self.applied_index + 1:
                raise Halt(f"entry {index} would be applied after {self.applied_index}")
            regular = command[:1] == REGULAR
            self._machine.applied(index, term, command[1:] if regular else b"")
            self._SyncObj__raftLastApplied = index
            self._applied_bytes += len(command)
            for proposed, callback in self._SyncObj__commandsWaitingCommit.pop(index, ()):
                callback(None, 0 if proposed == term else -1)
        return False

    def _SyncObj__loadDumpFile(self, clear: bool) -> None:
        raise Halt("the original's snapshots are out of use")

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        raise Halt("the original's apply is out of use")

    # Membership

    def _SyncObj__changeCluster(self, request: list[Any]) -> bool:
        """Let one change at a time through, and only after a commit in this term."""
        if not self.ready or self.applied_index < self._changing_index:
            return False
        if request[1] == self.me.id or not self._SyncObj__doChangeCluster(request):
            return False
        self._changing_index = self.last_index + 1
        return True

    @override
    def _SyncObj__doChangeCluster(self, request: list[Any], reverse: bool = False) -> bool:
        if request[1] == self.me.id:
            self._voter = (request[0] == ADD) != reverse
        return super()._SyncObj__doChangeCluster(request, reverse)
