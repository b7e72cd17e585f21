"""The acknowledged drain: a task stops only after nobody sends to it."""

from msgspec.structs import replace

from manager.dispatcher.assignments import stable_part
from manager.store import changes as c
from manager.store.tables import network_table
from manager.store.view import is_stopping
from swarmapi.model.objects import NodeState, Task, TaskState, TaskStatus
from swarmapi.model.spec import Availability, UpdateConfig
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


def standing(made: World, task: Task, *, ready: bool = False, ending: bool = False) -> Task:
    """Let a running task's node say what it is worth; return the task afterwards."""
    status = TaskStatus(state=TaskState.RUNNING, ready=ready, ending=ending, message="no")
    made.commit(c.SetTaskStatus(task_id=task.id, status=status))
    made.settle()
    return made.view.tasks[task.id]


def test_a_task_that_is_not_ready_is_withdrawn_and_goes_on() -> None:
    made, task = started()
    made.acknowledge()
    unready = standing(made, task)
    assert unready.endpoint.state is EndpointState.WITHDRAWN
    assert (unready.desired, is_stopping(unready)) == (TaskState.RUNNING, False)
    assert unready.running_ns == task.running_ns
    made.advance(600)
    assert made.view.tasks[task.id] == unready
    assert standing(made, task, ready=True).endpoint.state is EndpointState.SERVING


def test_an_unready_task_is_not_stopped_while_a_node_may_send_to_it() -> None:
    made, task = started()
    made.acknowledge()
    standing(made, task)
    drain(made, "n1")
    assert made.view.tasks[task.id].desired == TaskState.RUNNING
    made.acknowledge()
    made.settle()
    assert made.view.tasks[task.id].desired == TaskState.SHUTDOWN


def test_a_node_may_stop_an_ill_task_once_every_node_has_acknowledged() -> None:
    made, task = started()
    made.acknowledge()
    ill = standing(made, task, ending=True)
    assert ill.endpoint.state is EndpointState.WITHDRAWN
    made.acknowledge("n1", "n3")
    made.settle()
    assert not made.view.tasks[task.id].endpoint.drained
    made.acknowledge("n2")
    made.settle()
    let_go = made.view.tasks[task.id]
    assert let_go.endpoint.drained
    assert stable_part(let_go) != stable_part(ill)
    assert let_go.desired == TaskState.RUNNING  # its end is the node's to tell
    made.report(task.id, TaskState.FAILED, "task: unhealthy container")
    made.settle()
    assert len(made.tasks("s")) == 2


def test_what_is_not_ready_replaces_nothing() -> None:
    """Start-first: the old task serves until the new one is ready, or the update is stuck."""
    made, _ = started()
    config = UpdateConfig(order="start-first", parallelism=1, failure_action="pause")
    new_spec = spec("s", image="img:2", replicas=2, networks=("net",), update=config)
    made.put_service("s", new_spec)
    made.settle()
    new = next(t for t in made.tasks("s") if t.spec_version == 2)
    made.obey(only=[new.id])
    made.acknowledge()
    standing(made, new)
    made.advance(20)
    made.acknowledge()
    made.settle()
    slot = [t.id for t in made.running("s") if t.slot == new.slot]
    assert len(slot) == 2
    assert any(made.view.tasks[i].endpoint.state is EndpointState.SERVING for i in slot)


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
