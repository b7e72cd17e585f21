"""Requests for the cluster pass to the local manager as they are, both directions streaming."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from swarmapi.access import CALLER_HEADER
from swarmapi.errors import Unavailable
from worker.api.audit import REQUEST_ID, REQUEST_ID_HEADER
from worker.api.authority import BODY
from worker.api.callers import CALLER, PEER
from worker.api.presence import while_connected

_CHUNK_BYTES = 64 << 10
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""Headers of one connection (RFC 9110, section 7.6.1), and those aiohttp makes anew."""
_NOT_PASSED = _HOP_BY_HOP | {"authorization", "x-swarm-node", "x-swarm-forwarded", "x-swarm-caller"}
"""And what only a node may tell a manager: a client's word on it is nothing."""
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5)


class ManagerProxy:
    """A client of the local manager's socket; connections are kept."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = str(socket_path)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def pass_on(self, request: web.Request, read: bytes | None = None) -> web.StreamResponse:
        """Send a request to the manager and stream its answer back, while the client is there.

        `read` is the body where the caller has read it already.

        Raises:
            Unavailable: when the manager does not take the connection.
            ConnectionResetError: the client went away, or the answer was cut short.
        """
        return await while_connected(request, self._pass(request, read))

    async def _pass(self, request: web.Request, read: bytes | None) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_PASSED}
        headers |= _told_of(request)
        read = request.get(BODY) if read is None else read
        body: bytes | AsyncIterator[bytes] | None = read
        if read is None and request.can_read_body:
            body = _pieces(request)
            if request.content_length is not None:
                headers["Content-Length"] = str(request.content_length)
        try:
            answer = await self._open().request(
                request.method,
                URL(f"http://manager{request.raw_path}", encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
            )
        except aiohttp.ClientConnectionError as error:
            raise _gone(error) from error
        async with answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for key, value in answer.headers.items():
                if key.lower() not in _HOP_BY_HOP:
                    response.headers.add(key, value)
            if answer.content_length is not None:
                response.content_length = answer.content_length
            else:
                response.enable_chunked_encoding()
            await response.prepare(request)
            try:
                async for piece in answer.content.iter_any():
                    await response.write(piece)
            except aiohttp.ClientError as error:
                # Without its end the client sees that the answer is not whole.
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError(f"the manager's answer broke off: {error}") from error
            await response.write_eof()
            return response

    @asynccontextmanager
    async def stream(
        self, request: web.Request, body: AsyncIterator[bytes], path: str = ""
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send a request with a body as it comes; the answer is there before its end.

        `path` stands in for the request's own, with the query.

        Raises:
            Unavailable: when the manager does not take the connection.
        """
        url = URL(f"http://manager{path or request.raw_path}", encoded=True)
        try:
            answer = await self._open().request(
                request.method, url, headers=_told_of(request), data=body, allow_redirects=False
            )
        except aiohttp.ClientConnectionError as error:
            raise _gone(error) from error
        async with answer:
            yield answer

    async def call(
        self, method: str, url: str, *, body: object = None, timeout_s: float = 15.0
    ) -> tuple[int, object]:
        """Send a request of our own; return (status, decoded JSON or None).

        Raises:
            Unavailable: when the manager does not answer in time.
        """
        try:
            async with self._open().request(
                method,
                f"http://manager{url}",
                json=body,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as answer:
                raw = await answer.read()
                if answer.content_type != "application/json" or not raw.strip():
                    return answer.status, None
                return answer.status, await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _gone(error) from error

    async def text(self, url: str, *, timeout_s: float) -> str:
        """Return the text of an answer, empty where there is none in time."""
        try:
            async with self._open().get(
                f"http://manager{url}", timeout=aiohttp.ClientTimeout(total=timeout_s)
            ) as answer:
                return await answer.text() if answer.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError):
            return ""

    async def lines(self, url: str) -> AsyncGenerator[bytes, None]:
        """Yield the lines of an answer that goes on, until it ends.

        Raises:
            Unavailable: when the manager does not answer, breaks off, or answers with an error.
        """
        try:
            async with self._open().get(f"http://manager{url}") as answer:
                if answer.status != 200:
                    raise _gone(RuntimeError(f"status {answer.status}"))
                rest = b""
                async for piece in answer.content.iter_any():
                    *whole, rest = (rest + piece).split(b"\n")
                    for line in whole:
                        yield line
        except aiohttp.ClientError as error:
            raise _gone(error) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._socket_path, limit=0),
                timeout=_TIMEOUT,
                auto_decompress=False,
            )
        return self._session


def _told_of(request: web.Request) -> dict[str, str]:
    """Return what the manager is told of a request: who asks, and the id of what changes."""
    headers = {}
    if CALLER in request:
        headers[CALLER_HEADER] = request[CALLER].header(request[PEER])
    if REQUEST_ID in request and request.method not in ("GET", "HEAD"):
        headers[REQUEST_ID_HEADER] = request[REQUEST_ID]
    return headers


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    async for piece in request.content.iter_chunked(_CHUNK_BYTES):
        yield piece


def _gone(error: Exception) -> Unavailable:
    return Unavailable(
        f"the local swarm-manager does not answer ({str(error) or 'no answer in time'}): "
        "it is started again; try in a moment"
    )
