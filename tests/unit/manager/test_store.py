"""Changes, apply, view and snapshot."""

import msgspec
import pytest
from msgspec.structs import replace

from manager.store import changes as c
from manager.store.apply import REQUESTS_KEPT, Applied, apply
from manager.store.snapshot import dump, restore
from manager.store.view import Overlay, View
from swarmapi.model.objects import (
    Node,
    NodeState,
    Service,
    SpecVersion,
    Task,
    TaskState,
    TaskStatus,
)
from swarmapi.model.spec import NodeRole, NodeSpec
from tests.builders import World, node, spec


def code(applied: Applied) -> str:
    assert applied.conflict is not None
    return applied.conflict.code


def with_task(state: TaskState = TaskState.RUNNING) -> World:
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec())
    made.settle()
    made.report("t00001", state)
    return made


def test_wire_form_round_trips() -> None:
    task = Task(id="t", service_id="s", spec_version=1, status=TaskStatus(state=TaskState.NEW))
    given = c.Transaction(
        request_id="r",
        changes=(
            c.PutTask(task=task, reason="why"),
            c.SetDesired(task_id="t", desired=TaskState.REMOVE),
            c.Delete(object="node", id="n", expect_version=3),
        ),
    )
    assert c.decode(c.encode(given)) == given


def test_decoding_is_tolerant() -> None:
    """Unknown fields are passed over; an unknown change becomes Unknown and does nothing."""
    raw = {
        "request_id": "r",
        "shiny": 1,
        "changes": [
            {"kind": "set_desired", "task_id": "t00001", "desired": 640, "new_field": [1]},
            {"kind": "from_the_future", "reason": "x"},
        ],
    }
    decoded = c.decode(msgspec.msgpack.encode(raw))
    assert decoded.changes == (
        c.SetDesired(task_id="t00001", desired=TaskState.SHUTDOWN),
        c.Unknown(tag="from_the_future"),
    )
    made = with_task()
    applied = made.commit(*decoded.changes)
    assert list(applied.changed) == [("task", "t00001")]
    with pytest.raises(msgspec.DecodeError):
        c.decode(b"\xc1")


def test_b01_observed_state_is_monotone() -> None:
    """A late STARTING does not undo RUNNING; a repeated report changes nothing."""
    made = with_task()
    for state in (TaskState.STARTING, TaskState.RUNNING, TaskState.REMOVE):
        assert (
            made.commit(
                c.SetTaskStatus(task_id="t00001", status=TaskStatus(state=state, timestamp_ns=9))
            ).changed
            == {}
        )
    assert made.view.tasks["t00001"].status.state == TaskState.RUNNING


def test_b34_first_time_of_running_is_kept() -> None:
    """Monitor counts from the first RUNNING, whatever is reported later."""
    made = with_task()
    since_ns = made.now_ns
    made.now_ns += 5
    made.report("t00001", TaskState.FAILED)
    made.report("t00001", TaskState.RUNNING)
    assert made.view.tasks["t00001"].status.state == TaskState.FAILED
    assert made.view.tasks["t00001"].running_ns == since_ns


def test_desired_state_only_rises() -> None:
    made = with_task()
    made.commit(c.SetDesired(task_id="t00001", desired=TaskState.REMOVE))
    made.commit(c.SetDesired(task_id="t00001", desired=TaskState.SHUTDOWN))
    assert made.view.tasks["t00001"].desired == TaskState.REMOVE


def test_b54_assignment_is_checked_again() -> None:
    """A node drained meanwhile, or a task no longer wanted, is not assigned."""
    made = World()
    made.add_nodes(node("n1"), node("n2", state=NodeState.DOWN))
    made.put_service("s", spec(memory_bytes=1 << 60))
    made.settle()
    made.commit(c.AssignTask(task_id="t00001", node_id="n2"))
    made.commit(c.AssignTask(task_id="t00001", node_id="gone"))
    assert made.view.tasks["t00001"].node_id == ""
    made.commit(c.AssignTask(task_id="t00001", node_id="n1"))
    made.commit(c.SetNodeStatus(node_id="n2", state=NodeState.READY))
    made.commit(c.AssignTask(task_id="t00001", node_id="n2"))
    assert made.view.tasks["t00001"].node_id == "n1"


def test_versions_are_raft_indexes_and_checked() -> None:
    made = World()
    first = made.commit(c.PutNode(node=node("n1"), expect_version=0))
    assert made.view.nodes["n1"].meta.version == first.index
    assert code(made.commit(c.PutNode(node=node("n1"), expect_version=0))) == "exists"
    assert code(made.commit(c.PutNode(node=node("n1"), expect_version=99))) == "version"
    assert code(made.commit(c.PutNode(node=node("n9"), expect_version=1))) == "missing"
    assert made.commit(c.PutNode(node=node("n1"), expect_version=first.index)).conflict is None
    assert code(made.commit(c.Delete(object="node", id="n1", expect_version=1))) == "version"


def test_transaction_is_all_or_nothing() -> None:
    made = World()
    applied = made.commit(c.PutNode(node=node("n1")), c.PutNode(node=node("n2"), expect_version=7))
    assert code(applied) == "missing"
    assert not made.view.nodes


def test_names_are_unique() -> None:
    made = World()
    made.put_service("a", spec("web"))
    assert code(made.put_service("b", spec("web"))) == "name"
    assert made.put_service("a", spec("web2")).conflict is None
    assert made.put_service("b", spec("web")).conflict is None
    assert made.view.by_name("service", "web") == "b"
    twins = [c.PutService(service=Service(id=i, spec=spec("twin"), spec_version=1)) for i in "xy"]
    assert code(made.commit(*twins)) == "name"


def test_network_in_use_is_not_deleted() -> None:
    made = World()
    made.add_nodes(node("n1"))
    made.add_network("net")
    made.put_service("s", spec(networks=("net",)))
    made.converge()
    assert code(made.commit(c.Delete(object="network", id="net"))) == "in-use"
    made.commit(c.Delete(object="service", id="s"))
    assert code(made.commit(c.Delete(object="network", id="net"))) == "in-use"
    made.converge()
    assert made.commit(c.Delete(object="network", id="net")).conflict is None
    assert not made.view.networks


def test_request_id_makes_a_retry_harmless() -> None:
    made = World()
    put = c.PutNode(node=node("n1"), expect_version=0)
    first = made.commit(put, request_id="r1")
    again = made.commit(put, request_id="r1")
    assert again.duplicate
    assert again.index == first.index
    assert again.conflict is None
    refused = made.commit(put, request_id="r2")
    assert code(made.commit(put, request_id="r2")) == code(refused) == "exists"


def test_request_ids_are_bounded() -> None:
    view = View()
    for index in range(1, REQUESTS_KEPT + 3):
        apply(view, index, 0, c.Transaction(request_id=f"r{index}"))
    assert len(view.requests) == REQUESTS_KEPT
    assert "r1" not in view.requests


def test_cluster_time_never_goes_back() -> None:
    view = View()
    apply(view, 1, 100, c.Transaction(request_id="", changes=(c.PutNode(node=node("n1")),)))
    apply(view, 2, 50, c.Transaction(request_id="", changes=(c.PutNode(node=node("n1")),)))
    assert view.nodes["n1"].meta.updated_ns == 100


def test_server_owned_fields_survive_a_put() -> None:
    """What the allocator gave is not the API's to overwrite."""
    made = World()
    made.add_nodes(node("n1"))
    made.add_network("ingress", ingress=True)
    made.settle()
    before = made.view.nodes["n1"], made.view.networks["ingress"].subnet
    made.add_nodes(Node(id="n1"))
    made.add_network("ingress", ingress=True)
    assert made.view.nodes["n1"].mesh_slot == before[0].mesh_slot == 0
    assert made.view.nodes["n1"].ingress_address == before[0].ingress_address != ""
    assert made.view.networks["ingress"].subnet == before[1] != ""


def test_table_index_moves_with_what_the_table_holds() -> None:
    made = World()
    made.add_nodes(node("n1"))
    made.add_network("net")
    made.add_network("other")
    made.put_service("s", spec(networks=("net",)))
    made.settle()
    other = made.view.networks["other"].table_index

    def moved(*changes: c.Change) -> bool:
        index = made.commit(*changes).index
        return made.view.networks["net"].table_index == index

    def observed(state: TaskState) -> c.Change:
        return c.SetTaskStatus(task_id="t00001", status=TaskStatus(state=state))

    assert not moved(observed(TaskState.PREPARING))
    assert not moved(observed(TaskState.RUNNING))
    made.settle()
    assert made.view.networks["net"].table_index == made.view.tasks["t00001"].endpoint.index
    stored = made.view.nodes["n1"]
    assert moved(c.PutNode(node=replace(stored, data_path="192.0.2.9")))
    assert not moved(c.SetNodeStatus(node_id="n1", state=NodeState.UNKNOWN))
    assert moved(observed(TaskState.FAILED))
    assert made.view.networks["other"].table_index == other


def test_specs_are_dropped_with_their_last_reference() -> None:
    made = World(history=1)
    made.add_nodes(node("n1"))
    for version in range(1, 4):
        made.put_service("s", spec(image=f"image:{version}"))
        made.converge()
        made.advance(10)
    assert sorted(made.view.specs) == [("s", 2), ("s", 3)]
    assert made.view.next_spec_version("s") == 4


def test_task_of_a_deleted_service_is_not_created() -> None:
    made = World()
    task = Task(id="t", service_id="gone", spec_version=1)
    assert made.commit(c.PutTask(task=task)).changed == {}


def test_overlay_never_writes_its_base() -> None:
    made = with_task()
    before = list(dump(made.view))
    overlay = Overlay(made.view)
    overlay.drop_task("t00001")
    overlay.put_node(node("n2"))
    overlay.drop_service("s")
    overlay.put_spec(SpecVersion(service_id="x", version=1, spec=spec()))
    assert list(dump(made.view)) == before
    assert made.view.by_service.of("s") == {"t00001"}
    assert "t00001" not in overlay.tasks
    assert len(overlay.nodes) == 2
    assert list(overlay.services) == []
    assert overlay.by_service.of("s") == set()


def test_snapshot_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="empty"):
        restore([])
    header = msgspec.msgpack.encode({"format": 99})
    with pytest.raises(ValueError, match="newer"):
        restore([header])


def test_snapshot_passes_over_unknown_kinds() -> None:
    made = with_task()
    chunk = msgspec.msgpack.encode({"kind": "hologram", "objects": [{"id": "x"}]})
    assert list(dump(restore([*dump(made.view), chunk]))) == list(dump(made.view))


def test_a_node_spec_conflicts_only_with_a_later_spec() -> None:
    made = World()
    made.add_nodes(node("n1"))

    def write(read_index: int, node_id: str = "n1") -> str:
        change = c.SetNodeSpec(node_id=node_id, spec=NodeSpec(), read_index=read_index)
        conflict = made.commit(change).conflict
        return conflict.code if conflict is not None else ""

    read = made.view.nodes["n1"].meta.version
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.DOWN))
    made.commit(c.SetNodeMesh(node_id="n1", ingress_address="10.0.0.9/24", mesh_slot=3))
    stored = made.view.nodes["n1"]
    assert stored.meta.version > read
    assert write(stored.meta.version + 1) == "version"
    assert write(read - 1) == "version"
    assert write(read, "n2") == "missing"
    assert write(read) == ""
    after = made.view.nodes["n1"]
    assert (after.state, after.mesh_slot) == (stored.state, stored.mesh_slot)
    assert write(read) == write(stored.meta.version) == "version"
    assert write(after.meta.version) == ""


def test_one_manager_stays_whoever_demotes_at_the_same_time() -> None:
    made = World()
    managers = [replace(node(i), spec=NodeSpec(role=NodeRole.MANAGER)) for i in ("m1", "m2")]
    made.add_nodes(*managers)
    demotions = [
        c.SetNodeSpec(node_id=i, spec=NodeSpec(), read_index=made.view.nodes[i].meta.version)
        for i in ("m1", "m2")
    ]
    assert made.commit(demotions[0]).conflict is None
    refused = made.commit(demotions[1]).conflict
    assert refused is not None
    assert refused.code == "manager"
    removed = made.commit(c.Delete(object="node", id="m2")).conflict
    assert removed is not None
    assert removed.code == "manager"
    assert made.commit(c.Delete(object="node", id="m1")).conflict is None
