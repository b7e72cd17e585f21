"""The routes of stories: what happened, when and why."""

from collections.abc import Sequence
from typing import Final, TypedDict

from aiohttp import web

from manager.api.keys import STORE
from manager.api.render import rfc3339
from manager.api.responses import answer
from manager.control.lookup import find_service, find_task
from manager.control.stories import Told, service_story, task_story
from swarmapi.rest import Route


class StoryLineShown(TypedDict):
    """One thing that happened; `Task` and `TaskID` are empty where it is the service's own."""

    Time: str
    What: str
    Reason: str
    Task: str
    TaskID: str


async def tell_task(request: web.Request) -> web.Response:
    """Tell what happened to a task, the oldest first."""
    view = request.app[STORE].view
    return answer(_shown(task_story(view, find_task(view, request.match_info["id"]))))


async def tell_service(request: web.Request) -> web.Response:
    """Tell what happened to a service and its tasks, the oldest first."""
    view = request.app[STORE].view
    return answer(_shown(service_story(view, find_service(view, request.match_info["id"]))))


def _shown(told: list[Told]) -> list[StoryLineShown]:
    return [
        {
            "Time": rfc3339(entry.line.time_ns),
            "What": entry.line.what,
            "Reason": entry.line.reason,
            "Task": entry.task,
            "TaskID": entry.task_id,
        }
        for entry in told
    ]


ROUTES: Final[Sequence[Route]] = (
    Route("GET", "/swarm/v1/tasks/{id}/story", tell_task, answer=list[StoryLineShown]),
    Route("GET", "/swarm/v1/services/{id}/story", tell_service, answer=list[StoryLineShown]),
)
