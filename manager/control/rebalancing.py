"""Rebalancing on request: what it would move, begin, stop."""

from msgspec.structs import replace

from manager.control.cluster import the_cluster
from manager.plan.future import Future
from manager.plan.outcome import Plan, compare
from manager.replica import Store
from manager.store.changes import SetRebalance
from swarmapi.errors import Conflict, FailedPrecondition
from swarmapi.model.objects import Rebalance


def plan_rebalance(store: Store) -> Plan:
    """Return what a rebalancing begun now would move."""
    future = Future(store.view, store.now_ns())
    future.commit((SetRebalance(state=Rebalance(started_ns=future.now_ns)),))
    future.settle()
    return compare(store.view, future.view, {})


async def begin_rebalance(store: Store, plan_version: int = -1, request_id: str = "") -> None:
    """Begin to even out replicated services; with a plan's version only as it says.

    Raises:
        FailedPrecondition: one is under way.
        Conflict: it would not move the same any more.
    """
    if store.knows(request_id):
        return
    state = the_cluster(store).rebalance
    if state is not None and not state.ended_ns:
        raise FailedPrecondition("a rebalancing is under way: wait for it, or stop it")
    if plan_version >= 0:
        now = plan_rebalance(store).version
        if now != plan_version:
            raise Conflict(
                f"the cluster moved since plan {plan_version}: look at the plan again, it is {now}"
                " now"
            )
    change = SetRebalance(state=Rebalance(started_ns=store.now_ns()), reason="rebalance requested")
    await store.propose((change,), request_id)


async def stop_rebalance(store: Store, request_id: str = "") -> None:
    """Begin no more moves; those under way are finished.

    Raises:
        FailedPrecondition: none is under way.
    """
    if store.knows(request_id):
        return
    state = the_cluster(store).rebalance
    if state is None or state.ended_ns:
        raise FailedPrecondition("no rebalancing is under way")
    change = SetRebalance(state=replace(state, stopping=True), reason="rebalance stopped")
    await store.propose((change,), request_id)
