"""Published ports at ::1: bytes are carried, for IPv6 cannot rewrite what is for `lo` alone."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

from worker.network.attachments import AttachedEndpoint, PortBinding
from worker.network.local import is_carried

_PIECE_BYTES = 65536
_SENDER_IDLE_TIMEOUT_S = 90.0
_SENDERS_MAX = 1024
SocketFactory = Callable[[socket.SocketKind, socket.AddressFamily], socket.socket]
"""Returns a non-blocking socket in the node's namespace."""
Place = tuple[str, int]


async def carried(
    binding: PortBinding, holder: socket.socket, inside: AttachedEndpoint, opening: SocketFactory
) -> "CarriedPort | socket.socket":
    """Return what holds a port from now on: the socket, but where it is to answer at ::1."""
    if not is_carried(binding):
        return holder
    port = CarriedPort(holder, (inside.ipv6_address, binding.container_port), opening)
    await port.start()
    return port


class CarriedPort:
    """One published port at ::1; all else that would come to its socket is rewritten before."""

    def __init__(self, holder: socket.socket, inside: Place, opening: SocketFactory) -> None:
        """Take over `holder`, which is bound; the container listens at `inside`."""
        self._holder = holder
        self._inside = inside
        self._open = opening
        self._carrying: set[asyncio.Task[None]] = set()
        self._senders: dict[Place, socket.socket] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._holder.setblocking(False)
        if self._holder.type == socket.SOCK_STREAM:
            self._server = await asyncio.start_server(self._accept, sock=self._holder)
        else:
            asyncio.get_running_loop().add_reader(self._holder, self._readable)

    def close(self) -> None:
        """Close the port and what is under way through it."""
        if self._server is not None:
            self._server.close()
        elif self._holder.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._holder)
        self._holder.close()
        for task in self._carrying:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)
        with contextlib.suppress(OSError), contextlib.closing(writer):
            inner = self._open(socket.SOCK_STREAM, socket.AF_INET6)
            try:
                await asyncio.get_running_loop().sock_connect(inner, self._inside)
                there, back = await asyncio.open_connection(sock=inner)
            except BaseException:
                inner.close()
                raise
            with contextlib.closing(back):
                await asyncio.gather(_pour(reader, back), _pour(there, writer))

    def _readable(self) -> None:
        """Take one datagram; its sender gets a socket of its own, for the answers."""
        try:
            data, sender = self._holder.recvfrom(_PIECE_BYTES)
        except OSError:
            return
        place = (sender[0], sender[1])
        inner = self._senders.get(place)
        if inner is None:
            if len(self._senders) >= _SENDERS_MAX:
                return
            inner = self._senders[place] = self._open(socket.SOCK_DGRAM, socket.AF_INET6)
            task = asyncio.ensure_future(self._answer(inner, place))
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)
        # A full buffer loses the datagram, as a network may.
        with contextlib.suppress(OSError):
            inner.sendto(data, self._inside)

    async def _answer(self, inner: socket.socket, sender: Place) -> None:
        loop = asyncio.get_running_loop()
        try:
            with inner, contextlib.suppress(OSError, TimeoutError):
                while True:
                    async with asyncio.timeout(_SENDER_IDLE_TIMEOUT_S):
                        data = await loop.sock_recv(inner, _PIECE_BYTES)
                    self._holder.sendto(data, sender)
        finally:
            del self._senders[sender]


async def _pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Carry one direction to its end."""
    while piece := await source.read(_PIECE_BYTES):
        sink.write(piece)
        await sink.drain()
    sink.write_eof()
