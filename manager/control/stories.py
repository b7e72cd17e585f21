"""Stories as they are told: of a task, and of a service with those of its tasks."""

from collections.abc import Iterator
from typing import NamedTuple

from manager.store.view import View
from swarmapi.model.objects import Service, StoryLine, Task


class Told(NamedTuple):
    """A line, and the name of the task it is about; empty for the service itself."""

    line: StoryLine
    task: str = ""
    task_id: str = ""


def task_story(view: View, task: Task) -> list[Told]:
    """Return what happened to a task, the oldest first."""
    return list(_of_task(view, task))


def service_story(view: View, service: Service) -> list[Told]:
    """Return what happened to a service and its tasks, the oldest first."""
    told = [Told(line) for line in view.stories.get(service.id, ())]
    for task in view.tasks_of_service(service.id):
        told += _of_task(view, task)
    return sorted(told, key=lambda entry: entry.line.time_ns)


def _of_task(view: View, task: Task) -> Iterator[Told]:
    name = f"{task.service_name}.{task.slot or task.node_id}"
    for line in view.stories.get(task.id, ()):
        yield Told(line, name, task.id)
