"""What a service's tasks need of a node, and what nodes have left as a turn goes on."""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from manager.scheduler.constraints import Rules, rules_of
from manager.store.ports import HostPort
from manager.store.view import Demand, Load, View, is_placed, is_wanted
from swarmapi.model.objects import GenericShare, Node, Service, SpecVersion
from swarmapi.model.spec import Placement, Platform


class Needs(NamedTuple):
    """What one group of equal tasks asks of a node."""

    service_id: str
    demand: Demand = Demand()
    constraints: tuple[str, ...] = ()
    platforms: tuple[Platform, ...] = ()
    max_replicas: int = 0
    spread: tuple[str, ...] = ()
    """Labels to spread over, outermost first."""

    @property
    def rules(self) -> Rules:
        """The constraints, understood."""
        return rules_of(self.constraints)


def needs_of(record: SpecVersion, demand: Demand) -> Needs:
    """Return what tasks of a spec version ask of a node."""
    placement = record.spec.task_template.placement or Placement()
    return Needs(
        service_id=record.service_id,
        demand=demand,
        constraints=placement.constraints or (),
        platforms=placement.platforms or (),
        max_replicas=placement.max_replicas,
        spread=tuple(
            p.spread.spread_descriptor for p in placement.preferences or () if p.spread is not None
        ),
    )


class Candidate:
    """A node with what is free on it, as the turn goes on."""

    __slots__ = ("_generic", "_services", "cpu_nanos", "memory_bytes", "node", "ports", "tasks")

    def __init__(self, node: Node, load: Load) -> None:
        self.node = node
        self.cpu_nanos = node.description.cpu_nanos - load.cpu_nanos
        self.memory_bytes = node.description.memory_bytes - load.memory_bytes
        self.tasks = load.tasks
        self.ports: set[HostPort] = set()
        """Host ports taken in this turn; earlier ones are in the View."""
        self._generic: dict[str, GenericShare] | None = None
        self._services: dict[str, Service] | None = None

    def generic(self, view: View) -> dict[str, GenericShare]:
        """Return what is free of the node's generic resources, by kind."""
        if self._generic is None:
            placed = (view.tasks[i] for i in view.by_node.of(self.node.id))
            taken = (share for task in placed if is_placed(task) for share in task.generic)
            self._generic = _less({s.kind: s for s in self.node.description.generic}, taken)
        return self._generic

    def services(self, view: View) -> Iterable[Service]:
        """Return the services with wanted tasks on the node."""
        if self._services is None:
            placed = (view.tasks[i] for i in view.by_node.of(self.node.id))
            ids = {t.service_id for t in placed if is_placed(t) and is_wanted(t)}
            self._services = {i: view.services[i] for i in sorted(ids) if i in view.services}
        return self._services.values()

    def take(self, view: View, needs: Needs) -> tuple[GenericShare, ...]:
        """Count one more task; return the generic resources it gets."""
        demand = needs.demand
        self.cpu_nanos -= demand.cpu_nanos
        self.memory_bytes -= demand.memory_bytes
        self.tasks += 1
        self.ports.update(demand.host_ports)
        if self._services is not None and needs.service_id in view.services:
            self._services[needs.service_id] = view.services[needs.service_id]
        if not demand.generic:
            return ()
        free = self.generic(view)
        shares = tuple(_cut(free[kind], count) for kind, count in demand.generic if kind in free)
        self._generic = _less(free, shares)
        return shares

    def filled_permille(self) -> int:
        """Return how full the node is by its scarcer resource."""
        has = self.node.description
        return max(
            1000 - 1000 * self.cpu_nanos // has.cpu_nanos if has.cpu_nanos else 0,
            1000 - 1000 * self.memory_bytes // has.memory_bytes if has.memory_bytes else 0,
        )


def size_of(share: GenericShare | None) -> int:
    """Return how many a share is."""
    return (len(share.names) or share.count) if share is not None else 0


def _cut(share: GenericShare, count: int) -> GenericShare:
    if share.names:
        return GenericShare(kind=share.kind, names=share.names[:count])
    return GenericShare(kind=share.kind, count=min(count, share.count))


def _less(has: dict[str, GenericShare], taken: Iterable[GenericShare]) -> dict[str, GenericShare]:
    left = dict(has)
    for share in taken:
        known = left.get(share.kind)
        if known is None:
            continue
        names = tuple(n for n in known.names if n not in share.names)
        count = max(known.count - share.count, 0)
        left[share.kind] = GenericShare(kind=share.kind, count=count, names=names)
    return left


@lru_cache(maxsize=1024)
def platform_text(platforms: tuple[Platform, ...]) -> str:
    """Return platforms as people write them."""
    return ", ".join(f"{p.os or 'any'}/{p.architecture or 'any'}" for p in platforms)
