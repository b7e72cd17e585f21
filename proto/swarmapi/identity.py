"""Who a node is: the identity in its certificate, and the TLS material that proves it.

A node's certificate names the node id as CN, the role as OU and the cluster id as O; its DNS
names are the node id and the role, so a client that knows no ids can still insist on a manager.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol, cast

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

from swarmapi.errors import Unauthenticated

Role = Literal["swarm-manager", "swarm-worker"]
MANAGER: Final = "swarm-manager"
WORKER: Final = "swarm-worker"
JOIN_SERVER_NAME: Final = "swarm-ca"
"""TLS server name by which a manager serves the two calls that need no client certificate."""


class AuthContext(Protocol):
    """The part of a gRPC servicer context that tells the peer's certificate."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return the properties of the peer; `x509_pem_cert` holds its leaf certificate."""


@dataclass(frozen=True)
class Identity:
    """What a certificate of the cluster's CA says about its holder."""

    node_id: str
    role: Role
    cluster_id: str

    @property
    def is_manager(self) -> bool:
        """Whether the certificate grants the manager's role."""
        return self.role == MANAGER


def identity_of(pem: bytes) -> Identity:
    """Read the identity in the first certificate of `pem`.

    The signature is not checked here: pass only what TLS has verified, or a file of our own.
    Raises Unauthenticated when the certificate cannot be read or lacks a part.
    """
    try:
        subject = x509.load_pem_x509_certificate(pem).subject
    except ValueError as error:
        raise Unauthenticated(f"certificate cannot be read: {error}") from error
    role = _only(subject, NameOID.ORGANIZATIONAL_UNIT_NAME, "OU (role)")
    if role not in (MANAGER, WORKER):
        raise Unauthenticated(f"certificate names the unknown role {role!r}; join the node again")
    return Identity(
        node_id=_only(subject, NameOID.COMMON_NAME, "CN (node id)"),
        role=cast(Role, role),
        cluster_id=_only(subject, NameOID.ORGANIZATION_NAME, "O (cluster id)"),
    )


def identity_from_auth_context(context: AuthContext) -> Identity:
    """Read the identity of the peer of a call on a mutual-TLS port.

    Raises Unauthenticated when the peer presented no certificate.
    """
    chain = list(context.auth_context().get("x509_pem_cert", ()))
    if not chain:
        raise Unauthenticated("no client certificate; connect with the node's certificate")
    return identity_of(chain[0])


def _only(subject: x509.Name, oid: x509.ObjectIdentifier, what: str) -> str:
    values = subject.get_attributes_for_oid(oid)
    if len(values) != 1 or not isinstance(values[0].value, str) or not values[0].value:
        raise Unauthenticated(f"certificate must name exactly one {what}; join the node again")
    return values[0].value


@dataclass(frozen=True)
class TLSMaterial:
    """A node's trust bundle, certificate chain and private key, each PEM."""

    ca_pem: bytes
    cert_pem: bytes
    key_pem: bytes = field(repr=False)

    @classmethod
    def read(cls, ca: Path, cert: Path, key: Path) -> "TLSMaterial":
        """Read the three files; raises OSError."""
        return cls(ca.read_bytes(), cert.read_bytes(), key.read_bytes())

    @property
    def identity(self) -> Identity:
        """The identity this material proves."""
        return identity_of(self.cert_pem)

    def client(self) -> grpc.ChannelCredentials:
        """Return credentials that present this node's certificate to a server."""
        return grpc.ssl_channel_credentials(self.ca_pem, self.key_pem, self.cert_pem)

    def server(self, require_client_auth: bool = True) -> grpc.ServerCredentials:
        """Return a server's credentials.

        Joining nodes have no certificate yet: with `require_client_auth=False` none is asked for,
        and such a port must serve nothing but joining.
        """
        return grpc.ssl_server_credentials(
            [(self.key_pem, self.cert_pem)],
            self.ca_pem if require_client_auth else None,
            require_client_auth=require_client_auth,
        )


class LiveTLS:
    """A node's material, replaced while it is in use.

    Connections that are established go on; channels made later show the newest, and servers have
    what they were made with (`manager.generations`).
    """

    def __init__(self, material: TLSMaterial) -> None:
        self.material = material

    @property
    def identity(self) -> Identity:
        """The identity the material proves."""
        return self.material.identity

    def client(self) -> grpc.ChannelCredentials:
        """Return credentials of a channel that is made now."""
        return self.material.client()

    def server(self, require_client_auth: bool = True) -> grpc.ServerCredentials:
        """Return credentials of a server that is made now (see `TLSMaterial.server`)."""
        return self.material.server(require_client_auth)


def validity(cert_pem: bytes) -> tuple[int, int]:
    """Return from when until when a certificate holds, in nanoseconds of the epoch."""
    certificate = x509.load_pem_x509_certificate(cert_pem)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return int(begin.timestamp()) * 10**9, int(end.timestamp()) * 10**9


def renewal_due_ns(cert_pem: bytes) -> int:
    """Return when a certificate is to be renewed: between half and 80 % of its time.

    The share is drawn from the certificate itself, so that nodes that came together do not renew
    together, and a restart draws the same again.
    """
    begin, end = validity(cert_pem)
    drawn = int.from_bytes(hashlib.sha256(cert_pem).digest()[:4], "big") / 2**32
    return begin + int((end - begin) * (0.5 + 0.3 * drawn))


def expect(name: str) -> tuple[str, str]:
    """Return the channel option that verifies the server's certificate for `name`.

    `name` is a node id, or a role where any node of that role will do.
    """
    return ("grpc.ssl_target_name_override", name)
