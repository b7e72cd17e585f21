"""A small HTTP/1.1 client: unix or TCP, chunked both ways, and hijacked streams.

One connection per request: a connect on a unix socket costs less than the bookkeeping of
keeping one alive, and streams and hijacks need their own anyway.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader

from swarmctl.errors import ClientError, DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

API_VERSION = "1.50"
DEFAULT_HOST = "unix:///run/swarm/swarmd.sock"
_CHUNK_BYTES = 65536
_HEADERS_MAX = 100

Query = Mapping[str, str]


def host_from(environment: Mapping[str, str], flag: str | None = None) -> str:
    """Return where the daemon is: the flag, SWARM_HOST, DOCKER_HOST or the default socket."""
    return flag or environment.get("SWARM_HOST") or environment.get("DOCKER_HOST") or DEFAULT_HOST


def segment(name: str) -> str:
    """Return a name as one part of a path; slashes and colons of image names stay."""
    if name.replace("-", "").replace("_", "").isalnum() and name.isascii():
        return name  # most are, and the module is one of the slower ones to import
    from urllib.parse import quote

    return quote(name, safe="/:@")


class Response:
    """A head that has arrived and a body that may still be coming."""

    def __init__(
        self, connection: socket.socket, reader: BufferedReader, *, bodyless: bool = False
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._bodyless = bodyless
        self.status = _read_status(reader)
        self.headers = _read_headers(reader)

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives; raises ClientError when it is cut short."""
        try:
            if self._bodyless:
                return
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                yield from self._chunked()
            elif "content-length" in self.headers:
                yield from self._counted(int(self.headers["content-length"]))
            elif self.status not in (101, 204, 304):
                yield from iter(lambda: self._reader.read1(_CHUNK_BYTES), b"")
        finally:
            self.close()

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.chunks())

    def objects(self) -> Iterator[Any]:
        """Yield the JSON objects of a body that holds one per line (LF or CRLF)."""
        rest = b""
        for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (_json(line) for line in lines if line.strip())
        if rest.strip():
            yield _json(rest)

    def close(self) -> None:
        self._reader.close()
        self._connection.close()

    def _counted(self, left: int) -> Iterator[bytes]:
        while left:
            data = self._reader.read1(min(left, _CHUNK_BYTES))
            if not data:
                raise ClientError("the daemon closed the connection in the middle of an answer")
            left -= len(data)
            yield data

    def _chunked(self) -> Iterator[bytes]:
        while True:
            line = self._reader.readline(1024)
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                raise ClientError(
                    "the daemon closed the connection in the middle of an answer"
                ) from None
            if not size:
                while self._reader.readline(_CHUNK_BYTES).strip():
                    continue
                return
            yield from self._counted(size)
            self._reader.readline(1024)


class Hijacked:
    """A connection that has become a raw stream in both directions."""

    def __init__(self, response: Response, connection: socket.socket, reader: BufferedReader):
        self.multiplexed = "raw-stream" not in response.headers.get("content-type", "")
        self.can_half_close = not hasattr(connection, "unwrap")
        self._connection = connection
        self._reader = reader

    def chunks(self) -> Iterator[bytes]:
        """Yield what the other side writes until it closes."""
        return iter(lambda: self._reader.read1(_CHUNK_BYTES), b"")

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def end_input(self) -> None:
        """Say that no more input comes; output still may."""
        if self.can_half_close:
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Leave the stream, also while another thread reads it."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster
        self._connection.close()


class Client:
    """Speaks to one daemon. `host` is unix:///path, tcp://name:port or http://name:port."""

    def __init__(self, host: str, environment: Mapping[str, str] = os.environ) -> None:
        self.host = host
        self._prefix = "/v" + environment.get("DOCKER_API_VERSION", API_VERSION)
        verify = environment.get("DOCKER_TLS_VERIFY", "")
        self._certificates = environment.get("DOCKER_CERT_PATH", "") if verify else ""
        self._token = environment.get("SWARM_API_TOKEN", "")

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        content: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send and return once the head of the answer is there; raises DaemonError from 400 on.

        `body` is sent as JSON; `content` is sent chunked. Paths under /swarm/v1 carry no API
        version.
        """
        response, _, _ = self._exchange(method, path, query, body, content, headers)
        return response

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON of the answer, None where it has no body."""
        data = self.request(method, path, query=query, body=body, headers=headers).read()
        return _json(data) if data.strip() else None

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON of a GET."""
        return self.call("GET", path, query=query)

    def hijack(self, path: str, *, query: Query | None = None, body: Any = None) -> Hijacked:
        """Turn a POST into a raw stream."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        parts = self._exchange("POST", path, query, body, None, headers)
        if parts[0].status not in (101, 200):
            raise ClientError(f"the daemon answered {parts[0].status} instead of a stream")
        return Hijacked(*parts)

    def _exchange(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Any,
        content: Iterable[bytes] | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[Response, socket.socket, BufferedReader]:
        connection = self._connect()
        reader = connection.makefile("rb")
        try:
            target = path if path.startswith("/swarm/v1/") else self._prefix + path
            if query:
                from urllib.parse import urlencode

                target += "?" + urlencode(query)
            try:
                _send(connection, _head(method, target, self._headers(headers)), body, content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before the body was read: the answer says why
            response = Response(connection, reader, bodyless=method == "HEAD")
        except ClientError:
            connection.close()
            raise
        except OSError as error:
            connection.close()
            raise ClientError(f"the connection to the daemon at {self.host} broke: {error}") from (
                error
            )
        if response.status >= 400:
            raise DaemonError(response.status, _reason(response))
        return response, connection, reader

    def _headers(self, given: Mapping[str, str] | None) -> dict[str, str]:
        """Add the token: never to a connection others could read along."""
        headers = dict(given or {})
        if self._token:
            if not self.host.startswith("unix://") and not self._is_secure:
                raise ClientError("SWARM_API_TOKEN needs TLS: set DOCKER_TLS_VERIFY=1")
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    @property
    def _is_secure(self) -> bool:
        return bool(self._certificates) or self.host.startswith("https://")

    def _connect(self) -> socket.socket:
        try:
            if self.host.startswith("unix://"):
                return _unix_connection(self.host.removeprefix("unix://"))
            from urllib.parse import urlsplit

            parts = urlsplit(self.host)
            if parts.scheme in ("tcp", "http", "https") and parts.hostname:
                secure = self._is_secure
                port = parts.port or (2376 if secure else 2375)
                connection = socket.create_connection((parts.hostname, port))
                return self._secure(connection, parts.hostname) if secure else connection
        except OSError as error:
            raise ClientError(_unreachable(self.host, error)) from error
        raise ClientError(
            f"cannot use {self.host!r} as a host: want unix:///path/to.sock or tcp://name:port"
        )

    def _secure(self, connection: socket.socket, name: str) -> socket.socket:
        import ssl

        context = ssl.create_default_context()
        if self._certificates:
            folder = self._certificates
            context.load_verify_locations(os.path.join(folder, "ca.pem"))
            certificate = os.path.join(folder, "cert.pem")
            if not self._token or os.path.exists(certificate):
                context.load_cert_chain(certificate, os.path.join(folder, "key.pem"))
        return context.wrap_socket(connection, server_hostname=name)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ClientError(f"the daemon's answer is not JSON: {error}") from error


def _unix_connection(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _unreachable(host: str, error: OSError) -> str:
    advice = "start it with `swarmd`, or point elsewhere with -H or SWARM_HOST"
    if isinstance(error, PermissionError):
        advice = "become root or a member of the socket's group, or point elsewhere with -H"
    reason = (error.strerror or str(error)).lower()
    return f"Cannot connect to the swarm daemon at {host}: {reason}; {advice}"


def _head(method: str, target: str, extra: dict[str, str]) -> list[str]:
    lines = [f"{method} {target} HTTP/1.1", "Host: swarm", "User-Agent: swarmctl"]
    extra.setdefault("Connection", "close")
    return lines + [f"{name}: {value}" for name, value in extra.items()]


def _send(
    connection: socket.socket, head: list[str], body: Any, content: Iterable[bytes] | None
) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    if content is not None:
        head.append("Transfer-Encoding: chunked")
    elif body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    elif head[0].startswith("POST"):
        head.append("Content-Length: 0")
    connection.sendall("\r\n".join([*head, "", ""]).encode() + data)
    for piece in content or ():
        if piece:
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    if content is not None:
        connection.sendall(b"0\r\n\r\n")


def _read_status(reader: BufferedReader) -> int:
    line = reader.readline(_CHUNK_BYTES)
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise ClientError("the daemon closed the connection without an answer")
    return int(parts[1])


def _read_headers(reader: BufferedReader) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(_HEADERS_MAX):
        line = reader.readline(_CHUNK_BYTES).decode("latin-1").strip()
        if not line:
            return headers
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    raise ClientError(f"the daemon's answer has more than {_HEADERS_MAX} headers")


def _reason(response: Response) -> str:
    data = response.read()
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace").strip() or f"status {response.status}"
