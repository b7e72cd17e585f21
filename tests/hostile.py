"""What somebody on the network may try at a TLS port: each try must be refused, and run nothing."""

import os
import pickle
import random
import socket
import ssl
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swarmapi.identity import TLSMaterial
from swarmapi.override import override

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WAIT_S: Final = 10.0
RAW_KINDS: Final = ("plaintext", "garbage", "pickle", "torn hello")


class Mark:
    """A file that a pickle makes when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @override
    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)

    @property
    def pickled(self) -> bytes:
        """The hostile bytes."""
        return pickle.dumps(self)

    @property
    def was_run(self) -> bool:
        """Whether somebody unpickled it."""
        return self.path.exists()


@dataclass(frozen=True)
class Port:
    """One port, and what a client without a certificate sees there.

    `certificates` are refused in the handshake. `name` is what TLS asks for; `answers_nobody` is
    for ports where a client without a certificate gets to speak.
    """

    host: str
    number: int
    name: str
    certificates: dict[str, TLSMaterial]
    answers_nobody: bool = False
    token: str = ""
    """For HTTP: a wrong one to show."""


def attack(port: Port, number: int, mark: Mark) -> str:
    """Try something, chosen by the number; return what it was. AssertionError: it got through."""
    chance = random.Random(number)
    kinds = [*RAW_KINDS, "nobody", *port.certificates]
    kind = kinds[number % len(kinds)]
    with suppress(ConnectionError, TimeoutError), _connected(port) as connection:
        if kind in RAW_KINDS:
            _raw(connection, kind, chance, mark)
        else:
            _secured(connection, port, kind, mark)
    assert not mark.was_run, f"{kind}: the pickle was run"
    return kind


def _connected(port: Port) -> socket.socket:
    return socket.create_connection((port.host, port.number), WAIT_S)


def _raw(connection: socket.socket, kind: str, chance: random.Random, mark: Mark) -> None:
    sent = {
        "plaintext": b"GET /containers/json HTTP/1.1\r\nHost: x\r\n\r\n",
        "garbage": b"\x00" + chance.randbytes(chance.randrange(1, 2000)),
        "pickle": mark.pickled,
        "torn hello": b"\x16\x03\x01\x00\x40\x01" + mark.pickled[:40] + b"\x00" * 40,
    }[kind]
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
    answer = _rest(connection)
    assert not answer.startswith(b"HTTP/1.1 2"), f"{kind}: {answer[:60]!r}"


def _secured(connection: socket.socket, port: Port, kind: str, mark: Mark) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"] if not port.token else ["http/1.1"])
    if kind in port.certificates:
        shown = port.certificates[kind]
        with tempfile.NamedTemporaryFile() as file:
            file.write(shown.cert_pem + shown.key_pem)
            file.flush()
            context.load_cert_chain(file.name)
    answer = b""
    with suppress(ssl.SSLError):
        tls = context.wrap_socket(connection, server_hostname=port.name)
        if port.token:
            tls.sendall(
                b"POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
                % (port.token.encode(), len(mark.pickled), mark.pickled)
            )
        else:
            tls.sendall(PREFACE + mark.pickled)
        answer = _rest(tls)
        tls.close()
    if kind == "nobody" and port.answers_nobody:
        assert not port.token or answer.startswith(b"HTTP/1.1 401"), answer[:60]
    else:
        assert not answer, f"{kind}: {answer[:60]!r}"


def _rest(connection: socket.socket) -> bytes:
    got = b""
    with suppress(ssl.SSLError, ConnectionError):
        while piece := connection.recv(65536):
            got += piece
    return got
