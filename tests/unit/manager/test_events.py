"""The cluster's events: what each change of an object is called, and what it names."""

from collections.abc import Mapping

from msgspec.structs import replace

from manager.store import changes as c
from manager.store.apply import Applied
from manager.store.events import KINDS, difference, events_of
from swarmapi.model.objects import Network, NodeState, TaskState, UpdateState, UpdateStatus
from swarmapi.model.spec import Availability, NetworkSpec, NodeRole, NodeSpec
from tests.builders import World, node, spec


def told(applied: Applied, *kinds: str) -> list[tuple[str, str, str, Mapping[str, str]]]:
    events = list(events_of(applied.changed, 7))
    assert {(event.time_ns, event.scope) for event in events} <= {(7, "swarm")}
    return [
        (event.kind, event.action, event.actor_id, event.attributes)
        for event in events
        if event.kind in (kinds or KINDS)
    ]


def test_a_service_is_made_changed_updated_and_removed() -> None:
    world = World()
    assert told(world.put_service("s", spec())) == [("service", "create", "s", {"name": "web"})]
    changed = {"image.old": "image:1", "image.new": "image:2"} | {
        "replicas.old": "1",
        "replicas.new": "3",
    }
    updated = world.put_service("s", spec(image="image:2", replicas=3))
    assert told(updated) == [("service", "update", "s", {"name": "web", **changed})]

    def progress(state: UpdateState) -> list[tuple[str, str, str, Mapping[str, str]]]:
        version = world.view.services["s"].spec_version
        status = UpdateStatus(state=state)
        return told(
            world.commit(c.SetUpdateStatus(service_id="s", spec_version=version, status=status))
        )

    ((*_, began),) = progress(UpdateState.UPDATING)
    assert began == {"name": "web", "updatestate.new": "updating"}
    ((*_, ended),) = progress(UpdateState.COMPLETED)
    states = {"updatestate.old": "updating", "updatestate.new": "completed"}
    assert ended == {"name": "web", **states}
    removed = world.commit(c.Delete(object="service", id="s"))
    assert told(removed) == [("service", "remove", "s", {"name": "web"})]


def test_a_node_names_what_of_it_changed() -> None:
    world = World()
    assert told(world.commit(c.PutNode(node=node("n1")))) == [
        ("node", "create", "n1", {"name": "n1"})
    ]
    was = world.view.nodes["n1"]
    new = NodeSpec(role=NodeRole.MANAGER, availability=Availability.DRAIN, name="given")
    ((*_, changed),) = told(world.commit(c.PutNode(node=replace(was, spec=new))))
    assert changed == {
        "name": "given",
        "availability.old": "active",
        "availability.new": "drain",
        "role.old": "worker",
        "role.new": "manager",
    }
    ((*_, down),) = told(world.commit(c.SetNodeStatus(node_id="n1", state=NodeState.DOWN)))
    assert down == {"name": "given", "state.old": "ready", "state.new": "down"}
    world.add_nodes(node("n2"))
    gone = world.commit(c.Delete(object="node", id="n2"))
    assert told(gone) == [("node", "remove", "n2", {"name": "n2"})]


def test_several_changes_of_one_transaction_are_one_event() -> None:
    world = World()
    world.add_nodes(node("n1"))
    both = world.commit(
        c.SetNodeStatus(node_id="n1", state=NodeState.UNKNOWN),
        c.SetNodeStatus(node_id="n1", state=NodeState.DOWN),
    )
    ((*_, changed),) = told(both)
    assert changed == {"name": "n1", "state.old": "ready", "state.new": "down"}
    there_and_back = world.commit(c.PutNode(node=node("n2")), c.Delete(object="node", id="n2"))
    assert told(there_and_back) == []


def test_a_network_is_told() -> None:
    world = World()
    made = NetworkSpec(name="backend", driver="overlay")
    put = world.commit(c.PutNetwork(network=Network(id="net", spec=made)))
    assert told(put) == [("network", "create", "net", {"name": "backend"})]
    gone = world.commit(c.Delete(object="network", id="net"))
    assert told(gone) == [("network", "remove", "net", {"name": "backend"})]


def test_a_task_tells_its_service_its_node_and_its_states() -> None:
    world = World()
    world.add_nodes(node("n1"))
    world.put_service("s", spec())
    world.converge()
    (task,) = world.running("s")
    status = replace(task.status, state=TaskState.FAILED, error="exit 3")
    applied = world.commit(c.SetTaskStatus(task_id=task.id, status=status))
    (event,) = told(applied, "task")
    assert event[:3] == ("task", "update", task.id)
    assert (
        event[3].items()
        >= {
            "name": f"web.1.{task.id}",
            "service.id": "s",
            "service.name": "web",
            "node.id": "n1",
            "state.old": "running",
            "state.new": "failed",
            "error": "exit 3",
        }.items()
    )


def test_what_a_snapshot_changed_is_told() -> None:
    old, new = World(), World()
    for world in (old, new):
        world.add_nodes(node("same"), node("moves"))
    old.add_nodes(node("leaves"))
    new.put_service("s", spec())
    new.commit(c.SetNodeStatus(node_id="moves", state=NodeState.DOWN))
    events = events_of(difference(old.view, new.view), 1)
    assert {(event.kind, event.action, event.actor_id) for event in events} >= {
        ("node", "remove", "leaves"),
        ("node", "update", "moves"),
        ("service", "create", "s"),
    }
    assert not any(key == ("node", "same") for key in difference(old.view, new.view))
