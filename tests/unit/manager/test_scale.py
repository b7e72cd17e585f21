"""What a change costs does not grow with what it does not concern: looks are counted."""

from collections.abc import Iterator
from typing import Any

import pytest

from manager import reconcile
from manager.allocator.pools import AddressPool
from manager.store import tables
from manager.store.changes import SetEndpoint
from manager.store.view import View
from swarmapi.model.objects import Node, TaskEndpointLease
from swarmapi.model.spec import NodeRole, NodeSpec
from swarmapi.model.tables import EndpointState
from swarmapi.override import override
from tests.builders import World, node, spec


class Watched(dict[str, Any]):
    """A table of the View that counts how often an object of it is looked at."""

    looks = 0

    @override
    def __getitem__(self, key: str) -> Any:
        self.looks += 1
        return super().__getitem__(key)

    @override
    def get(self, key: str, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)

    @override
    def values(self) -> Any:
        return list(self._all())

    def _all(self) -> Iterator[Any]:
        for value in super().values():
            self.looks += 1
            yield value


def watched(view: View, name: str) -> Watched:
    table = Watched(getattr(view, name))
    setattr(view, name, table)
    return table


def cluster(others: int) -> World:
    """Return two nodes with one service on network `net`, and others of three tasks elsewhere."""
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.add_network("net")
    made.put_service("on-net", spec("on-net", replicas=4, networks=("net",)))
    for number in range(others):
        made.put_service(f"s{number:04}", spec(f"s{number:04}", replicas=3))
    made.converge()
    return made


@pytest.mark.parametrize("name", ["tasks", "services"])
def test_a_networks_table_is_made_of_what_is_on_it(name: str) -> None:
    looks = []
    for others in (1, 40):
        view = cluster(others).view
        table = watched(view, name)
        made = tables.network_table(view, "net")
        assert made is not None
        assert len(made.endpoints) == 4
        assert [entry.name for entry in made.services.values()] == ["on-net"]
        looks.append(table.looks)
    assert looks[0] == looks[1]


def test_managers_are_known_without_a_look_at_the_workers() -> None:
    made = World()
    spec_ = NodeSpec(role=NodeRole.MANAGER)
    made.add_nodes(Node(id="m1", spec=spec_, manager_address="192.0.2.9:2377"))
    made.add_nodes(*(node(f"n{number}") for number in range(50)))
    nodes = watched(made.view, "nodes")
    assert made.view.manager_addresses() == ["192.0.2.9:2377"]
    assert nodes.looks == 1


def test_applied_names_the_networks_whose_tables_changed() -> None:
    made = cluster(1)
    made.add_network("other")
    made.settle()
    withdrawn = TaskEndpointLease(state=EndpointState.WITHDRAWN)
    task_id = made.tasks("on-net")[0].id
    assert made.commit(SetEndpoint(task_id=task_id, lease=withdrawn)).tables == {"net"}
    task_id = made.tasks("s0000")[0].id
    assert made.commit(SetEndpoint(task_id=task_id, lease=withdrawn)).tables == set()


@pytest.mark.parametrize("others", [10, 300])
def test_one_more_service_costs_the_same_among_many(others: int) -> None:
    """Of the services that are there, a turn that makes a new one looks at none."""
    made = cluster(others)
    made.put_service("more", spec("more", replicas=3))
    services, tasks = watched(made.view, "services"), watched(made.view, "tasks")
    made.propose()
    assert services.looks <= 30
    assert tasks.looks <= 30


def test_a_turn_looks_at_so_many_tasks_and_the_next_ones_at_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = cluster(40)
    monkeypatch.setattr(reconcile, "MOST_LOOKED_AT", 30)
    made.dirty = set(reconcile.all_keys(made.view))
    result = made.propose()
    assert not result.changes
    left = {i for kind, i in result.still_dirty if kind == "service"}
    assert len(left) == 41 - 10  # four of `on-net`, then nine times three
    made.settle()
    assert not made.dirty


def test_an_exhausted_pool_is_looked_through_once() -> None:
    class Counted(set[int]):
        looks = 0

        @override
        def __contains__(self, key: object) -> bool:
            Counted.looks += 1
            return super().__contains__(key)

    pool = AddressPool("10.0.0.0/28", "10.0.0.1", ())
    pool._used = Counted(pool._used)
    assert sum(pool.take() is not None for _ in range(20)) == 13
    before = Counted.looks
    assert pool.take() is None
    assert Counted.looks == before
