"""Members compare their states: equal ones are silent, another one says so and leads no more."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from manager.replica import LogEntry, Replica
from manager.statecheck import StateCheck
from manager.store import snapshot
from manager.store.digest import digest_of
from tests.unit.manager_shell.cluster import MemoryCluster


class Follower:
    """Another replica, fed with what the cluster's log commits."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self.replica = Replica()
        self._apply = cluster.replica.apply
        cluster.replica.apply = self._both  # type: ignore[method-assign]

    def _both(self, batch: Sequence[LogEntry]) -> None:
        self._apply(batch)
        self.replica.apply(batch)


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


def test_equal_states_are_equal_and_a_bent_one_is_found_and_leads_no_more() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        follower = Follower(cluster)
        check = StateCheck(cluster.store, cluster.log.hand_over)
        await busy(cluster)
        await check.step()
        assert follower.replica.differs_since == cluster.replica.differs_since == 0

        node = follower.replica.view.nodes["m1"]
        bent = replace(node, address="10.9.9.9")
        follower.replica.view.put_node(bent)
        follower.replica.restore(snapshot.dump(follower.replica.view))
        await cluster.loop.step()
        proposed = cluster.store.view.index
        await cluster.store.propose(())
        await check.step()
        assert follower.replica.differs_since > proposed
        assert cluster.replica.differs_since == 0

        cluster.replica.differs_since = 7
        await check.step()
        assert not cluster.log.status.is_leader

    asyncio.run(story())


def test_without_a_change_nothing_is_written() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        await busy(cluster)
        check = StateCheck(cluster.store, cluster.log.hand_over)
        await check.step()
        index = cluster.store.view.index
        await check.step()
        assert cluster.store.view.index == index

    asyncio.run(story())
