"""The acknowledged drain: a task stops only after nobody sends to it."""

from msgspec.structs import replace

from manager.store import changes as c
from manager.store.tables import network_table
from swarmapi.model.objects import NodeState, Task, TaskState
from swarmapi.model.spec import Availability
from swarmapi.model.tables import EndpointState
from tests.builders import SECOND, World, node, spec


def started() -> tuple[World, Task]:
    made = World()
    made.add_nodes(node("n1"), node("n2"), node("n3"))
    made.add_network("net")
    made.put_service("s", spec("s", replicas=2, networks=("net",)))
    made.converge()
    assert {t.node_id for t in made.running("s")} == {"n1", "n2"}
    return made, next(t for t in made.running("s") if t.node_id == "n1")


def drain(made: World, node_id: str) -> None:
    old = made.view.nodes[node_id]
    spec_ = replace(old.spec, availability=Availability.DRAIN)
    made.commit(c.PutNode(node=replace(old, spec=spec_)))
    made.settle()


def test_running_task_serves() -> None:
    made, task = started()
    table = network_table(made.view, "net")
    assert table is not None
    assert table.endpoints[task.id].state is EndpointState.SERVING
    assert task.endpoint.index <= table.revision


def test_stop_waits_for_every_acknowledgement() -> None:
    made, task = started()
    made.acknowledge()
    drain(made, "n1")
    withdrawn = made.view.tasks[task.id]
    assert withdrawn.endpoint.state is EndpointState.WITHDRAWN
    assert withdrawn.endpoint.deadline_ns == made.now_ns + 5 * SECOND
    assert withdrawn.desired == TaskState.RUNNING
    table = network_table(made.view, "net")
    assert table is not None
    assert table.endpoints[task.id].state is EndpointState.WITHDRAWN
    assert table.revision >= withdrawn.endpoint.index
    made.acknowledge("n1", "n3")
    made.settle()
    assert made.view.tasks[task.id].desired == TaskState.RUNNING
    made.acknowledge("n2")
    made.settle()
    assert made.view.tasks[task.id].desired == TaskState.SHUTDOWN


def test_deadline_ends_the_wait() -> None:
    made, task = started()
    drain(made, "n1")
    assert made.deadline_ns == made.now_ns + 5 * SECOND
    made.advance(4.9)
    assert made.view.tasks[task.id].desired == TaskState.RUNNING
    made.advance(0.1)
    assert made.view.tasks[task.id].desired == TaskState.SHUTDOWN


def test_down_nodes_are_not_waited_for() -> None:
    made, task = started()
    drain(made, "n1")
    made.acknowledge("n1", "n3")
    made.commit(c.SetNodeStatus(node_id="n2", state=NodeState.DOWN))
    made.acknowledge("n1", "n3")
    made.settle()
    assert made.view.tasks[task.id].desired == TaskState.SHUTDOWN


def test_tasks_of_a_lost_node_leave_the_tables() -> None:
    made, task = started()
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.DOWN))
    made.settle()
    table = network_table(made.view, "net")
    assert table is not None
    assert table.endpoints[task.id].state is EndpointState.WITHDRAWN


def test_removal_overtakes_shutdown() -> None:
    """A service deleted during the drain still ends in REMOVE."""
    made, task = started()
    drain(made, "n1")
    made.commit(c.Delete(object="service", id="s"))
    made.settle()
    assert made.view.tasks[task.id].endpoint.then == TaskState.REMOVE
    made.advance(5)
    assert made.view.tasks[task.id].desired == TaskState.REMOVE


def test_without_a_network_nothing_is_waited_for() -> None:
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.put_service("s", spec("s"))
    made.converge()
    task = made.running("s")[0]
    drain(made, task.node_id)
    assert made.view.tasks[task.id].desired == TaskState.SHUTDOWN


def test_a_stop_under_way_is_never_taken_back() -> None:
    made, task = started()
    drain(made, "n1")
    lease = replace(made.view.tasks[task.id].endpoint, state=EndpointState.SERVING, deadline_ns=0)
    made.commit(c.SetEndpoint(task_id=task.id, lease=lease))
    assert made.view.tasks[task.id].endpoint.state is EndpointState.WITHDRAWN
