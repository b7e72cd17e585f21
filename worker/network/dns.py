"""The resolver at 127.0.0.11 of every container: one event loop, two sockets per container.

The sockets listen on port 40053; the container's own nft table redirects port 53 to them, so
that the container itself can bind 0.0.0.0:53.
"""

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.network import answer as wire
from worker.network.dnscache import AnswerCache
from worker.network.local import DNS_ADDRESS, DNS_PORT
from worker.network.netlink import family_of
from worker.network.plan import Names

UPSTREAM_TIMEOUT_S = 2.0
_CLIENT_IDLE_TIMEOUT_S = 10.0
_DATAGRAMS_PER_WAKE = 32
_QUERIES_IN_FLIGHT_MAX = 512
SocketFactory = Callable[[socket.SocketKind, socket.AddressFamily], socket.socket]
"""Returns a non-blocking socket in the node's namespace."""


def open_listeners() -> tuple[socket.socket, socket.socket]:
    """Return the bound UDP and TCP sockets, in the calling thread's namespace."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        udp.bind((DNS_ADDRESS, DNS_PORT))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((DNS_ADDRESS, DNS_PORT))
        tcp.listen(64)
    except OSError:
        udp.close()
        tcp.close()
        raise
    return udp, tcp


@dataclass
class _Client:
    udp: socket.socket
    server: asyncio.Server
    names: Names
    upstream: tuple[str, ...]
    connections: set[asyncio.Task[None]] = field(default_factory=set)


class Resolver:
    """Answers every attached container from its own names and forwards the rest."""

    def __init__(self, open_upstream: SocketFactory) -> None:
        self._open_upstream = open_upstream
        self._clients: dict[str, _Client] = {}
        self._turn = itertools.count()
        self._forwards: set[asyncio.Task[None]] = set()
        self._cache = AnswerCache()

    async def attach(
        self,
        container_id: str,
        listeners: tuple[socket.socket, socket.socket],
        names: Names,
        upstream: tuple[str, ...],
    ) -> None:
        """Serve a container on sockets opened in its namespace; the resolver owns them."""
        udp, tcp = listeners

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            client = self._clients.get(container_id)
            if client is None or task is None:
                writer.close()
                return
            client.connections.add(task)
            try:
                await self._serve_stream(client, reader, writer)
            finally:
                client.connections.discard(task)
                writer.close()

        server = await asyncio.start_server(accept, sock=tcp)
        client = _Client(udp, server, names, upstream)
        self._clients[container_id] = client
        asyncio.get_running_loop().add_reader(udp.fileno(), self._readable, client)

    def update(self, container_id: str, names: Names, upstream: tuple[str, ...]) -> None:
        """Replace a container's names and resolvers; one that is not served is left alone."""
        client = self._clients.get(container_id)
        if client is not None:
            client.names, client.upstream = names, upstream

    def detach(self, container_id: str) -> None:
        """Close a container's sockets: they would keep its namespace alive."""
        client = self._clients.pop(container_id, None)
        if client is None:
            return
        asyncio.get_running_loop().remove_reader(client.udp.fileno())
        client.udp.close()
        client.server.close()
        for task in client.connections:
            task.cancel()

    async def stop(self) -> None:
        """Close everything and wait for what was under way."""
        connections = [t for c in self._clients.values() for t in c.connections]
        for container_id in list(self._clients):
            self.detach(container_id)
        waiting = [*connections, *self._forwards]
        for task in self._forwards:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def _readable(self, client: _Client) -> None:
        # Bounded, so that one busy container does not starve the others.
        for _ in range(_DATAGRAMS_PER_WAKE):
            try:
                query, address = client.udp.recvfrom(4096)
            except OSError:
                return
            if not wire.is_query(query):
                continue
            reply = wire.answer(query, client.names, next(self._turn))
            if reply is not None:
                _send(client.udp, reply, address)
            elif not client.upstream or len(self._forwards) >= _QUERIES_IN_FLIGHT_MAX:
                _send(client.udp, wire.failure(query), address)
            else:
                task = asyncio.ensure_future(self._forward_datagram(client, query, address))
                self._forwards.add(task)
                task.add_done_callback(self._forwards.discard)

    async def _forward_datagram(
        self, client: _Client, query: bytes, address: tuple[str, int]
    ) -> None:
        reply = await self._ask_upstream(client.upstream, query, socket.SOCK_DGRAM)
        _send(client.udp, reply, address)

    async def _serve_stream(
        self, client: _Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError, OSError):
            while True:
                async with asyncio.timeout(_CLIENT_IDLE_TIMEOUT_S):
                    (size,) = struct.unpack(">H", await reader.readexactly(2))
                    query = await reader.readexactly(size)
                if not wire.is_query(query):
                    return
                reply = wire.answer(query, client.names, next(self._turn), tcp=True)
                if reply is None:
                    reply = await self._ask_upstream(client.upstream, query, socket.SOCK_STREAM)
                writer.write(struct.pack(">H", len(reply)) + reply)
                await writer.drain()

    async def _ask_upstream(
        self, upstream: tuple[str, ...], query: bytes, kind: socket.SocketKind
    ) -> bytes:
        """Return what is remembered, else the first useful reply of all servers, else SERVFAIL."""
        now_s = asyncio.get_running_loop().time()
        known = self._cache.get((kind, upstream), query, now_s)
        if known is not None:
            return known
        reply = await self._ask_all(upstream, query, kind)
        self._cache.put((kind, upstream), query, reply, asyncio.get_running_loop().time())
        return reply

    async def _ask_all(
        self, upstream: tuple[str, ...], query: bytes, kind: socket.SocketKind
    ) -> bytes:
        tasks = [asyncio.ensure_future(self._ask(server, query, kind)) for server in upstream]
        fallback: bytes | None = None
        try:
            for finished in asyncio.as_completed(tasks):
                reply = await finished
                if reply is None:
                    continue
                if reply[3] & 0xF in (0, 3):  # NOERROR, NXDOMAIN
                    return reply
                fallback = reply
            return fallback or wire.failure(query)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, server: str, query: bytes, kind: socket.SocketKind) -> bytes | None:
        host, port = server_place(server)
        loop = asyncio.get_running_loop()
        try:
            with self._open_upstream(kind, family_of(host)) as link:
                async with asyncio.timeout(UPSTREAM_TIMEOUT_S):
                    await loop.sock_connect(link, (host, port))
                    if kind == socket.SOCK_STREAM:
                        await loop.sock_sendall(link, struct.pack(">H", len(query)) + query)
                        (size,) = struct.unpack(">H", await _exactly(link, 2))
                        reply = await _exactly(link, size)
                    else:
                        await loop.sock_sendall(link, query)
                        reply = await loop.sock_recv(link, 65535)
        except (OSError, TimeoutError):
            return None
        # Not this query's reply: treated as no reply.
        return reply if len(reply) >= 12 and reply[:2] == query[:2] else None


def server_place(server: str) -> tuple[str, int]:
    """Return address and port of `10.0.0.1[:5353]`, `fd00::1` or `[fd00::1]:5353`."""
    if server.startswith("["):
        host, _, port = server[1:].partition("]:")
        return host.removesuffix("]"), int(port or 53)
    if server.count(":") > 1:
        return server, 53
    host, _, port = server.partition(":")
    return host, int(port or 53)


async def _exactly(link: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = await asyncio.get_running_loop().sock_recv(link, size - len(found))
        if not part:
            raise ConnectionError("upstream closed the connection")
        found += part
    return found


def _send(udp: socket.socket, reply: bytes, address: tuple[str, int]) -> None:
    # A full buffer or a closed namespace loses the datagram, as a network may.
    with contextlib.suppress(OSError):
        udp.sendto(reply, address)
