"""Where the API listens: unix sockets, and TCP where every client shows a certificate.

TLS ends in a splice of our own before the HTTP server: asyncio's closes a TLS connection when the
client half-closes it, and Docker's clients half-close every attached stream at once. A splice has
one socket pair per connection, whose half-close is the client's close_notify.
"""

import asyncio
import grp
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from swarmapi.errors import InvalidArgument
from swarmapi.override import override
from swarmapi.ratelimit import LimitedLog
from worker.strangers import Strangers

log = logging.getLogger(__name__)
log.addFilter(LimitedLog())
_CHUNK_BYTES = 64 << 10
_HANDSHAKE_S = 10.0
_STRANGER_S = 30.0
"""What a connection without a certificate has to show a token in."""
_BACKLOG = 128
_PORT = 2376
"""Docker's, for TLS."""


@dataclass(frozen=True)
class Secured:
    """The client of a TLS connection."""

    peer: str
    certificate_der: bytes
    """Verified; empty when it showed none."""
    known: Callable[[], None] = field(default=lambda: None, compare=False)
    """Says that it showed a token: it is counted among the unknown no more, and may stay."""


Serve = Callable[[socket.socket, Secured], Awaitable[None]]
"""Serves HTTP on one connected socket, which it closes at the end, for a client."""


@dataclass(frozen=True)
class Endpoint:
    """One `--host`; `address` is the path of a unix socket, or an IP address."""

    kind: Literal["unix", "tcp"]
    address: str
    port: int = 0

    @override
    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"unix://{self.address}" if self.kind == "unix" else f"tcp://{host}:{self.port}"


def parse_host(text: str) -> Endpoint:
    """Read `unix:///path` or `tcp://address:port`; raises InvalidArgument.

    A TCP host without an address is loopback; without a port it is Docker's.
    """
    kind, separator, rest = text.partition("://")
    if not separator or kind not in ("unix", "tcp"):
        raise InvalidArgument(f"{text!r} must be unix://PATH or tcp://ADDRESS:PORT")
    if kind == "unix":
        if not rest.startswith("/"):
            raise InvalidArgument(f"{text!r} must name an absolute path")
        return Endpoint("unix", rest)
    address, port = _split(rest.rstrip("/"), text)
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise InvalidArgument(f"{text!r}: {address!r} is no IP address") from None
    return Endpoint("tcp", address, port)


def _split(rest: str, text: str) -> tuple[str, int]:
    if rest.startswith("["):
        address, _, tail = rest[1:].partition("]")
        port = tail.removeprefix(":")
    else:
        address, _, port = rest.partition(":")
    if not port:
        port = str(_PORT)
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise InvalidArgument(f"{text!r}: {port!r} is no port")
    address = {"": "127.0.0.1", "localhost": "127.0.0.1"}.get(address, address)
    return address, int(port)


def listen(endpoint: Endpoint, group: str = "") -> socket.socket:
    """Return a listening socket; raises OSError naming the endpoint.

    A unix socket is root's and the group's, where there is such a group, else our own group's;
    one that is left over is replaced.
    """
    try:
        if endpoint.kind == "unix":
            return _listen_unix(Path(endpoint.address), group)
        family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((endpoint.address, endpoint.port))
        except OSError:
            listener.close()
            raise
        listener.listen(_BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen on {endpoint}: {error.strerror or error}") from error
    return listener


def _listen_unix(path: Path, group: str) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o117)
    try:
        listener.bind(str(path))
        with suppress(KeyError):
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


def server_context(ca: str, certificate: str, key: str, crl: str = "") -> ssl.SSLContext:
    """Return the TLS of a server that asks clients for a certificate of the authority.

    One of another authority, one that is over or that `crl` revokes ends the handshake; who shows
    none is the server's to refuse, unless a token comes.

    Raises:
        InvalidArgument: when a file cannot be read or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.options |= ssl.OP_NO_TICKET  # a resumed session is held against no newer list
    context.num_tickets = 0
    what = f"tlscacert {ca}"
    try:
        context.load_verify_locations(ca)
        if crl:
            what = f"tlscrl {crl}"
            context.load_verify_locations(crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        what = f"tlscert {certificate}, tlskey {key}"
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise InvalidArgument(f"{what}: {error.strerror or error}") from error
    return context


class TlsFiles:
    """The TLS of a server, as its files say now: what is renewed or revoked counts at once."""

    def __init__(self, ca: str, certificate: str, key: str, crl: str = "") -> None:
        self._files = tuple(filter(None, (ca, certificate, key, crl)))
        self._make = partial(server_context, ca, certificate, key, crl)
        self._context, self._seen = self._make(), self._look()

    def _look(self) -> tuple[tuple[int, int], ...]:
        found = map(os.stat, self._files)
        return tuple((one.st_mtime_ns, one.st_ino) for one in found)

    def now(self) -> ssl.SSLContext:
        """Return it; while a file cannot be used, what was there before."""
        try:
            seen = self._look()
            if seen != self._seen:
                self._seen = seen  # told of once
                self._context = self._make()
        except (InvalidArgument, OSError) as error:
            log.warning("TLS goes on with the files as they were: %s", error)
        return self._context


class TlsSplice:
    """Accepts TLS connections and hands each to `serve` as a plain socket."""

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        serve: Serve,
        *,
        strangers: Strangers | None = None,
        stranger_s: float = _STRANGER_S,
    ) -> None:
        self._context = context
        self._serve = serve
        self._strangers, self._stranger_s = strangers or Strangers(), stranger_s
        self._server: asyncio.Server | None = None
        self._live: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> None:
        """Accept from now on."""
        self._server = await asyncio.start_server(self._accepted, sock=listener)

    async def close(self) -> None:
        """Accept no more and end what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._live:
            task.cancel()
        await asyncio.gather(*self._live, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        source, port = (writer.get_extra_info("peername") or ("nobody", 0))[:2]
        if why := self._strangers.refusal(source):
            log.warning("TLS from %s:%s: refused, as %s", source, port, why)
            writer.transport.abort()
            return
        self._live.add(task)
        self._strangers.came(source)
        try:
            with ExitStack() as place:  # closed once it is known
                place.callback(self._strangers.went, source)
                connection = _Connection(self._context(), reader, writer)
                await connection.run(self._serve, place.close, self._stranger_s)
        except (OSError, ssl.SSLError, TimeoutError, EOFError) as error:
            log.warning("TLS from %s:%s: %s", source, port, error or type(error).__name__)
        finally:
            self._live.discard(task)
            writer.close()


class _Connection:
    """One TLS connection and the plain one behind it."""

    def __init__(
        self,
        context: ssl.SSLContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._reader, self._writer = reader, writer

    async def run(self, serve: Serve, known: Callable[[], None], stranger_s: float) -> None:
        """Serve it to its end; raises TimeoutError where it is not `known` in time."""
        async with asyncio.timeout(_HANDSHAKE_S):
            await self._handshake()
        address = self._writer.get_extra_info("peername") or ("", 0)
        certificate = self._tls.getpeercert(binary_form=True) or b""
        async with asyncio.timeout(stranger_s) as limit:

            def shown() -> None:
                known()
                with suppress(RuntimeError):  # over meanwhile
                    limit.reschedule(None)

            if certificate:
                shown()
            await self._splice(serve, Secured(f"{address[0]}:{address[1]}", certificate, shown))

    async def _splice(self, serve: Serve, client: Secured) -> None:
        ours, theirs = socket.socketpair()
        await serve(theirs, client)
        plain_reader, plain_writer = await asyncio.open_connection(sock=ours)
        inward = asyncio.ensure_future(self._inward(plain_writer))
        try:
            await self._outward(plain_reader)
        finally:
            inward.cancel()
            await asyncio.gather(inward, return_exceptions=True)
            plain_writer.close()

    async def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                await self._flush()  # the alert tells the client why
                raise
            else:
                return await self._flush()

    async def _inward(self, plain: asyncio.StreamWriter) -> None:
        """Carry what the client sends; its close_notify, or its end, is a half-close."""
        with suppress(ConnectionError, ssl.SSLError, EOFError):
            while True:
                try:
                    data = self._tls.read(_CHUNK_BYTES)
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._fill()
                    continue
                except ssl.SSLZeroReturnError:
                    break
                if not data:
                    break
                plain.write(data)
                await plain.drain()
        with suppress(OSError):
            plain.write_eof()

    async def _outward(self, plain: asyncio.StreamReader) -> None:
        """Carry what the server sends until it closes."""
        while data := await plain.read(_CHUNK_BYTES):
            self._tls.write(data)
            await self._flush()
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()

    async def _fill(self) -> None:
        data = await self._reader.read(_CHUNK_BYTES)
        if not data:
            self._incoming.write_eof()
            raise EOFError("the client went away")
        self._incoming.write(data)

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            self._writer.write(data)
            await self._writer.drain()
