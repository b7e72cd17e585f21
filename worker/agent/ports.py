"""What the agent needs of the engine and of the clock, as small Protocols."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from swarmapi.errors import InvalidArgument
from swarmapi.model.objects import SpecVersion, Task
from worker.engine.execs import ExecConfig
from worker.engine.logs import LogLine, LogQuery
from worker.taskmachine import Outcome, Standing


class LogSource(Protocol):
    """Where the logs of this machine's tasks are read."""

    def logs(self, task_id: str, query: LogQuery) -> AsyncGenerator[Sequence[LogLine], None]:
        """Yield batches of lines; with `follow`, an empty one after all that was there.

        Raises:
            NotFound: the task has no container here.
            Unsupported: its log cannot be read.
        """
        ...


class NotStarted(InvalidArgument):
    """A program that cannot be run in its container; the exit code is a shell's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TaskExec(Protocol):
    """A further process in a task's container."""

    exit_code: int | None

    def output(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield (1 stdout or 2 stderr, bytes) until the process and its output have ended."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def resize(self, rows: int, columns: int) -> None: ...

    def hang_up(self) -> None:
        """Leave it as a lost terminal does; nothing where it has ended."""
        ...


class ExecSource(Protocol):
    """Where further processes run in this machine's tasks."""

    async def run_in(self, task_id: str, config: ExecConfig) -> TaskExec:
        """Start a process; one whose config says `detach` is left alone, its output dropped.

        Raises:
            NotFound: the task has no container here.
            Conflict: its container does not run, or is paused.
            NotStarted: the program cannot be run.
        """
        ...


class Vantage(NamedTuple):
    """A running container from whose namespace a network is looked at."""

    name: str
    pid: int


class Executor(LogSource, ExecSource, Protocol):
    """Turns operations on tasks into containers. Every call is idempotent.

    An expected failure is an Outcome with `error` set; only a bug raises.
    """

    async def prepare(self, task: Task, spec: SpecVersion, say: Callable[[str], None]) -> Outcome:
        """Make the container ready to start; `say` tells what takes its time.

        It may be cancelled: then it ends soon, with the container made or not begun.
        """
        ...

    async def start(self, task: Task, spec: SpecVersion) -> Outcome:
        """Start it; one that was ever started counts as started."""
        ...

    async def await_health(self, task: Task, spec: SpecVersion) -> Outcome:
        """Return once it is healthy and ready; an error when it is ill or ends badly."""
        ...

    async def wait(
        self, task: Task, spec: SpecVersion, tell: Callable[[Standing], None]
    ) -> Outcome:
        """Return when it has ended, with the exit code, or was stopped as unhealthy.

        `tell` is called when it ceases to be ready, or is again, and before it is stopped as
        unhealthy: that waits for `task.endpoint.drained`, not for ever.
        """
        ...

    async def shut_down(self, task: Task, spec: SpecVersion) -> Outcome:
        """Stop it gracefully, then by force."""
        ...

    async def remove(self, task_id: str) -> None:
        """Delete its container, running or not."""
        ...

    def vantages(self) -> Mapping[str, Vantage]:
        """Return one of its running tasks on each network, by network id."""
        ...

    async def known_tasks(self) -> list[str]:
        """Return the ids of the tasks whose containers are on this machine."""
        ...


class Clock(Protocol):
    """Time, so that tests have their own."""

    def now_ns(self) -> int: ...

    async def sleep(self, seconds: float) -> None: ...
