"""Docker's hijacked streams: after the head the connection is raw bytes, half-closed at will.

aiohttp's parser hands the connection over: the head is written to its transport, bytes that came
behind the request's head are taken from the parser, and the transport gets a protocol of ours.
"""

import asyncio
import fcntl
import select
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

from aiohttp import web

from swarmapi.errors import InvalidArgument
from swarmapi.override import override
from worker.api.version import API_VERSION, minor_of

_FRAME = struct.Struct(">BxxxL")
RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
_READ_AHEAD_BYTES = 1 << 20
_HEAD_PATIENCE_S, _HEAD_POLL_S = 0.25, 0.0005
_LOOK_S = 0.25
_CONTROLS = frozenset("abcdefghijklmnopqrstuvwxyz@[\\]^_")
DEFAULT_DETACH_KEYS = b"\x10\x11"
_live: set["Hijacked"] = set()
# asyncio holds tasks and protocols weakly: a half-closed connection would be only a cycle


class Streams(Protocol):
    """What is behind a hijacked connection: an attach session or an exec."""

    def output(self) -> AsyncIterator[tuple[int, bytes]]: ...
    async def write(self, data: bytes) -> None: ...
    async def close_stdin(self) -> None: ...


def frame(stream: int, data: bytes) -> bytes:
    """Put Docker's 8-byte head before a piece of output."""
    return _FRAME.pack(stream, len(data)) + data


def content_type(request: web.Request, *, tty: bool) -> str:
    """Return the stream's type; before 1.42 every hijacked stream was called raw."""
    return MULTIPLEXED if not tty and minor_of(request) >= 42 else RAW


def parse_detach_keys(text: str) -> bytes:
    """Return the bytes of `ctrl-p,ctrl-q`; empty text means that default.

    Raises:
        InvalidArgument: for what is no key.
    """
    keys = b""
    for key in text.split(",") if text else []:
        control = key.removeprefix("ctrl-")
        if len(key) == 1 and key.isascii():
            keys += key.encode()
        elif key != control and len(control) == 1 and control in _CONTROLS:
            keys += bytes([ord(control.upper()) & 0x1F])
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
    return keys or DEFAULT_DETACH_KEYS


class Hijacked(asyncio.Protocol):
    """One taken-over connection with flow control in both directions."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._input: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._queued_bytes = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self.gone = asyncio.Event()
        self._head_read = False
        _live.add(self)

    @override
    def data_received(self, data: bytes) -> None:
        """Queue input and stop reading when the container is slower than the client."""
        self._input.put_nowait(data)
        self._queued_bytes += len(data)
        if self._queued_bytes > _READ_AHEAD_BYTES:
            self.transport.pause_reading()

    @override
    def eof_received(self) -> bool:
        """Take the client's half-close as the end of stdin; the write side stays open."""
        self._input.put_nowait(None)
        return True

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Wake everyone who waits for the client."""
        self._input.put_nowait(None)
        self.gone.set()
        self._writable.set()
        _live.discard(self)

    @override
    def pause_writing(self) -> None:
        """Hold output back: the client is slower than the container."""
        self._writable.clear()

    @override
    def resume_writing(self) -> None:
        """Let output go on."""
        self._writable.set()

    async def read(self) -> bytes | None:
        """Return the next input, None at its end."""
        data = await self._input.get()
        if data is not None:
            self._queued_bytes -= len(data)
            if self._queued_bytes < _READ_AHEAD_BYTES // 2 and not self.gone.is_set():
                self.transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send output, as fast as the client takes it."""
        if not self._head_read:
            await self._await_head()
        await self._writable.wait()
        if not self.gone.is_set():
            self.transport.write(data)

    async def _await_head(self) -> None:
        """Hold output back until the client has read the head of the answer.

        The Docker SDK for Python drops what it reads together with the head.
        """
        self._head_read = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _HEAD_PATIENCE_S
        fd = self.transport.get_extra_info("socket").fileno()
        while not self.gone.is_set() and loop.time() < deadline and _unread(fd):
            with suppress(TimeoutError):
                async with asyncio.timeout(_HEAD_POLL_S):
                    await self.gone.wait()

    async def until_gone(self) -> None:
        """Return when the client has left: also one that had half-closed, which nothing tells.

        TCP shows a close behind a half-close only when something is written.
        """
        fd = self.transport.get_extra_info("socket").fileno()
        while not self.gone.is_set() and not _hung_up(fd):
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self.gone.wait()

    async def close(self) -> None:
        """Flush and close, which is how the client learns of the end."""
        self.transport.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await self.gone.wait()
        _live.discard(self)


def _unread(fd: int) -> bool:
    """Tell whether the other end has still to take something we sent (unix(7), SIOCOUTQ)."""
    with suppress(OSError):
        count = fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0")
        return int.from_bytes(count, sys.byteorder) > 0
    return False


def _hung_up(fd: int) -> bool:
    """Tell whether both directions are shut (poll(2), POLLHUP)."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def take_over(request: web.Request, kind: str) -> Hijacked:
    """Send the head and take the connection from aiohttp."""
    transport = request.transport
    assert isinstance(transport, asyncio.Transport)
    if request.headers.get("Upgrade"):
        head = (
            f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\n"
            f"Upgrade: tcp\r\nApi-Version: {API_VERSION}\r\n\r\n"
        )
    else:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n"
    transport.write(head.encode())
    protocol = request.protocol
    early = bytes(getattr(protocol, "_message_tail", b"") or b"")
    protocol._message_tail = b""  # these bytes are the stream's, not a next request
    hijacked = Hijacked(transport)
    transport.set_protocol(hijacked)
    if early:
        hijacked.data_received(early)
    transport.resume_reading()
    return hijacked


def taken(request: web.Request) -> asyncio.CancelledError:
    """Return what a handler raises at its end: the connection is no longer aiohttp's."""
    return asyncio.CancelledError(f"{request.path} was hijacked")


async def serve(
    connection: Hijacked,
    streams: Streams,
    *,
    tty: bool,
    stdin: bool,
    shown: tuple[int, ...],
    detach_keys: bytes,
    keep_stdin: bool,
) -> None:
    """Carry bytes both ways until the output ends, the client leaves or types the detach keys.

    `keep_stdin` leaves the container's stdin open for the next client when this one's input ends.
    """
    detached = asyncio.Event()
    out = asyncio.create_task(_send_output(connection, streams, tty=tty, shown=shown))
    into = asyncio.create_task(
        _send_input(
            connection,
            streams,
            detached,
            stdin=stdin,
            keys=detach_keys if tty else b"",
            keep_stdin=keep_stdin,
        )
    )
    leave = asyncio.create_task(connection.gone.wait())
    detach = asyncio.create_task(detached.wait())
    try:
        await asyncio.wait({out, leave, detach}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (out, into, leave, detach):
            task.cancel()
        await asyncio.gather(out, into, leave, detach, return_exceptions=True)
        await connection.close()


async def _send_output(
    connection: Hijacked, streams: Streams, *, tty: bool, shown: tuple[int, ...]
) -> None:
    async for stream, data in streams.output():
        if tty:
            await connection.write(data)
        elif stream in shown:
            await connection.write(frame(stream, data))


async def _send_input(
    connection: Hijacked,
    streams: Streams,
    detached: asyncio.Event,
    *,
    stdin: bool,
    keys: bytes,
    keep_stdin: bool,
) -> None:
    tail = b""
    while (data := await connection.read()) is not None:
        if not stdin:
            continue
        if keys and keys in tail + data:
            detached.set()
            return
        tail = (tail + data)[-(len(keys) - 1) :] if len(keys) > 1 else b""
        await streams.write(data)
    if stdin and not keep_stdin:
        await streams.close_stdin()
