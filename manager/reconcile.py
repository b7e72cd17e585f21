"""One turn of the control plane: from a View and dirty keys to a bounded list of changes.

Pure and level-triggered: the same View gives the same changes, and once all of them are
committed a further turn gives none. A new leader calls it with every key.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from manager.allocator.allocate import allocate
from manager.orchestrator import disappearance, drain, jobs, leaving, nodes, restart, rotation
from manager.orchestrator.global_ import reconcile_global
from manager.orchestrator.rebalance import rebalance
from manager.orchestrator.replicated import reconcile_replicated, remove_all
from manager.scheduler.schedule import schedule
from manager.store import level
from manager.store.apply import Key
from manager.store.changes import Change
from manager.store.turn import MAX_CHANGES, Acks, Env, Turn
from manager.store.view import View
from swarmapi.model import defaults

__all__ = ["MAX_CHANGES", "Acks", "Env", "Key", "TurnResult", "all_keys", "turn"]

MOST_LOOKED_AT: Final = 20_000
"""Tasks whose services one turn reconciles: a new leader's first turns hold its loop no longer."""


class TurnResult(NamedTuple):
    """What to propose, and when to come again."""

    changes: tuple[Change, ...]
    next_deadline_ns: int | None
    """Cluster time of the next thing that happens by itself; None when nothing does.

    Not later than now when the turn was full: come again at once.
    """
    still_dirty: frozenset[Key]
    """Keys not finished: run another turn once the changes are committed."""


def all_keys(view: View) -> frozenset[Key]:
    """Return every key, as a new leader needs them."""
    keys = {("node", i) for i in view.nodes} | {("network", i) for i in view.networks}
    keys |= {("service", i) for i in view.services}
    # Tasks and specs outlive their service: they name services that must still be cleaned up.
    keys |= {("service", t.service_id) for t in view.tasks.values()}
    return frozenset(keys)


def turn(view: View, dirty: Iterable[Key], env: Env, acks: Acks) -> TurnResult:
    """Reconcile the dirty keys and whatever is due by now.

    Nodes come first, then services, each in id order, then what is parked or draining, then
    the allocator and the scheduler once over all pending work. At most about 200 changes
    (one slot's changes are never torn apart).

    Propose the changes as one transaction. If it conflicts or its outcome is unknown, keep
    `dirty` and run again on the View as it is then; else go on with `still_dirty` and the keys
    that the commits since then made dirty.
    """
    run = Turn(view, env, acks)
    dirty = set(dirty)
    disappearance.watch(run)
    level.advance(run)
    rotation.advance(run)
    services = {i for kind, i in dirty if kind == "service"} | restart.due_services(run)
    services |= view.services_in.of("updating") | jobs.due_services(run)
    services |= leaving.draining_services(run)
    for node_id in sorted(i for kind, i in dirty if kind == "node"):
        if run.is_full():
            run.again.add(("node", node_id))
            continue
        services |= nodes.reconcile_node(run, node_id)
    nodes.orphan_lost(run)
    drain.advance(run)
    restart.release_parked(run)
    looked_at = 0
    for service_id in sorted(services):
        if run.is_full() or looked_at >= MOST_LOOKED_AT:
            run.again.add(("service", service_id))
        else:
            looked_at += len(run.view.by_service.of(service_id))
            _reconcile_service(run, service_id)
    rebalance(run)
    allocate(run)
    schedule(run, drain.evict)
    return TurnResult(tuple(run.changes), run.next_deadline_ns, frozenset(run.again))


def _reconcile_service(run: Turn, service_id: str) -> None:
    service = run.view.services.get(service_id)
    if service is None:
        remove_all(run, service_id)
    elif service.job_status is not None:
        jobs.reconcile_job(run, service)
    elif defaults.is_global(service.spec):
        reconcile_global(run, service)
    else:
        reconcile_replicated(run, service)
