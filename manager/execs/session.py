"""One process in a task's container, between the client that has it and the node that runs it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from swarmapi.errors import InvalidArgument, SwarmError
from swarmapi.model.objects import Task
from swarmapi.v1 import exec_pb2 as pb

AHEAD: Final = 4
"""Pieces on their way in one direction: who reads slowly slows the one who writes."""
MOST_MESSAGE_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 1 << 16
Read = Callable[[], Awaitable[object]]
Write = Callable[[pb.ExecInput], Awaitable[None]]


class Exec:
    """Prepared, then started at most once; shown until it is forgotten."""

    def __init__(self, exec_id: str, task: Task, start: pb.ExecStart) -> None:
        self.id = exec_id
        self.task_id, self.node_id = task.id, task.node_id
        self.command = start
        self.started = False
        self.asked = False
        """Whether the node was told; one without a session is asked when its next one begins."""
        self.answered = asyncio.Event()
        self.ended = asyncio.Event()
        self.exit_code: int | None = None
        self.error: SwarmError | None = None
        """Why its end was not seen."""
        self._output: asyncio.Queue[pb.ExecChunk | None] = asyncio.Queue()
        self._room_out = asyncio.Semaphore(AHEAD)
        self._input: asyncio.Queue[pb.ExecInput] = asyncio.Queue()
        self._room_in = asyncio.Semaphore(AHEAD)
        self._size: pb.ExecInput | None = None
        """A size that the node has not been told yet: a later one takes its place."""

    @property
    def running(self) -> bool:
        """Whether a node has it, and its end is still to come."""
        return self.started and not self.ended.is_set()

    def end(self, error: SwarmError | None = None) -> None:
        """Take its end; the first one counts. Output that has arrived is still read."""
        if not self.ended.is_set():
            self.error = error
            self.ended.set()
            self._output.put_nowait(None)

    # the client's side ------------------------------------------------------------------------

    async def output(self) -> AsyncGenerator[pb.ExecChunk, None]:
        """Yield what it writes until its end.

        Raises:
            SwarmError: its end was not seen.
        """
        while (chunk := await self._output.get()) is not None:
            self._room_out.release()
            yield chunk
        if self.error is not None:
            raise self.error

    async def write(self, data: bytes) -> None:
        """Give it input, no faster than its node takes it."""
        for at in range(0, len(data), _PIECE_BYTES):
            await self._room_in.acquire()
            self._input.put_nowait(pb.ExecInput(stdin=data[at : at + _PIECE_BYTES]))

    def close_stdin(self) -> None:
        """End its input."""
        self._input.put_nowait(pb.ExecInput(stdin_end=pb.StdinEnd()))

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal."""
        if self._size is None:
            self._size = pb.ExecInput(size=pb.TerminalSize(rows=rows, columns=columns))
            self._input.put_nowait(self._size)
        else:
            self._size.size.rows, self._size.size.columns = rows, columns

    # the node's side --------------------------------------------------------------------------

    async def take(self, read: Read) -> None:
        """Take output from the node until it tells the end; returns early when it breaks off."""
        while True:
            await self._room_out.acquire()
            message = await read()
            if not isinstance(message, pb.ExecOutput):
                return
            if message.ByteSize() > MOST_MESSAGE_BYTES:
                raise InvalidArgument(f"a piece of output has at most {MOST_MESSAGE_BYTES} bytes")
            if message.HasField("end"):
                end = message.end
                self.exit_code = end.exit_code if end.HasField("exit_code") else None
                self.end(InvalidArgument(end.error) if end.error else None)
                return
            self._output.put_nowait(message.chunk)

    async def give(self, write: Write) -> None:
        """Send the node what to run, then its input, until cancelled."""
        await write(pb.ExecInput(start=self.command))
        while True:
            piece = await self._input.get()
            if piece is self._size:
                self._size = None
            await write(piece)
            if piece.HasField("stdin"):
                self._room_in.release()
