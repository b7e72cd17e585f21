"""Ports whose bytes are carried: at ::1, where nothing can be rewritten, and with PROXY headers."""

import asyncio
import contextlib
import errno
import logging
import random
import socket
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from worker.network.attachments import AttachedEndpoint, PortBinding
from worker.network.carried import Front, Place, Way, proxy_header
from worker.network.local import is_carried
from worker.network.netlink import family_of

_PIECE_BYTES = 65536
_BACKLOG = 1024
_CONNECTIONS_MAX = 4096
"""Of one port; each holds two descriptors and at most two pieces."""
_CONNECT_TIMEOUT_S = 2.0
_TARGETS_TRIED = 3
_KEEPALIVE_S = 60
_HALF_CLOSED_S = 60.0
"""What a client has to end its half in once the task ended its own, as in FIN_WAIT2."""
_SENDER_IDLE_TIMEOUT_S = 90.0
_SENDERS_MAX = 1024
_RESET = struct.pack("ii", 1, 0)
_log = logging.getLogger(__name__)
SocketFactory = Callable[[socket.SocketKind, socket.AddressFamily], socket.socket]
"""Returns a non-blocking socket in the node's namespace."""


async def carried(
    binding: PortBinding, holder: socket.socket, inside: AttachedEndpoint, opening: SocketFactory
) -> "CarriedPort | socket.socket":
    """Return what holds a port from now on: the socket, but where it is to answer at ::1."""
    if not is_carried(binding):
        return holder
    port = CarriedPort(holder, Way(((inside.ipv6_address, binding.container_port),)), opening)
    await port.start()
    return port


class Relays:
    """The carried ports of the mesh on this node, and the connections through them."""

    def __init__(self, opening: SocketFactory) -> None:
        self._open = opening
        self._ports: dict[Front, CarriedPort] = {}
        self._retired: list[CarriedPort] = []
        """No longer wanted; their connections end by themselves, or with their task."""
        self._failed: set[Front] = set()

    async def settle(self, wanted: Mapping[Front, Way]) -> None:
        """Listen at `wanted` and nowhere else; what another program has is tried again."""
        for front in self._ports.keys() - wanted.keys():
            port = self._ports.pop(front)
            port.stop_listening()
            self._retired.append(port)
        self._retired = [port for port in self._retired if port.is_busy()]
        self._failed &= wanted.keys()
        for front, way in wanted.items():
            if front in self._ports:
                self._ports[front].way = way
            else:
                await self._listen(front, way)

    async def _listen(self, front: Front, way: Way) -> None:
        try:
            holder = _bound(front, self._open)
        except OSError as error:
            # A node without the address, or without IPv6, has no such port.
            is_odd = error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
            if is_odd and front not in self._failed:
                _log.warning("published port %s cannot be carried: %s", front, error.strerror)
            self._failed.add(front)
            return
        self._failed.discard(front)
        self._ports[front] = CarriedPort(holder, way, self._open)
        await self._ports[front].start()

    def forget(self, address: str, *, only_datagrams: bool = False) -> None:
        """Reset what goes to an address that is a task's no more."""
        for port in (*self._ports.values(), *self._retired):
            if not only_datagrams or not port.is_stream:
                port.forget(address)

    def close(self) -> None:
        """Close every port and connection."""
        for port in (*self._ports.values(), *self._retired):
            port.close()
        self._ports.clear()
        self._retired.clear()


class CarriedPort:
    """One published port; all else that would come to its socket is rewritten before."""

    def __init__(
        self,
        holder: socket.socket,
        way: Way,
        opening: SocketFactory,
        *,
        half_closed_s: float = _HALF_CLOSED_S,
    ) -> None:
        """Take over `holder`, which is bound."""
        self.way = way
        self._half_closed_s = half_closed_s
        self.is_stream = holder.type == socket.SOCK_STREAM
        self._holder = holder
        self._open = opening
        self._carrying: dict[asyncio.Task[None], str] = {}
        """What is under way, and the address it goes to."""
        self._senders: dict[Place, socket.socket] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._holder.setblocking(False)
        if self.is_stream:
            self._server = await asyncio.start_server(
                self._accept, sock=self._holder, backlog=_BACKLOG
            )
        else:
            asyncio.get_running_loop().add_reader(self._holder, self._readable)

    def is_busy(self) -> bool:
        """Tell whether anything is under way through it."""
        return bool(self._carrying)

    def stop_listening(self) -> None:
        """Take nothing new; datagram flows end with that, connections go on."""
        if self._server is not None:
            self._server.close()
        elif self._holder.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._holder)
            self._cancel(self._carrying)
        self._holder.close()

    def close(self) -> None:
        """Close the port and what is under way through it."""
        self.stop_listening()
        self._cancel(self._carrying)

    def forget(self, address: str) -> None:
        """End what goes to an address."""
        self._cancel([task for task, there in self._carrying.items() if there == address])

    def _cancel(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        for task in list(tasks):
            task.cancel()

    def _choose(self, client: str) -> list[Place]:
        """Return the targets to try, in order."""
        targets = self.way.targets
        if self.way.is_sticky:
            # The same at every node, and while the tasks are the same.
            first = zlib.crc32(ip_address(client.partition("%")[0]).packed) % len(targets)
        else:
            first = random.randrange(len(targets))
        turned = (targets[first:] + targets[:first])[:_TARGETS_TRIED]
        return [*turned, *self.way.others[first : first + 1]]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._carrying) >= _CONNECTIONS_MAX:
            _reset(writer)
            return
        self._carrying[task] = ""
        try:
            client = writer.get_extra_info("peername")
            there, back = await self._connect(task, client[0])
            # What a peer has not taken waits here, where it is counted and can be ended.
            for one in (writer, back):
                one.transport.set_write_buffer_limits(0)
            try:
                if self.way.header:
                    asked = writer.get_extra_info("sockname")
                    back.write(proxy_header(self.way.header, client[:2], asked[:2]))
                await _exchange((reader, writer), (there, back), self._half_closed_s)
            except BaseException:
                _reset(back)
                raise
            back.close()
            writer.close()
        except BaseException as error:
            _reset(writer)
            if not isinstance(error, OSError | ExceptionGroup | asyncio.CancelledError):
                raise
        finally:
            del self._carrying[task]

    async def _connect(
        self, task: asyncio.Task[None], client: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first target that answers; OSError when none does."""
        failure: OSError = ConnectionRefusedError(errno.ECONNREFUSED, "no task is serving")
        for place in self._choose(client):
            self._carrying[task] = place[0]
            inner = self._open(socket.SOCK_STREAM, family_of(place[0]))
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    await asyncio.get_running_loop().sock_connect(inner, place)
                _keep_alive(inner)
                return await asyncio.open_connection(sock=inner)
            except OSError as error:
                inner.close()
                failure = error
            except BaseException:
                inner.close()
                raise
        raise failure

    def _readable(self) -> None:
        """Take one datagram; its sender gets a socket of its own, for the answers."""
        try:
            data, sender = self._holder.recvfrom(_PIECE_BYTES)
        except OSError:
            return
        place = (sender[0], sender[1])
        inner = self._senders.get(place)
        # A full buffer loses the datagram, as a network may.
        with contextlib.suppress(OSError):
            if inner is None:
                if len(self._senders) >= _SENDERS_MAX:
                    return
                inner = self._senders[place] = self._opened_for(place)
            inner.send(data)

    def _opened_for(self, sender: Place) -> socket.socket:
        target = self._choose(sender[0])[0]
        inner = self._open(socket.SOCK_DGRAM, family_of(target[0]))
        try:
            inner.connect(target)
        except OSError:
            inner.close()
            raise
        task = asyncio.ensure_future(self._answer(inner, sender))
        self._carrying[task] = target[0]
        task.add_done_callback(lambda _: self._carrying.pop(task, None))
        return inner

    async def _answer(self, inner: socket.socket, sender: Place) -> None:
        loop = asyncio.get_running_loop()
        try:
            with inner, contextlib.suppress(OSError, TimeoutError):
                while True:
                    async with asyncio.timeout(_SENDER_IDLE_TIMEOUT_S):
                        data = await loop.sock_recv(inner, _PIECE_BYTES)
                    self._holder.sendto(data, sender)
        finally:
            self._senders.pop(sender, None)


def _bound(front: Front, opening: SocketFactory) -> socket.socket:
    family = family_of(front.address)
    kind = socket.SOCK_STREAM if front.protocol == "tcp" else socket.SOCK_DGRAM
    holder = opening(kind, family)
    try:
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Connections of a former one go on.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
        holder.bind((front.address, front.port))
        if kind == socket.SOCK_STREAM:
            holder.listen(_BACKLOG)
    except OSError:
        holder.close()
        raise
    return holder


def _keep_alive(link: socket.socket) -> None:
    """Find out about a peer that is gone without a word."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S // 4)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset: what was sent is not all there was to send."""
    with contextlib.suppress(OSError):
        link: socket.socket = writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _exchange(
    outer: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    inner: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    half_closed_s: float,
) -> None:
    """Carry both directions to their ends; the failure of one, or lingering, ends the other."""
    _keep_alive(outer[1].get_extra_info("socket"))
    async with asyncio.TaskGroup() as group:
        inward = group.create_task(_pour(outer[0], inner[1]))
        await _pour(inner[0], outer[1])
        async with asyncio.timeout(half_closed_s):
            await asyncio.shield(inward)


async def _pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Carry one direction to its end."""
    while piece := await source.read(_PIECE_BYTES):
        sink.write(piece)
        await sink.drain()
    sink.write_eof()
