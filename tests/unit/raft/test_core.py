"""What one member answers to messages, also to late, doubled and contradictory ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.raft import messages as m
from manager.raft.core import NotReady, RaftCore, Refused
from manager.raft.disk import FileDisk
from manager.raft.driver import Connected, Driver, Received, Request
from manager.raft.journal import Corrupt, Entry, Journal
from manager.raft.pinned import NO_OP, REGULAR
from manager.raft.ports import Frozen, Member
from manager.raft.replication import Halt, RaftConfig
from manager.raft.snapshot import SnapshotHeader, pack_snapshot, read_snapshot
from tests.sim.raft.host import SimDisk, SimSnapshots
from tests.sim.raft.world import World

Batch = list[m.Message]


class Machine:
    """Records what it applied."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.index = 0
        self.lost = 0

    def applied(self, index: int, term: int, payload: bytes) -> None:
        self.index = index
        if payload:
            self.payloads.append(payload)

    def restored(self, index: int, parts: list[bytes]) -> None:
        self.index = index
        self.payloads = list(parts)

    def lost_leadership(self) -> None:
        self.lost += 1

    def freeze(self) -> Frozen:
        return Frozen(self.index, list(self.payloads))


class Bench:
    """One member whose peers are the test."""

    def __init__(
        self,
        path: Path,
        world: World,
        members: tuple[str, ...] = ("a", "b", "c"),
        config: RaftConfig | None = None,
    ) -> None:
        self.world = world
        self.sent: list[tuple[str, m.Message]] = []
        self.machine = Machine()
        self.driver = Driver(self)
        self.disk = SimDisk(world)
        self.journal = Journal(FileDisk(path))
        self.snapshots = SimSnapshots(world, self.disk, self.machine)  # type: ignore[arg-type]  # only freeze() is used
        self.core = RaftCore(
            Member(("a", "a:1")),
            {name: f"{name}:1" for name in members},
            self.machine,
            self.journal,
            self.snapshots,
            self.driver,
            config or RaftConfig(),
        )
        for peer in members[1:]:
            self.driver.inbox.append(Connected(peer))
        self.turn()

    def send(self, peer: str, batch: object) -> None:
        assert isinstance(batch, list)
        self.sent += [(peer, message) for message in batch]

    def add(self, member: Member) -> None:
        """Links need nothing here."""

    def drop(self, peer: str) -> None:
        """Links need nothing here."""

    def turn(self, seconds: float = 0.0) -> None:
        self.world.now += seconds
        write = self.driver.begin(self.core)
        if write is not None:
            self.journal.write(write)
        self.driver.finish(self.core, write)

    def hear(self, peer: str, *batch: m.Message) -> Batch:
        """Deliver messages; return what was sent to the peer in the two turns after."""
        self.sent.clear()
        self.driver.inbox.append(Received(peer, list(batch)))
        self.turn()
        self.turn()
        return [message for to, message in self.sent if to == peer]

    def lead(self) -> None:
        """Win an election with the vote of b."""
        self.sent.clear()
        self.turn(2.0)
        self.turn()
        question = next(message for _, message in self.sent if isinstance(message, m.PreVote))
        term = self.core.term
        self.hear("b", m.PreVoteAnswer(term, True, question.round, question.term))
        self.turn()
        self.hear("b", m.Vote(self.core.term))
        assert self.core.is_leader

    def acknowledge(self, peer: str, term: int | None = None) -> None:
        """Acknowledge the leader's whole log."""
        sequence = self.core._progress[peer].sequence
        term = self.core.term if term is None else term
        ack = m.Ack(term, sequence, self.core.last_index + 1, False, True)
        self.hear(peer, ack)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    world = World(1)
    with world.entered():
        yield Bench(tmp_path, world)


def append(term: int, previous: tuple[int, int], *entries: Entry, commit: int = 0) -> m.Append:
    return m.Append(term, 1, commit, previous[0], previous[1], list(entries))


def test_who_lost_its_log_obeys_no_leader_until_it_was_removed(bench: Bench) -> None:
    """It forgot the term it lives in: its answer could confirm a leader that was deposed."""
    bench.core.mute = True
    beginning = append(1, (0, 0))
    assert bench.hear("b", beginning) == []
    bench.core.speak_from(9, lambda: None)
    assert [type(answer) for answer in bench.hear("b", beginning)] == [m.Ack]


def entry(index: int, term: int, payload: bytes = b"x") -> Entry:
    return REGULAR + payload, index, term


def acks(batch: Batch) -> list[m.Ack]:
    return [message for message in batch if isinstance(message, m.Ack)]


def test_an_acknowledgement_of_an_earlier_term_does_not_count(bench: Bench) -> None:
    bench.lead()
    committed = bench.core.commit_index
    bench.acknowledge("b", term=bench.core.term - 1)
    assert bench.core.commit_index == committed
    bench.acknowledge("b")
    assert bench.core.commit_index == bench.core.last_index


def test_matching_entries_are_never_truncated(bench: Bench) -> None:
    bench.hear("b", append(1, (4, 0), entry(5, 1), entry(6, 1), entry(7, 1)))
    late = bench.hear("b", append(1, (4, 0), entry(5, 1)))
    assert bench.core.last_index == 7
    assert acks(late)[0].next_index == 6


def test_conflicting_entries_are_replaced(bench: Bench) -> None:
    bench.hear("b", append(1, (4, 0), entry(5, 1), entry(6, 1)))
    bench.hear("c", append(2, (4, 0), entry(5, 2, b"y"), commit=5))
    assert bench.core.last_index == 5
    assert bench.machine.payloads == [b"y"]


def test_committed_entries_are_not_replaced(bench: Bench) -> None:
    bench.hear("b", append(1, (4, 0), entry(5, 1), commit=5))
    with pytest.raises(Halt, match="committed entry 5"):
        bench.hear("c", append(2, (4, 0), entry(5, 2)))


def test_a_gap_goes_back_to_the_commit_in_one_step(bench: Bench) -> None:
    answer = acks(bench.hear("b", append(1, (50, 1), entry(51, 1))))
    assert [(ack.success, ack.reset, ack.next_index) for ack in answer] == [
        (False, True, bench.core.commit_index + 1)
    ]


def test_the_commit_index_of_a_mismatch_is_not_believed(bench: Bench) -> None:
    bench.hear("b", append(1, (4, 0), entry(5, 1)))
    before = bench.core.commit_index
    bench.hear("c", append(2, (9, 2), commit=9))
    assert bench.core.commit_index == before


def test_a_heartbeat_commits_no_further_than_what_matches(bench: Bench) -> None:
    bench.hear("b", append(1, (4, 0), entry(5, 1), entry(6, 1)))
    bench.hear("c", append(2, (4, 0), commit=6))
    assert bench.core.commit_index == 4


def test_a_leader_has_on_its_disk_what_it_counts_itself_for(bench: Bench) -> None:
    bench.lead()
    bench.acknowledge("b")
    bench.turn()
    bench.core.propose(b"x")
    bench.core.tick()
    assert bench.journal.synced_index == bench.core.last_index


def test_the_entry_that_makes_a_lone_member_ready_is_on_its_disk(tmp_path: Path) -> None:
    world = World(1)
    with world.entered():
        bench = Bench(tmp_path, world, ("a",))
        world.now += 2.0
        while not bench.core.is_leader:
            bench.core.tick()
        assert bench.journal.synced_index >= bench.core.commit_index


def test_an_old_leader_is_told_of_the_new_term(bench: Bench) -> None:
    bench.hear("b", append(3, (4, 0)))
    assert bench.hear("c", append(2, (4, 0))) == [m.TermHint(3)]


def test_a_shorter_log_wins_no_pre_vote(bench: Bench) -> None:
    bench.hear("b", append(1, (4, 0), entry(5, 1)))
    bench.world.now += 2.0
    assert m.PreVoteAnswer(1, False, 1, 2) in bench.hear("c", m.PreVote(2, 4, 0, 1))
    assert m.PreVoteAnswer(1, True, 2, 2) in bench.hear("c", m.PreVote(2, 5, 1, 2))


def test_a_minority_wins_no_pre_vote(tmp_path: Path) -> None:
    world = World(1)
    with world.entered():
        bench = Bench(tmp_path, world, ("a", "b", "c", "d", "e"))
        bench.turn(2.0)
        bench.turn()
        question = next(message for _, message in bench.sent if isinstance(message, m.PreVote))
        bench.hear("b", m.PreVoteAnswer(0, True, question.round, question.term))
        assert bench.core.term == 0
        bench.hear("c", m.PreVoteAnswer(0, True, question.round, question.term))
        assert bench.core.term == 1


def test_an_acknowledgement_waits_for_the_disk(bench: Bench) -> None:
    bench.driver.inbox.append(Received("b", [append(1, (4, 0), entry(5, 1))]))
    bench.sent.clear()
    write = bench.driver.begin(bench.core)
    assert write is not None
    assert not acks([message for _, message in bench.sent])
    bench.journal.write(write)
    bench.driver.finish(bench.core, write)
    assert acks([message for _, message in bench.sent])


def test_nobody_is_voted_for_while_the_leader_is_heard(bench: Bench) -> None:
    bench.hear("b", append(1, (4, 0)))
    assert not bench.hear("c", m.RequestVote(2, 9, 1))
    assert bench.core.term == 1
    answer = bench.hear("c", m.PreVote(2, 9, 1, 1))
    assert answer == [m.PreVoteAnswer(1, False, 1, 2)]
    assert m.Vote(2) in bench.hear("c", m.RequestVote(2, 9, 1, transfer=True))


def test_one_vote_in_a_term(bench: Bench) -> None:
    bench.world.now += 1.0
    assert m.Vote(5) in bench.hear("b", m.RequestVote(5, 9, 1))
    assert m.Vote(5) not in bench.hear("c", m.RequestVote(5, 9, 1))
    assert (bench.journal.term, bench.journal.vote) == (5, "b")


def test_a_vote_survives_a_restart(tmp_path: Path) -> None:
    world = World(1)
    with world.entered():
        bench = Bench(tmp_path, world)
        world.now += 1.0
        assert m.Vote(5) in bench.hear("b", m.RequestVote(5, 9, 1))
        again = Bench(tmp_path, world)
        world.now += 1.0
        assert again.core.term == 5
        assert m.Vote(5) not in again.hear("c", m.RequestVote(5, 9, 1))


def test_a_doubled_vote_counts_once(tmp_path: Path) -> None:
    world = World(1)
    with world.entered():
        bench = Bench(tmp_path, world, ("a", "b", "c", "d", "e"))
        bench.turn(2.0)
        bench.turn()
        question = next(message for _, message in bench.sent if isinstance(message, m.PreVote))
        for peer in ("b", "c"):
            bench.hear(peer, m.PreVoteAnswer(0, True, question.round, question.term))
        bench.turn()
        bench.hear("b", m.Vote(bench.core.term), m.Vote(bench.core.term))
        assert not bench.core.is_leader
        bench.hear("c", m.Vote(bench.core.term))
        assert bench.core.is_leader


def test_one_membership_change_at_a_time(bench: Bench) -> None:
    outcomes: list[bool] = []
    with pytest.raises(NotReady):
        bench.core.change_members(True, "d", "d:1", outcomes.append)
    bench.lead()
    bench.acknowledge("b")
    bench.core.change_members(False, "c", "c:1", outcomes.append)
    with pytest.raises(Refused, match="not committed yet"):
        bench.core.change_members(False, "b", "b:1", outcomes.append)
    bench.turn()
    bench.acknowledge("b")
    assert outcomes == [True]
    assert list(bench.core.members()) == ["a", "b"]
    with pytest.raises(Refused, match="transfer the leadership"):
        bench.core.change_members(False, "a", "a:1", outcomes.append)


def test_a_read_waits_for_a_quorum_heard_after_it(bench: Bench) -> None:
    bench.lead()
    bench.acknowledge("b")
    answers: list[int | None] = []
    old = bench.core._progress["b"].sequence
    bench.core.read_index(answers.append)
    bench.hear("b", m.Ack(bench.core.term, old, bench.core.last_index + 1, False, True))
    assert answers == []
    bench.acknowledge("b")
    assert answers == [bench.core.commit_index]


def test_two_of_four_are_no_quorum_of_a_read(tmp_path: Path) -> None:
    world = World(1)
    with world.entered():
        bench = Bench(tmp_path, world, ("a", "b", "c", "d"))
        bench.turn(2.0)
        bench.turn()
        question = next(message for _, message in bench.sent if isinstance(message, m.PreVote))
        for peer in ("b", "c"):
            bench.hear(peer, m.PreVoteAnswer(0, True, question.round, question.term))
        bench.turn()
        for peer in ("b", "c"):
            bench.hear(peer, m.Vote(bench.core.term))
        for peer in ("b", "c"):
            bench.acknowledge(peer)
        answers: list[int | None] = []
        bench.core.read_index(answers.append)
        bench.acknowledge("b")
        assert answers == []
        bench.acknowledge("c")
        assert answers == [bench.core.commit_index]


def test_a_snapshot_names_the_members_as_of_its_entry(bench: Bench) -> None:
    bench.lead()
    bench.acknowledge("b")
    bench.core.change_members(False, "c", "c:1", lambda done: None)
    bench.snapshots.request()
    for _ in range(3):
        bench.turn(0.5)
        bench.hear("b", m.Ack(bench.core.term, 0, bench.core.last_index, False, True))
    assert bench.core.commit_index < bench.core.last_index
    header = read_snapshot(bench.disk.snapshot or b"")[0]
    assert [name for name, _ in header.members] == ["a", "b", "c"]


def test_b60_a_leader_without_a_quorum_steps_down(bench: Bench) -> None:
    bench.lead()
    bench.acknowledge("b")
    answers: list[int | None] = []
    bench.core.read_index(answers.append)
    bench.turn(1.5)
    assert not bench.core.is_leader
    assert answers == [None]
    assert bench.machine.lost == 1


def test_strangers_are_let_in_only_while_no_leader_is_heard(bench: Bench) -> None:
    bench.world.now += 5.0
    assert bench.core.accepts("stranger")
    bench.hear("b", append(1, (4, 0)))
    assert not bench.core.accepts("stranger")
    assert bench.core.accepts("c")


def test_a_damaged_snapshot_is_not_installed(bench: Bench) -> None:
    header = SnapshotHeader(40, 1, (("a", "a:1"), ("b", "b:1")))
    data = b"".join(pack_snapshot(header, [b"state"]))
    bad = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    bench.hear("b", m.SnapshotChunk(1, 1, 40, 0, len(bad), bad))
    assert bench.core.applied_index < 40
    half = len(data) // 2
    bench.hear("b", m.SnapshotChunk(1, 2, 40, 0, len(data), data[:half]))
    wrong = bench.hear("b", m.SnapshotChunk(1, 3, 40, half + 1, len(data), data[half + 1 :]))
    assert m.SnapshotAck(1, 40, -1) in wrong
    bench.hear("b", m.SnapshotChunk(1, 3, 40, half, len(data), data[half:]))
    assert bench.core.applied_index == 40
    assert bench.machine.payloads == [b"state"]
    assert list(bench.core.members()) == ["a", "b"]


def test_an_older_snapshot_replaces_nothing(bench: Bench) -> None:
    entries = [entry(index, 1) for index in range(5, 9)]
    bench.hear("b", append(1, (4, 0), *entries, commit=8))
    data = b"".join(pack_snapshot(SnapshotHeader(6, 1, (("a", "a:1"),)), [b"old"]))
    answer = acks(bench.hear("b", m.SnapshotChunk(1, 2, 6, 0, len(data), data)))
    assert [ack.next_index for ack in answer] == [9]
    assert bench.core.applied_index == 8
    assert bench.machine.payloads == [b"x"] * 4


def test_few_large_entries_stay_behind_a_snapshot(tmp_path: Path) -> None:
    world = World(1)
    config = RaftConfig(snapshot_entries=10, keep_bytes=250)
    with world.entered():
        bench = Bench(tmp_path, world, config=config)
        entries = [entry(index, 1, b"x" * 99) for index in range(5, 35)]
        bench.hear("b", append(1, (4, 0), *entries, commit=34))
        bench.turn(2.0)
        assert bench.journal.entries[0][1] == 33
        assert len(bench.machine.payloads) == 30


def test_a_log_without_its_snapshot_is_refused(tmp_path: Path) -> None:
    journal = Journal(FileDisk(tmp_path))
    journal.add(NO_OP, 7, 1)
    journal.sync()
    world = World(1)
    with world.entered(), pytest.raises(Corrupt, match="without a snapshot"):
        Bench(tmp_path, world)


def test_a_leader_whose_disk_has_no_room_leads_no_more_and_names_an_heir(bench: Bench) -> None:
    bench.lead()
    bench.acknowledge("b")
    bench.core.propose(b"x")
    bench.sent.clear()
    write = bench.driver.begin(bench.core)
    assert write is not None
    bench.driver.inbox += [Received("c", [m.PreVote(9, 9, 9, 1)])] * 1000
    read: list[int | None] = []
    bench.driver.inbox.append(Request(lambda core: core.read_index(read.append)))
    bench.driver.stall(bench.core)
    assert not bench.core.is_leader
    assert bench.core.leader_id == ""
    assert bench.machine.lost == 1, "what is in flight has an unknown outcome"
    assert read == [None], "who asks is answered"
    assert not bench.driver.inbox, "what comes meanwhile does not pile up"
    assert ("b", m.TimeoutNow(bench.core.term)) in bench.sent
    assert all(isinstance(message, m.MAY_OVERTAKE_SYNC) for _, message in bench.sent)
    bench.journal.write(write)
    bench.driver.finish(bench.core, write)
    assert bench.journal.synced_index == bench.core.last_index


def test_a_lone_member_without_room_still_answers_reads(tmp_path: Path) -> None:
    world = World(1)
    with world.entered():
        bench = Bench(tmp_path, world, ("a",))
        bench.turn(2.0)
        bench.turn()
        bench.core.propose(b"x")
        assert bench.driver.begin(bench.core) is not None
        read: list[int | None] = []
        bench.driver.inbox.append(Request(lambda core: core.read_index(read.append)))
        bench.driver.stall(bench.core)
        assert bench.core.is_leader
        assert read == [bench.core.commit_index]
        assert bench.machine.payloads == []


def test_a_member_that_lost_its_log_is_mute_until_it_is_one_anew(tmp_path: Path) -> None:
    world = World(1)
    with world.entered():
        bench = Bench(tmp_path, world)
        bench.core.mute = True
        whole: list[str] = []
        bench.core.speak_from(6, lambda: whole.append("yes"))
        bench.turn(3.0)
        bench.turn(3.0)
        assert not any(isinstance(message, m.PreVote) for _, message in bench.sent)
        (answer,) = bench.hear("b", m.PreVote(9, 9, 9, 1))
        assert isinstance(answer, m.PreVoteAnswer)
        assert not answer.granted
        assert bench.hear("b", m.RequestVote(9, 9, 9, True)) == []
        assert (bench.core.term, bench.journal.vote) == (0, None)
        bench.hear("b", m.Append(2, 1, 4, 4, 0, [(REGULAR + b"x", 5, 2)]))
        bench.hear("b", m.Append(2, 2, 5, 5, 2, []))
        bench.hear("b", m.TimeoutNow(2))
        assert (bench.core.applied_index, bench.core.mute) == (5, True)
        bench.turn(3.0)
        assert bench.core.term == 2, "nor does it take over"
        bench.hear("b", m.Append(2, 3, 6, 5, 2, [(REGULAR + b"y", 6, 2)]))
        bench.turn()
        assert (bench.core.mute, whole) == (False, ["yes"])
        bench.turn(3.0)
        assert m.Vote(9) in bench.hear("c", m.RequestVote(9, 9, 9, True))


def test_who_lost_its_log_is_not_asked_in_a_loop(bench: Bench) -> None:
    bench.lead()
    bench.acknowledge("b")
    bench.core.propose(b"x")
    bench.turn()
    progress = bench.core._progress["b"]
    answers = bench.hear("b", m.Ack(bench.core.term, progress.sequence, 2, True, False))
    assert not [message for message in answers if isinstance(message, m.Append)]
    bench.sent.clear()
    bench.turn(0.2)
    assert any(peer == "b" and isinstance(message, m.Append) for peer, message in bench.sent)


def test_a_member_is_taken_back_only_if_the_others_are_a_quorum(bench: Bench) -> None:
    bench.lead()
    bench.acknowledge("b")
    bench.world.now += 0.9
    bench.acknowledge("b")
    bench.world.now += 0.2
    assert bench.core.could_do_without("c")
    assert not bench.core.could_do_without("b")
