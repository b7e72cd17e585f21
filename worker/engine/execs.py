"""Further processes in running containers: their plumbing, exit codes and terminal."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

import msgspec

from runtime.errors import RuntimeFailure
from runtime.supervisor.kernel import open_null
from swarmapi.errors import Conflict
from worker.engine.ports import ExecProcess, Supervisor

_CHUNK_BYTES = 32 * 1024
LOST_EXIT_CODE = 255
"""The exit code of an exec whose end nobody saw."""
_DRAIN_S = 2.0
"""How long output is awaited from what an ended exec left behind in the container."""


class ExecConfig(msgspec.Struct, kw_only=True, rename="pascal"):
    """The body of `POST /containers/{id}/exec`."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    tty: bool = False
    cmd: list[str] = []
    env: list[str] = []
    user: str = ""
    privileged: bool = False
    working_dir: str = ""
    detach_keys: str = ""
    detach: bool = False
    console_size: list[int] = []


class Exec:
    """One exec: created, then started at most once."""

    def __init__(self, exec_id: str, container_id: str, config: ExecConfig) -> None:
        self.id = exec_id
        self.container_id = container_id
        self.config = config
        self.exit_code: int | None = None
        self.pid = 0
        self.started = False
        self.on_exit: Callable[[int], None] = lambda code: None
        self._process: ExecProcess | None = None
        self._readers: list[tuple[int, asyncio.StreamReader, asyncio.ReadTransport]] = []
        self._stdin: asyncio.StreamWriter | None = None
        self._exit: asyncio.Task[int] | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.started and self.exit_code is None

    async def start(self, supervisor: Supervisor, process: dict[str, Any]) -> None:
        """Run the process with its streams connected to this object.

        Raises:
            Conflict: when it was started before.
            RuntimeFailure: when the program cannot be run; the exit code is then 126 or 127.
        """
        if self.started:
            raise Conflict(f"exec {self.id} has already run")
        self.started = True
        if self.config.tty:
            self._process = await supervisor.exec(self.container_id, process, None)
            await self._connect_terminal(self._process)
        else:
            await self._start_on_pipes(supervisor, process)
        assert self._process is not None
        self.pid = self._process.pid
        self._exit = asyncio.create_task(self._reap(self._process))

    async def _start_on_pipes(self, supervisor: Supervisor, process: dict[str, Any]) -> None:
        theirs: list[int] = []
        ours: list[int] = []
        try:
            if self.config.attach_stdin:
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                theirs.append(read_end)
                ours.append(write_end)
            else:
                theirs.append(open_null())
            for _ in (1, 2):
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                theirs.append(write_end)
                ours.append(read_end)
            fds = (theirs[0], theirs[1], theirs[2])
            self._process = await supervisor.exec(self.container_id, process, fds)
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        if self.config.attach_stdin:
            self._stdin = await _writer(ours.pop(0))
        for stream, fd in ((1, ours[0]), (2, ours[1])):
            self._readers.append((stream, *await _reader(fd)))

    async def _connect_terminal(self, process: ExecProcess) -> None:
        master = process.master_fd
        if master < 0:
            raise Conflict("the runtime gave the exec no terminal")
        if len(self.config.console_size) == 2 and all(self.config.console_size):
            await process.resize(*self.config.console_size)
        self._stdin = await _writer(os.dup(master))
        self._readers.append((1, *await _reader(os.dup(master))))

    async def _reap(self, process: ExecProcess) -> int:
        try:
            self.exit_code = await process.wait()
        except RuntimeFailure:
            self.exit_code = LOST_EXIT_CODE
        finally:
            process.close()
        self.on_exit(self.exit_code)
        return self.exit_code

    async def output(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield (1 stdout or 2 stderr, bytes) until the process and its output have ended."""
        queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(maxsize=64)
        pumps = [
            asyncio.create_task(_pump(stream, reader, queue)) for stream, reader, _ in self._readers
        ]
        watch = asyncio.create_task(self._end_of(pumps, queue))
        try:
            while (item := await queue.get()) is not None:
                yield item
        finally:
            for task in (*pumps, watch):
                task.cancel()
            self.close()

    async def _end_of(
        self,
        pumps: list[asyncio.Task[None]],
        queue: asyncio.Queue[tuple[int, bytes] | None],
    ) -> None:
        assert self._exit is not None
        await asyncio.shield(self._exit)
        await asyncio.wait(pumps, timeout=_DRAIN_S)
        await queue.put(None)

    async def discard_output(self) -> None:
        """Read and drop the output of a detached exec until it ends."""
        async for _ in self.output():
            continue

    async def write(self, data: bytes) -> None:
        """Write to its stdin; data for a closed stdin is dropped as a pipe would."""
        if self._stdin is not None:
            with suppress(ConnectionError, BrokenPipeError):
                self._stdin.write(data)
                await self._stdin.drain()

    async def close_stdin(self) -> None:
        """End its stdin; a terminal has no end of file to give."""
        if self._stdin is not None and not self.config.tty:
            self._stdin.close()
            self._stdin = None

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal."""
        if self._process is None or self.exit_code is not None:
            raise Conflict(f"exec {self.id} is not running")
        await self._process.resize(rows, columns)

    def hang_up(self) -> None:
        """Leave it as a lost terminal does: SIGHUP, and nobody at its streams any more."""
        if self._process is not None and self.exit_code is None:
            self._process.signal(signal.SIGHUP)
        self.close()

    def kill(self) -> None:
        """End it at once, with what it started: every exec leads a session."""
        if self._process is not None and self.exit_code is None:
            self._process.signal(signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Let go of the streams; the process goes on."""
        for _, _, transport in self._readers:
            transport.close()
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None


async def _pump(
    stream: int,
    reader: asyncio.StreamReader,
    queue: asyncio.Queue[tuple[int, bytes] | None],
) -> None:
    # a pty reports the end of its last writer as EIO
    with suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            await queue.put((stream, data))


async def _reader(fd: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    return reader, transport


async def _writer(fd: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),
        os.fdopen(fd, "wb", buffering=0),
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)
