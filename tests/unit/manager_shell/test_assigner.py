"""What a node is told: no more than it must know."""

import msgspec

from manager.dispatcher.assignments import Assigner
from manager.dispatcher.tables import TableCache
from manager.store import changes as c
from swarmapi.model.objects import SpecVersion, TaskState
from tests.builders import World, node, spec
from tests.unit.manager_shell.wire import tasks_in


def started() -> tuple[World, Assigner]:
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec("s", replicas=2))
    made.settle()
    return made, Assigner("n1", TableCache(), {})


def test_b59_what_only_the_agent_said_is_not_sent_back() -> None:
    made, assigner = started()
    assert len(tasks_in(assigner.complete(made.view))) == 2
    first, second = made.tasks("s")
    made.report(first.id, TaskState.RUNNING)
    assert assigner.incremental(made.view, {first.id, second.id}) is None


def test_b59_changes_of_one_window_are_one_message() -> None:
    """A task that came and went is at most a removal; a desired state is sent once."""
    made, assigner = started()
    assigner.complete(made.view)
    first, second = made.tasks("s")
    made.commit(c.SetDesired(task_id=first.id, desired=TaskState.SHUTDOWN))
    made.commit(c.SetDesired(task_id=first.id, desired=TaskState.REMOVE))
    made.commit(c.Delete(object="task", id=second.id))
    made.settle()
    (fresh,) = (t for t in made.tasks("s") if t.id not in (first.id, second.id) and t.slot == 2)
    made.commit(c.Delete(object="task", id=fresh.id))
    message = assigner.incremental(made.view, {first.id, second.id, fresh.id})
    assert message is not None
    assert [(t.id, t.desired) for t in tasks_in(message)] == [(first.id, TaskState.REMOVE)]
    assert list(message.removed_tasks) == [second.id]


def test_b59_a_task_comes_with_its_own_spec_version() -> None:
    made, assigner = started()
    message = assigner.complete(made.view)
    sent = {msgspec.msgpack.decode(t.spec, type=SpecVersion).version for t in message.tasks}
    assert sent == {1}
