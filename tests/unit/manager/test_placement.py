"""What is ours in placement: preferences, neighbours, bin-packing, generic resources."""

import pytest
from msgspec.structs import replace

from manager.scheduler.schedule import explain
from manager.store import changes as c
from swarmapi.errors import InvalidArgument
from swarmapi.model.generic import parse_generic
from swarmapi.model.objects import GenericShare, Node, TaskState
from swarmapi.model.spec import (
    ClusterSpec,
    DiscreteResource,
    GenericResource,
    Reservations,
    Resources,
    ServiceSpec,
)
from tests.builders import MIB, World, node, spec
from tests.unit.manager.test_scheduler import placed


def wanting(given: ServiceSpec, **kinds: int) -> ServiceSpec:
    """Return a spec that reserves generic resources."""
    wanted = tuple(
        GenericResource(discrete_resource_spec=DiscreteResource(kind=kind, value=count))
        for kind, count in kinds.items()
    )
    template = replace(
        given.task_template,
        resources=Resources(reservations=Reservations(generic_resources=wanted)),
    )
    return replace(given, task_template=template)


def offering(node_id: str, *values: str) -> Node:
    """Return a node with generic resources."""
    made = node(node_id)
    return replace(made, description=replace(made.description, generic=parse_generic(values)))


def test_preferred_nodes_come_first_and_others_when_they_are_full() -> None:
    made = World()
    made.add_nodes(node("a"), node("b", labels={"disk": "ssd"}, memory_bytes=250 * MIB))
    wish = ("prefer node.labels.disk==ssd",)
    made.put_service("s", spec(replicas=4, constraints=wish, memory_bytes=100 * MIB))
    made.converge()
    assert placed(made, "s") == {"a": 2, "b": 2}


def test_the_greater_weight_wins_and_a_negative_one_repels() -> None:
    made = World()
    made.add_nodes(
        node("a", labels={"x": "1"}),
        node("b", labels={"x": "1", "y": "1"}),
        node("c", labels={"x": "1", "y": "1", "z": "1"}),
    )
    wish = (
        "prefer node.labels.x exists",
        "prefer 5 node.labels.y exists",
        "prefer -9 node.labels.z exists",
    )
    made.put_service("s", spec(replicas=2, constraints=wish))
    made.converge()
    assert placed(made, "s") == {"b": 2}


def test_tasks_stay_apart_from_a_service_or_near_it() -> None:
    made = World()
    made.add_nodes(node("n1"), node("n2"), node("n3"))
    made.put_service("db", spec("db", constraints=("node.id==n2",)))
    made.converge()
    made.put_service("s", spec("s", replicas=4, constraints=("node.services!=db",)))
    made.put_service("near", spec("near", replicas=2, constraints=("node.services==db",)))
    made.put_service("soft", spec("soft", constraints=("prefer node.services==db",)))
    made.converge()
    assert placed(made, "s") == {"n1": 2, "n3": 2}
    assert placed(made, "near") == {"n2": 2}
    assert placed(made, "soft") == {"n2": 1}


def test_a_task_keeps_its_place_when_its_neighbour_leaves() -> None:
    """What runs beside it matters when a task is placed, and not to the enforcer."""
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.put_service("db", spec("db", constraints=("node.id==n2",)))
    made.converge()
    made.put_service("near", spec("near", constraints=("node.services==db",)))
    made.converge()
    before = made.running("near")
    made.commit(c.Delete(object="service", id="db"))
    made.dirty.add(("node", "n2"))
    made.converge()
    assert [t.id for t in made.running("near")] == [t.id for t in before]


def test_apart_from_itself_is_one_task_a_node() -> None:
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.put_service("s", spec("s", replicas=3, constraints=("node.services!=s",)))
    made.converge()
    assert placed(made, "s") == {"n1": 1, "n2": 1}
    waiting = next(t for t in made.tasks("s") if not t.node_id)
    assert b"node.services!=s not satisfied" in waiting.explanation


def test_neighbours_by_label() -> None:
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    front = replace(spec("front", constraints=("node.id==n1",)), labels={"tier": "web"})
    made.put_service("front", front)
    made.converge()
    made.put_service("s", spec(replicas=2, constraints=("node.services.labels.tier!=web",)))
    made.converge()
    assert placed(made, "s") == {"n2": 2}


def test_binpack_fills_one_node_before_the_next() -> None:
    made = World()
    made.add_nodes(*(node(f"n{i}", memory_bytes=300 * MIB) for i in range(3)))
    pack = ("strategy==binpack",)
    made.put_service("s", spec(replicas=4, memory_bytes=100 * MIB, constraints=pack))
    made.converge()
    assert sorted(placed(made, "s").values()) == [1, 3]
    made.put_service("t", spec("t", replicas=2, memory_bytes=100 * MIB, constraints=pack))
    made.converge()
    assert len({*placed(made, "s"), *placed(made, "t")}) == 2


def test_the_clusters_strategy_holds_where_a_service_names_none() -> None:
    made = World()
    made.add_nodes(*(node(f"n{i}") for i in range(3)))
    cluster = made.view.cluster
    assert cluster is not None
    packed = ClusterSpec(labels={"placement.strategy": "binpack"})
    made.commit(c.PutCluster(cluster=replace(cluster, spec=packed)))
    made.put_service("s", spec(replicas=3, memory_bytes=MIB))
    made.put_service("t", spec("t", replicas=3, constraints=("strategy==spread",)))
    made.converge()
    assert list(placed(made, "s").values()) == [3]
    assert list(placed(made, "t").values()) == [1, 1, 1]


def test_named_resources_are_given_by_name_and_come_back() -> None:
    made = World()
    made.add_nodes(offering("n1", "gpu=a", "gpu=b", "gpu=c"), offering("n2", "ssd=2"))
    made.put_service("s", wanting(spec(replicas=2), gpu=2))
    made.converge()
    (holder,) = made.running("s")
    assert holder.generic == (GenericShare(kind="gpu", names=("a", "b")),)
    waiting = next(t for t in made.tasks("s") if not t.node_id)
    assert explain(made.view, waiting).text() == (
        "no suitable node: 2 nodes: needs 2 gpu, at most 1 free"
    )
    made.put_service("one", wanting(spec("one"), gpu=1))
    made.converge()
    assert made.running("one")[0].generic[0].names == ("c",)
    made.report(holder.id, TaskState.FAILED)
    made.converge()
    (holder,) = made.running("s")
    assert holder.generic[0].names == ("a", "b")


def test_counted_resources_are_never_exceeded() -> None:
    made = World()
    made.add_nodes(offering("n1", "ssd=3"), offering("n2", "ssd=2"))
    made.put_service("s", wanting(spec(replicas=9), ssd=1))
    made.converge()
    assert placed(made, "s") == {"n1": 3, "n2": 2}


def test_a_global_service_gets_its_share_on_every_node_that_has_it() -> None:
    made = World()
    made.add_nodes(offering("n1", "ssd=3"), node("n2"))
    made.put_service("g", wanting(spec("g", replicas=None), ssd=2))
    made.converge()
    (task,) = made.running("g")
    assert (task.node_id, task.generic) == ("n1", (GenericShare(kind="ssd", count=2),))


def test_a_node_that_lost_a_resource_loses_the_task() -> None:
    """B45 for generic resources: who was given what is gone is replaced elsewhere."""
    made = World()
    made.add_nodes(offering("n1", "gpu=a", "gpu=b"))
    made.put_service("s", wanting(spec(replicas=2), gpu=1))
    made.converge()
    made.add_nodes(offering("n1", "gpu=b"), offering("n2", "gpu=x"))
    made.converge()
    assert sorted(t.generic[0].names for t in made.running("s")) == [("b",), ("x",)]


@pytest.mark.parametrize(
    "text", ["gpu", "=1", "gpu=", "gpu=a,gpu=3", "ssd=3,ssd=1", "g u=1", "gpu=a,gpu=a"]
)
def test_bad_generic_resources_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="generic resource"):
        parse_generic((text,))
