"""Who calls: the process at the other end of a unix socket, a client's certificate, or a token."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Final, Literal
from weakref import WeakKeyDictionary

from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import NameOID

from swarmapi.access import ApiRole, role_of_units
from swarmapi.errors import Unauthenticated
from worker.listening import Secured

TOKEN_PREFIX: Final = "SWMAPI-"
_CREDENTIALS = struct.Struct("3i")
CheckToken = Callable[[str], Awaitable[tuple[str, ApiRole]]]
"""Returns name and role of a token; raises Unauthenticated for one that is not known."""


@dataclass(frozen=True)
class Caller:
    """Who sent a request, and what it may do."""

    by: Literal["socket", "certificate", "token"]
    name: str
    role: ApiRole
    uid: int = -1
    pid: int = 0

    def header(self, peer: str) -> str:
        """Return the caller as one line of ASCII, for the manager's audit log."""
        told = {"by": self.by, "name": self.name, "role": self.role.word, "peer": peer}
        if self.by == "socket":
            told |= {"uid": str(self.uid), "pid": str(self.pid)}
        return json.dumps(told)


CALLER = web.RequestKey("caller", Caller)
PEER = web.RequestKey("peer", str)
"""Address and port of a TCP client; empty on a unix socket."""


class Callers:
    """Tells who is behind a connection; TLS connections are told to it as they come."""

    def __init__(self, default: ApiRole | None, check_token: CheckToken) -> None:
        self._default = default
        self._check_token = check_token
        self._secured: MutableMapping[asyncio.BaseTransport, Secured] = WeakKeyDictionary()

    def came(self, transport: asyncio.BaseTransport, secured: Secured) -> None:
        """Remember who is at the other end of a TLS connection."""
        self._secured[transport] = secured

    def peer(self, request: web.Request) -> str:
        """Return address and port of a TCP client; empty on a unix socket."""
        secured = self._secured.get(request.transport) if request.transport is not None else None
        return secured.peer if secured is not None else ""

    async def of(self, request: web.Request) -> Caller:
        """Return who sent a request: its token counts before its certificate.

        Raises:
            Unauthenticated: it shows neither, or a token that is not known.
            Forbidden: its certificate names no role.
        """
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        secured = self._secured.get(transport)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.startswith(TOKEN_PREFIX):
            name, role = await self._check_token(token.strip())
            if secured is not None:
                secured.known()
            return Caller("token", name, role)
        if secured is None:
            return _of_socket(transport)
        if not secured.certificate_der:
            raise Unauthenticated("show a client certificate, or an API token as bearer")
        return self._of_certificate(x509.load_der_x509_certificate(secured.certificate_der))

    def _of_certificate(self, certificate: x509.Certificate) -> Caller:
        def values(oid: x509.ObjectIdentifier) -> list[str]:
            return [str(one.value) for one in certificate.subject.get_attributes_for_oid(oid)]

        role = role_of_units(values(NameOID.ORGANIZATIONAL_UNIT_NAME), self._default)
        names = values(NameOID.COMMON_NAME) or [f"serial {certificate.serial_number:x}"]
        return Caller("certificate", names[0], role)


def _of_socket(transport: asyncio.BaseTransport) -> Caller:
    """Return the process behind a unix socket: its files say that it may be an operator."""
    connected: socket.socket | None = transport.get_extra_info("socket")
    if connected is None or connected.family != socket.AF_UNIX:
        raise Unauthenticated("this is no unix socket: use TLS with a client certificate")
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Caller("socket", f"uid {uid}", ApiRole.OPERATOR, uid, pid)
