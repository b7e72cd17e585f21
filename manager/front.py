"""The one public port: connections are passed on by the name their TLS client asks for (SNI).

gRPC either asks every client for a certificate or none. A node that joins has none yet, so the
two calls it needs live behind a server of their own, chosen by the server name `swarm-ca`; all
other connections reach the server that insists on a certificate. TLS itself ends there, not here:
this sees nothing but the ClientHello. Runs in a thread and loop of its own, so that a busy API
loop delays no other member.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Final

from swarmapi.ratelimit import LimitedLog

log = logging.getLogger(__name__)
log.addFilter(LimitedLog())
HELLO_WAIT_S: Final = 10.0
CHUNK_BYTES: Final = 1 << 16
MOST_CONNECTIONS: Final = 8192
_HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 0x01
_SERVER_NAME: Final = 0


def server_name(record: bytes) -> str:
    """Return the server name in a TLS record with a ClientHello (RFC 8446, RFC 6066).

    Empty when the client names none, or the bytes are no ClientHello.
    """
    body = memoryview(record)[5:]
    if len(body) < 4 or body[0] != _CLIENT_HELLO:
        return ""
    at = 4 + 2 + 32  # header, version, random
    for length_bytes in (1, 2, 1):  # session id, cipher suites, compression methods
        if at + length_bytes > len(body):
            return ""
        at += length_bytes + int.from_bytes(body[at : at + length_bytes], "big")
    end = min(len(body), at + 2 + int.from_bytes(body[at : at + 2], "big"))
    at += 2
    while at + 4 <= end:
        kind = int.from_bytes(body[at : at + 2], "big")
        size = int.from_bytes(body[at + 2 : at + 4], "big")
        if kind == _SERVER_NAME:
            entry = body[at + 4 : at + 4 + size]
            name = entry[5 : 5 + int.from_bytes(entry[3:5], "big")]
            return bytes(name).decode("ascii", "replace").lower()
        at += 4 + size
    return ""


class Front:
    """Listens and splices. A backend is `unix:PATH` or `host:port`."""

    def __init__(self, host: str, port: int, backends: Mapping[str, str], default: str) -> None:
        self._address = (host, port)
        self.switch(backends, default)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)
        self._started: Future[int] = Future()
        self._stop = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()

    def start(self) -> int:
        """Listen; returns the port. Raises OSError when the address cannot be had."""
        self._thread.start()
        return self._started.result()

    def switch(self, backends: Mapping[str, str], default: str) -> None:
        """Pass new connections on to other backends; established ones go on. From any thread."""
        self._routes = ({name.lower(): target for name, target in backends.items()}, default)

    def stop(self) -> None:
        """Close the port and every connection; blocks until it is done."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        try:
            server = await asyncio.start_server(self._accept, *self._address, backlog=512)
        except OSError as error:
            self._started.set_exception(error)
            return
        self._started.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        server.close()
        tasks = tuple(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= MOST_CONNECTIONS:
            log.warning("%s: refused, as %d are connected", _peer(writer), len(self._open))
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            await self._splice(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            log.debug("connection of %s ended: %s", _peer(writer), error)
        except asyncio.CancelledError:
            log.debug("connection ended: the manager stops")
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _splice(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HELLO_WAIT_S):
            head = await reader.readexactly(5)
            if head[0] != _HANDSHAKE:
                log.warning("%s speaks no TLS: refused", _peer(writer))
                return
            record = head + await reader.readexactly(int.from_bytes(head[3:5], "big"))
            backends, default = self._routes
            target = backends.get(server_name(record), default)
            back_reader, back_writer = await _connect(target)
        try:
            back_writer.write(record)
            pumps = [
                asyncio.create_task(_pump(reader, back_writer)),
                asyncio.create_task(_pump(back_reader, writer)),
            ]
            try:
                await asyncio.gather(*pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            back_writer.transport.abort()


def _peer(writer: asyncio.StreamWriter) -> str:
    address = writer.get_extra_info("peername") or ("nobody", 0)
    return f"{address[0]}:{address[1]}"


async def _connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if target.startswith("unix:"):
        return await asyncio.open_unix_connection(target.removeprefix("unix:"))
    host, _, port = target.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
