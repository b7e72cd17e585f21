"""One client's reading of the logs of a service's or a task's containers.

Each task is a source: asked for in its node's session, published by the node's agent. A source
that breaks off is asked for again where it stopped. Where nothing can be had, a stream that ends
tells so at its end, and one that follows at once.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote

from manager.logbroker.merge import Line, Merge
from manager.store.view import View
from swarmapi.errors import SwarmError
from swarmapi.model.objects import NodeState, Task, TaskState
from swarmapi.v1 import logs_pb2 as pb

ANSWER_WAIT_S: Final = 5.0
"""An agent that is asked has this long to publish; a session in between has it to begin anew."""
PIECE_BYTES: Final = 1 << 15
STDERR: Final = 2


@dataclass(frozen=True)
class Query:
    """Which lines; `tail` counts from the end of each task's log, -1 is all."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    since_ns: int = 0
    until_ns: int = 0
    tail: int = -1


@dataclass(frozen=True)
class Selector:
    """Of whom: all tasks of a service, or one task."""

    service_id: str = ""
    task_id: str = ""

    def tasks(self, view: View) -> list[Task]:
        """Return the tasks there are now."""
        if self.task_id:
            task = view.tasks.get(self.task_id)
            return [task] if task is not None else []
        return [t for _, t in sorted(view.tasks.items()) if t.service_id == self.service_id]

    def matches(self, task: Task) -> bool:
        """Tell whether a task is meant."""
        return task.id == self.task_id or task.service_id == self.service_id

    def may_start(self, view: View) -> bool:
        """Tell whether a task of which nothing was read yet may still start."""
        if self.service_id:
            return self.service_id in view.services
        task = view.tasks.get(self.task_id)
        return task is not None and not task.status.state.is_terminal


class Record(NamedTuple):
    """A line and whose it is."""

    origin: "Source"
    line: Line


class Source:
    """One task's log on its way."""

    def __init__(self, task: Task) -> None:
        self.task_id = task.id
        self.service_id = task.service_id
        self.node_id = task.node_id
        self.request_id = ""
        """Of the request in force; empty while none is."""
        self.let_go = asyncio.Event()
        """Set when nobody waits for the answer to that request any more."""
        self.room = asyncio.Event()
        self.silent = False
        """It was given up; a stream that follows takes it back when its node is."""
        self.ended = False
        self.fruitless = 0
        """Requests since the last line."""
        self.seen_ns, self.seen_lines = 0, 0
        """The last line's time, and how many lines of that time there were."""
        self.skip = 0
        self.timer: asyncio.TimerHandle | None = None


class Subscription:
    """Its `records` are read once; whoever made it closes it."""

    def __init__(
        self,
        view: Callable[[], View],
        selector: Selector,
        query: Query,
        ask: Callable[[Source, pb.LogRequest], bool],
        forget: Callable[[str], None],
        now_ns: Callable[[], int],
        kept: Callable[[str], Sequence[Line]] = lambda _: (),
    ) -> None:
        self._view = view
        self._selector = selector
        self._query = query
        self._ask_node = ask
        self._forget = forget
        self._now_ns = now_ns
        self._kept = kept
        self._merge = Merge()
        self._sources: dict[str, Source] = {}
        self._notes: list[Record] = []
        self._changed = asyncio.Event()
        self._error: SwarmError | None = None
        self.problems: dict[str, None] = {}
        """Why logs are missing, in the order met; complete at the end of the stream."""

    def begin(self) -> None:
        """Ask for the logs there are."""
        for task in self._selector.tasks(self._view()):
            self._consider(task)

    def changed(self, task: Task) -> None:
        """A task is new or differs."""
        if self._query.follow:
            self._consider(task)
        self._changed.set()

    def _consider(self, task: Task) -> None:
        """Ask for a task's log if it is meant, can have one, and was not asked for."""
        if (
            task.id in self._sources
            or not self._selector.matches(task)
            or not (task.node_id and task.status.container_id)
            or task.status.state < TaskState.STARTING
        ):
            return
        source = self._sources[task.id] = Source(task)
        self._merge.add(task.id)
        self._ask(source)

    def wake(self) -> None:
        """Something was removed: the stream may be at its end."""
        self._changed.set()

    def fail(self, error: SwarmError) -> None:
        """End the stream with an error, after what has arrived."""
        self._error = self._error or error
        self._changed.set()

    def close(self) -> None:
        """Let every source go."""
        for source in self._sources.values():
            self._drop(source)

    # sources --------------------------------------------------------------------------------

    def _ask(self, source: Source) -> None:
        self._drop(source)
        source.let_go, source.room = asyncio.Event(), asyncio.Event()
        node = self._view().nodes.get(source.node_id)
        if node is None:
            self._give_up(source, f"node {source.node_id} was removed")
        elif node.state == NodeState.DOWN:
            self._give_up(source, f"{self._node_name(source)} is down")
        else:
            source.skip = source.seen_lines
            query, seen = self._query, bool(source.seen_ns)
            request = pb.LogRequest(
                task_id=source.task_id,
                stdout=query.stdout,
                stderr=query.stderr,
                follow=query.follow,
                since_ns=source.seen_ns if seen else query.since_ns,
                until_ns=query.until_ns,
                tail=-1 if seen else query.tail,
            )
            source.fruitless += self._ask_node(source, request)
            loop = asyncio.get_running_loop()
            name = self._node_name(source)
            source.timer = loop.call_later(
                ANSWER_WAIT_S, self._give_up, source, f"{name} does not answer"
            )

    def opened(self, source: Source) -> None:
        """A node publishes this log."""
        if source.timer is not None:
            source.timer.cancel()
        source.room.set()

    def take(self, source: Source, batch: pb.LogBatch) -> None:
        """Take a published batch; the source has no room until it was handed out."""
        for line in batch.lines:
            if source.skip and line.time_ns == source.seen_ns:
                source.skip -= 1
                continue
            source.skip = 0
            source.seen_lines = 1 + (source.seen_lines if line.time_ns == source.seen_ns else 0)
            source.seen_ns = line.time_ns
            source.fruitless = 0
            taken = Line(line.time_ns, line.stream, line.data, _details(line.attributes))
            self._merge.feed(source.task_id, (taken,))
        if batch.live:
            self._merge.go_live(source.task_id)
        if not self._merge.is_empty(source.task_id):
            source.room.clear()
        self._changed.set()

    def finished(self, source: Source, error: str) -> None:
        """A log is at its end, or its node says why there is none."""
        if error:
            self._tell(source, f"{self._node_name(source)}: {error}{self._take_kept(source)}")
        source.ended = True
        self._drop(source)
        self._merge.go_live(source.task_id)
        self._changed.set()

    def broke_off(self, source: Source) -> None:
        """A log ended before its end: ask again, and wait for the node where that is no use."""
        if source.ended or source.silent:
            return
        if source.fruitless < 3:
            self._ask(source)
        else:
            self._give_up(source, f"{self._node_name(source)} does not answer")

    def node_is_back(self, node_id: str) -> None:
        """A session of the node began: ask it for what is missing."""
        for source in tuple(self._sources.values()):
            if source.node_id == node_id and not source.ended:
                source.silent, source.fruitless = False, 0
                self._ask(source)

    def node_is_gone(self, node_id: str) -> None:
        """The session of the node ended: whatever it published broke off."""
        for source in tuple(self._sources.values()):
            if source.node_id == node_id and not source.silent and not source.ended:
                self._ask(source)

    def _give_up(self, source: Source, reason: str) -> None:
        self._tell(source, reason + self._take_kept(source))
        self._drop(source)
        self._merge.go_live(source.task_id)
        source.silent, source.ended = self._query.follow, not self._query.follow
        self._changed.set()

    def _take_kept(self, source: Source) -> str:
        """Take the last lines the manager kept, where the node gave none; say so, or nothing."""
        kept = self._kept(source.task_id) if not source.seen_ns else ()
        if not kept:
            return ""
        query = self._query
        lines = [line for line in kept if self._is_asked_for(line)]
        lines = lines if query.tail < 0 else lines[len(lines) - min(query.tail, len(lines)) :]
        self._merge.feed(source.task_id, lines)
        if lines:
            source.seen_ns = lines[-1].time_ns
            source.seen_lines = sum(line.time_ns == source.seen_ns for line in lines)
        return " (its last lines are those that the manager kept when the task ended)"

    def _is_asked_for(self, line: Line) -> bool:
        query = self._query
        stream = query.stderr if line.stream == STDERR else query.stdout
        in_time = query.since_ns <= line.time_ns <= (query.until_ns or line.time_ns)
        return stream and in_time

    def _drop(self, source: Source) -> None:
        self._forget(source.request_id)
        source.request_id = ""
        source.let_go.set()
        if source.timer is not None:
            source.timer.cancel()

    def _tell(self, source: Source, reason: str) -> None:
        if self._query.follow:
            words = f"warning: incomplete log stream: {reason}\n".encode()
            self._notes.append(Record(source, Line(self._now_ns(), STDERR, words)))
        else:
            self.problems[reason] = None

    def _node_name(self, source: Source) -> str:
        node = self._view().nodes.get(source.node_id)
        hostname = node.description.hostname if node is not None else ""
        return f"node {hostname} ({source.node_id})" if hostname else f"node {source.node_id}"

    # the reader's side ----------------------------------------------------------------------

    async def records(self) -> AsyncGenerator[Sequence[Record], None]:
        """Yield records until the end.

        Raises:
            SwarmError: what ended the stream early.
        """
        while True:
            if self._notes:
                notes, self._notes = self._notes, []
                yield notes
            if taken := self._merge.take(PIECE_BYTES):
                for key in {key for key, _ in taken}:
                    if self._merge.is_empty(key):
                        self._sources[key].room.set()
                yield [Record(self._sources[key], line) for key, line in taken]
                continue
            if self._error is not None:
                raise self._error
            if self._is_over():
                if not self._sources and self._selector.task_id:
                    self.problems[f"task {self._selector.task_id} has not been started"] = None
                return
            await self._changed.wait()
            self._changed.clear()

    def _is_over(self) -> bool:
        sources = self._sources.values()
        if not self._query.follow:
            return all(s.ended for s in sources)
        if self._selector.may_start(self._view()) and not (self._selector.task_id and sources):
            return False
        gone = not self._selector.tasks(self._view())  # nothing to take up again
        return all(s.ended or (s.silent and gone) for s in sources)


def _details(attributes: Mapping[str, str]) -> str:
    return ",".join(f"{quote(k)}={quote(v)}" for k, v in sorted(attributes.items()))
