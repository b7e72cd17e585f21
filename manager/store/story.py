"""Stories: what happened to a task or a service, when and why, in words.

Apply writes them from the changes' reasons, so every member has the same ones and a new leader
loses nothing. They cost the log nothing; a snapshot holds them. Each is bounded: the beginning and
the newest lines stay. A task's story goes with its record; its last word stays with the service.
"""

import sys
from collections.abc import Iterator
from typing import Final

import msgspec

from swarmapi.model.objects import Explanation, Service, StoryLine, Task, TaskState, TaskStatus

FIRST_KEPT: Final = 8
TASK_LINES: Final = 40
SERVICE_LINES: Final = 120
MAX_REASON: Final = 500
_REPORTED: Final = "reported"
"""The reason of an agent's reports: what the status itself says is told instead."""


def task_lines(old: Task | None, new: Task, reason: str, now_ns: int) -> Iterator[StoryLine]:
    """Yield what a write to a task tells."""
    if old is None:
        yield _line(now_ns, "created", reason)
        return
    if new.status.state != old.status.state:
        what = new.status.state.name.lower()
        yield _line(now_ns, what, _status_text(new.status, reason))
    if new.desired != old.desired:
        yield _line(now_ns, f"desired {new.desired.name.lower()}", reason)
    if new.endpoint.state is not old.endpoint.state:
        yield _line(now_ns, f"endpoint {new.endpoint.state.name.lower()}", reason)
    if new.endpoint.drained and not old.endpoint.drained:
        yield _line(now_ns, "endpoint drained", reason)
    if new.explanation and new.explanation != old.explanation:
        text = msgspec.msgpack.decode(new.explanation, type=Explanation).text()
        yield _line(now_ns, "waits", text)


def service_lines(
    old: Service | None, new: Service, reason: str, now_ns: int
) -> Iterator[StoryLine]:
    """Yield what a write to a service tells."""
    if old is None:
        yield _line(now_ns, "created", reason)
        return
    if new.spec_version != old.spec_version:
        yield _line(now_ns, f"spec version {new.spec_version}", reason)
    status, before = new.update_status, old.update_status
    if status is not None and (before is None or status.state != before.state):
        yield _line(now_ns, status.state.value.replace("_", " "), status.message or reason)
    if new.endpoint.error and new.endpoint.error != old.endpoint.error:
        yield _line(now_ns, "not allocated", new.endpoint.error)


def last_word(task: Task, reason: str, now_ns: int) -> StoryLine:
    """Return what stays of a task whose record is deleted."""
    state = task.status.state.name.lower()
    told = _status_text(task.status, "")
    name = f"task {task.service_name}.{task.slot or task.node_id} {task.id}"
    text = f"{state}{f': {told}' if told else ''}"
    return _line(now_ns, f"{name} deleted", f"{reason or 'deleted'}; it was {text}")


def extended(story: tuple[StoryLine, ...], line: StoryLine, limit: int) -> tuple[StoryLine, ...]:
    """Return a story with one more line, and one from its middle less where it is full."""
    if len(story) < limit:
        return (*story, line)
    return (*story[:FIRST_KEPT], *story[FIRST_KEPT + 1 :], line)


def _status_text(status: TaskStatus, reason: str) -> str:
    told = status.error or status.message
    if status.exit_code and f"({status.exit_code})" not in told:
        told = f"{told + ', ' if told else ''}exit code {status.exit_code}"
    if reason == _REPORTED or (told and status.state > TaskState.ASSIGNED):
        return told
    return reason or told


def _line(now_ns: int, what: str, reason: str) -> StoryLine:
    # The same few texts come again and again: one copy of each in memory.
    kept = sys.intern(reason[:MAX_REASON])
    return StoryLine(time_ns=now_ns, what=sys.intern(what), reason=kept)
