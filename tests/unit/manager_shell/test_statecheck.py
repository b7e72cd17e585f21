"""Managers compare their states: who differs from most of them says so and leads no more."""

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from manager.replica import LogEntry, Replica
from manager.statecheck import StateCheck
from manager.store import snapshot
from manager.store.changes import CheckState, Delete, PutService, PutSpecVersion
from manager.store.digest import agreed, digest_of
from swarmapi.model.objects import Service, SpecVersion
from tests.builders import spec
from tests.unit.manager_shell.cluster import MemoryCluster


class Others:
    """Other managers' replicas, fed with what the cluster's log commits."""

    def __init__(self, cluster: MemoryCluster, *names: str) -> None:
        self.replicas = {name: Replica() for name in names}
        self.silent: set[str] = set()
        self._apply = cluster.replica.apply
        cluster.replica.apply = self._all  # type: ignore[method-assign]

    def _all(self, batch: Sequence[LogEntry]) -> None:
        self._apply(batch)
        for replica in self.replicas.values():
            replica.apply(batch)

    async def ask(self, index: int) -> dict[str, str]:
        """Answer for them."""
        return {
            name: "" if name in self.silent else replica.digest_at(index)
            for name, replica in self.replicas.items()
        }


def bend(replica: Replica, address: str = "10.9.9.9") -> None:
    """Let a state go astray."""
    replica.view.put_node(replace(replica.view.nodes["m1"], address=address))
    replica.restore(snapshot.dump(replica.view))


async def busy(cluster: MemoryCluster) -> None:
    """Found a cluster and let its loop work."""
    await cluster.found()
    await cluster.settle()


def test_the_digest_follows_every_change() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        await busy(cluster)
        replica = cluster.replica
        assert replica.digest == digest_of(replica.view) != 0
        restored = Replica()
        restored.restore(snapshot.dump(replica.view))
        assert restored.digest == replica.digest

    asyncio.run(story())


class World:
    """A leader, two other managers and the check."""

    def __init__(self, *names: str) -> None:
        self.cluster = MemoryCluster()
        self.others = Others(self.cluster, *names)
        log = self.cluster.log
        self.check = StateCheck(self.cluster.store, self.others.ask, log.hand_over, log.start_anew)

    async def after_a_change(self) -> None:
        """Compare what a change makes of the states."""
        await self.cluster.store.propose(())
        await self.check.step()

    @property
    def differing(self) -> list[str]:
        """Who knows of itself that it differs."""
        found = [name for name, one in self.others.replicas.items() if one.differs_since]
        return found + ["m1"] * bool(self.cluster.replica.differs_since)


def test_who_differs_from_most_is_named_until_it_is_equal_again() -> None:
    async def story() -> None:
        world = World("m2", "m3")
        await busy(world.cluster)
        await world.check.step()
        assert world.differing == []
        bent = world.others.replicas["m2"]
        bend(bent)
        await world.after_a_change()
        assert world.differing == ["m2"]
        assert world.cluster.log.status.is_leader
        bent.restore(snapshot.dump(world.cluster.replica.view))
        bent.differs_since = 5  # but nobody knows it yet
        await world.after_a_change()
        assert world.differing == []

    asyncio.run(story())


def test_a_leader_in_the_minority_is_named_and_leads_no_more() -> None:
    async def story() -> None:
        world = World("m2", "m3")
        await busy(world.cluster)
        bend(world.cluster.replica)
        await world.after_a_change()
        assert world.differing == ["m1"]
        assert not world.cluster.log.status.is_leader
        starts_anew = world.cluster.log.started_anew
        await world.check.step()
        assert (starts_anew, world.cluster.log.started_anew) == (0, 1), "once it leads no more"

    asyncio.run(story())


def test_without_a_majority_the_leaders_word_counts() -> None:
    async def story() -> None:
        world = World("m2", "m3")
        await busy(world.cluster)
        world.others.silent.add("m3")
        bend(world.cluster.replica)
        await world.after_a_change()
        assert world.differing == ["m2", "m3"]
        assert not world.others.replicas["m2"].is_astray, "nobody throws its state away for that"
        assert world.cluster.log.status.is_leader
        world.others.silent.clear()
        await world.after_a_change()
        assert world.differing == ["m1"], "most say otherwise: those are right"

    asyncio.run(story())


def test_what_leaders_of_former_versions_say_is_not_compared() -> None:
    async def story() -> None:
        world = World("m2")
        await busy(world.cluster)
        word = CheckState(as_of=world.cluster.replica.view.index, digest="abc")
        await world.cluster.store.propose((word,))
        assert world.differing == []

    asyncio.run(story())


def test_cluster_spec_versions_and_requests_are_covered() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        await busy(cluster)
        cluster_wide = cluster.replica.view.cluster
        assert cluster_wide is not None
        service = Service(id="s1", spec=spec("web"), spec_version=1)
        record = SpecVersion(service_id="s1", version=1, spec=service.spec)
        before = cluster.replica.digest
        await cluster.store.propose(
            (PutService(service=service), PutSpecVersion(record=record)), "once"
        )
        assert cluster.replica.digest == digest_of(cluster.replica.view) != before
        for bent in (
            lambda view: setattr(view, "cluster", replace(cluster_wide, unlock_key="other")),
            lambda view: view.put_spec(replace(record, failures={"m1": (1,)})),
            lambda view: view.requests.pop("once"),
        ):
            copy = snapshot.restore(snapshot.dump(cluster.replica.view))
            bent(copy)
            assert digest_of(copy) != cluster.replica.digest
        service_gone = Delete(object="service", id="s1")
        await cluster.store.propose((service_gone,))
        assert cluster.replica.digest == digest_of(cluster.replica.view)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"a": "1", "b": "1", "c": "2"}, ("1", True)),
        ({"a": "2", "b": "1", "c": "1"}, ("1", True)),
        ({"a": "1", "b": "2"}, ("1", False)),
        ({"a": "1", "b": ""}, ("1", False)),
        ({"a": "1", "b": "2", "c": "2", "d": ""}, ("1", False)),
        ({"a": "1"}, ("1", True)),
    ],
)
def test_most_means_more_than_half_of_all(told: dict[str, str], expected: tuple[str, bool]) -> None:
    assert agreed(told, "a") == expected


def test_without_a_change_nothing_is_written() -> None:
    async def story() -> None:
        world = World("m2")
        await busy(world.cluster)
        await world.check.step()
        index = world.cluster.store.view.index
        await world.check.step()
        assert world.cluster.store.view.index == index

    asyncio.run(story())


def test_a_state_is_kept_while_those_that_are_right_are_no_majority() -> None:
    async def story() -> None:
        world = World("m2", "m3")
        await busy(world.cluster)
        bend(world.cluster.replica)
        await world.after_a_change()
        log = world.cluster.log
        world.others.silent.add("m3")
        await world.check.step()
        assert log.started_anew == 0, "the others are no quorum without it"
        world.others.silent.clear()
        bend(world.others.replicas["m3"], "10.8.8.8")
        await world.check.step()
        assert log.started_anew == 0, "another one is astray, too"
        world.others.replicas["m3"].restore(snapshot.dump(world.others.replicas["m2"].view))
        await world.check.step()
        assert log.started_anew == 1

    asyncio.run(story())


def test_what_managers_of_before_levels_do_not_note_is_no_difference() -> None:
    async def story() -> None:
        world = World("m2")
        await busy(world.cluster)
        before = world.cluster.replica.digest
        node = world.cluster.store.view.nodes["m1"]
        world.others.replicas["m2"].view.put_node(replace(node, level=0, manager_version=""))
        world.cluster.store.view.put_node(replace(node, level=7, manager_version="2.0"))
        assert digest_of(world.cluster.replica.view) == before
        assert digest_of(world.others.replicas["m2"].view) == before

    asyncio.run(story())
