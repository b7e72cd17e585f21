"""An executor whose containers are events: tests end them when they like."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from swarmapi.errors import NotFound, SwarmError
from swarmapi.model.objects import SpecVersion, Task
from worker.agent.ports import Vantage
from worker.engine.execs import ExecConfig
from worker.engine.logs import LogLine, LogQuery
from worker.taskmachine import Outcome, Standing


class FakeExec:
    """A process that tests speak for; bounded as a pipe is."""

    def __init__(self, task_id: str, config: ExecConfig) -> None:
        self.task_id = task_id
        self.config = config
        self.exit_code: int | None = None
        self.written: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(1)
        """What it writes, None at its end."""
        self.stdin: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self.sizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.hung_up = asyncio.Event()
        """Set when it was left, also after its end."""

    async def output(self) -> AsyncGenerator[tuple[int, bytes], None]:
        while (piece := await self.written.get()) is not None:
            yield piece

    async def write(self, data: bytes) -> None:
        await self.stdin.put(data)

    async def close_stdin(self) -> None:
        await self.stdin.put(None)

    async def resize(self, rows: int, columns: int) -> None:
        self.sizes.put_nowait((rows, columns))

    def hang_up(self) -> None:
        self.hung_up.set()

    async def end(self, code: int) -> None:
        self.exit_code = code
        await self.written.put(None)


class FakeExecutor:
    """Remembers every call; `fail` makes the next call of that name end with an error."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.containers: dict[str, asyncio.Future[int]] = {}
        self.fail: dict[str, str] = {}
        self.checked: dict[str, asyncio.Future[str]] = {}
        """The tasks with a health check: the error of its first verdict, empty when healthy."""
        self.pulling: dict[str, asyncio.Event] = {}
        """The tasks whose preparation says so and lasts until their event is set."""
        self.stopping: dict[str, asyncio.Event] = {}
        """The tasks that end only once their event is set, however they are asked."""
        self.tells: dict[str, Callable[[Standing], None]] = {}
        """What tests may say of a task that runs."""
        self._waits: dict[str, asyncio.Queue[Task]] = {}
        self._removed: dict[str, asyncio.Event] = {}
        self.log: dict[str, list[LogLine]] = {}
        """What each task has written."""
        self.fresh: dict[str, asyncio.Queue[list[LogLine] | None]] = {}
        """What it writes from now on, taken by one reader."""
        self.reading: list[str] = []
        """The tasks whose logs are being read."""
        self.execs: asyncio.Queue[FakeExec] = asyncio.Queue()
        """Those that were started."""
        self.refusal: SwarmError | None = None
        """Why none can be started."""

    async def prepare(self, task: Task, spec: SpecVersion, say: Callable[[str], None]) -> Outcome:
        self.calls.append(("prepare", task.id))
        if task.id in self.pulling:
            say("pulling")
            await self.pulling[task.id].wait()
        if error := self.fail.pop("prepare", ""):
            return Outcome(error=error)
        self.containers.setdefault(task.id, asyncio.get_running_loop().create_future())
        self.log.setdefault(task.id, [])
        return Outcome(container_id=f"c-{task.id}")

    async def start(self, task: Task, spec: SpecVersion) -> Outcome:
        self.calls.append(("start", task.id))
        if error := self.fail.pop("start", ""):
            return Outcome(error=error)
        return Outcome(container_id=f"c-{task.id}", pid=1, unproven=task.id in self.checked)

    async def await_health(self, task: Task, spec: SpecVersion) -> Outcome:
        error = await asyncio.shield(self.checked[task.id])
        return Outcome(pid=1, error=error)

    async def wait(
        self, task: Task, spec: SpecVersion, tell: Callable[[Standing], None]
    ) -> Outcome:
        self.tells[task.id] = tell
        self._waits.setdefault(task.id, asyncio.Queue()).put_nowait(task)
        if error := self.fail.pop("wait", ""):
            raise ConnectionError(error)
        if task.id not in self.containers:
            return Outcome(error="the container is gone")
        code = await asyncio.shield(self.containers[task.id])
        return Outcome(exit_code=code, error=f"exit {code}" if code else "")

    async def shut_down(self, task: Task, spec: SpecVersion) -> Outcome:
        self.calls.append(("shut down", task.id))
        if error := self.fail.pop("shut down", ""):
            return Outcome(error=error)
        if task.id in self.stopping:
            await self.stopping[task.id].wait()
        self.end(task.id, 143)
        return Outcome(exit_code=143)

    async def remove(self, task_id: str) -> None:
        self.calls.append(("remove", task_id))
        if error := self.fail.pop("remove", ""):
            raise ConnectionError(error)
        self.containers.pop(task_id, None)
        self._removed.setdefault(task_id, asyncio.Event()).set()

    async def awaited(self, task_id: str) -> Task:
        """Return a task once its end is waited for, as it was then; each such wait once."""
        async with asyncio.timeout(5):
            return await self._waits.setdefault(task_id, asyncio.Queue()).get()

    async def removed(self, task_id: str) -> None:
        """Wait until a task's container is gone."""
        async with asyncio.timeout(5):
            await self._removed.setdefault(task_id, asyncio.Event()).wait()

    def vantages(self) -> dict[str, Vantage]:
        return {}

    async def known_tasks(self) -> list[str]:
        return list(self.containers)

    async def logs(self, task_id: str, query: LogQuery) -> AsyncGenerator[Sequence[LogLine], None]:
        """Yield what tests put into `log`; follows until its end, which is None."""
        if task_id not in self.log:
            raise NotFound(f"task {task_id} has no container any more")
        self.reading.append(task_id)
        try:
            past, queue = self.log[task_id], self.fresh.setdefault(task_id, asyncio.Queue(1))
            if past:
                yield past[-query.tail :] if query.tail is not None else past
            if query.follow:
                yield []
                while (lines := await queue.get()) is not None:
                    yield lines
        finally:
            self.reading.remove(task_id)

    async def run_in(self, task_id: str, config: ExecConfig) -> FakeExec:
        if self.refusal is not None:
            raise self.refusal
        found = FakeExec(task_id, config)
        self.execs.put_nowait(found)
        return found

    def end(self, task_id: str, code: int) -> None:
        """Let a container end by itself."""
        ended = self.containers.get(task_id)
        if ended is not None and not ended.done():
            ended.set_result(code)


class RealClock:
    """The machine's clock, with sleeps that really pass."""

    def now_ns(self) -> int:
        return 1

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class EagerClock:
    """A clock on which every sleep is over at once."""

    def now_ns(self) -> int:
        return 1

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
