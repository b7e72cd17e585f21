"""Stories: every change with its reason, bounded, the same on every member."""

from manager.control.stories import service_story, task_story
from manager.store import changes as c
from manager.store.snapshot import dump, restore
from manager.store.story import FIRST_KEPT, TASK_LINES
from swarmapi.model.objects import TaskState, TaskStatus
from tests.builders import MIB, World, node, spec


def told(made: World, task_id: str) -> list[tuple[str, str]]:
    return [(t.line.what, t.line.reason) for t in task_story(made.view, made.view.tasks[task_id])]


def test_a_task_tells_its_life_with_reasons() -> None:
    made = World(history=5)
    made.add_nodes(node("n1", memory_bytes=100 * MIB))
    made.put_service("web", spec("web", memory_bytes=200 * MIB))
    made.settle()
    task = made.tasks("web")[0]
    made.now_ns += 1
    made.add_nodes(node("n1", memory_bytes=400 * MIB))
    made.converge()
    failed = TaskStatus(state=TaskState.FAILED, error="task: non-zero exit (3)", exit_code=3)
    made.commit(c.SetTaskStatus(task_id=task.id, status=failed, reason="reported"))
    made.settle()
    lines = told(made, task.id)
    assert lines[0] == ("created", "slot 1 is empty")
    assert ("waits", "no suitable node: 1 node: needs 200 MiB, at most 100 MiB free") in lines
    assert ("assigned", "assigned to n1") in lines
    assert ("failed", "task: non-zero exit (3)") in lines
    assert lines[-1] == ("desired shutdown", "task is failed")
    times = [t.line.time_ns for t in task_story(made.view, made.view.tasks[task.id])]
    assert times == sorted(times)


def test_a_story_is_bounded_and_keeps_its_beginning() -> None:
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("web", spec("web", memory_bytes=1 << 50))
    made.settle()
    task = made.tasks("web")[0]
    for number in range(TASK_LINES * 2):
        made.add_nodes(node(f"x{number}"))
        made.settle()
    lines = told(made, task.id)
    assert len(lines) == TASK_LINES
    assert lines[0] == ("created", "slot 1 is empty")
    assert f"{TASK_LINES * 2 + 1} nodes" in lines[-1][1]
    assert "no suitable node: 3 nodes: " in " ".join(reason for _, reason in lines[:FIRST_KEPT])


def test_a_service_tells_its_own_changes_and_its_tasks_last_words() -> None:
    made = World(history=1)
    made.add_nodes(node("n1"))
    made.put_service("web", spec("web"))
    made.converge()
    first = made.tasks("web")[0]
    made.now_ns += 1
    made.put_service("web", spec("web", image="image:2"))
    made.converge()
    lines = [(t.task, t.line.what) for t in service_story(made.view, made.view.services["web"])]
    assert lines[0] == ("", "created")
    assert ("", "spec version 2") in lines
    assert ("", "updating") in lines
    assert first.id not in made.view.stories
    assert ("", f"task web.1 {first.id} deleted") in lines
    assert ("web.1", "running") in lines


def test_stories_survive_a_snapshot_and_go_with_their_service() -> None:
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("web", spec("web"))
    made.converge()
    assert restore(list(dump(made.view))).stories == made.view.stories
    made.commit(c.Delete(object="service", id="web"))
    made.converge()
    assert made.view.stories == {}


def test_what_a_turn_intends_is_not_told_before_it_is_committed() -> None:
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("web", spec("web"))
    before = dict(made.view.stories)
    made.propose()
    assert made.view.stories == before
