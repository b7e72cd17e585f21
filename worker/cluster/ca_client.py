"""The node's side of the certificate authority: first certificate and renewal."""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from swarmapi import errors
from swarmapi.conversation import LEADER_METADATA
from swarmapi.identity import JOIN_SERVER_NAME, MANAGER, WORKER, TLSMaterial, expect, validity
from swarmapi.ids import root_digest
from swarmapi.v1 import ca_pb2 as pb
from worker.cluster.addresses import split
from worker.cluster.tokens import JoinToken

_SERVICE = "/swarmapi.v1.CertificateAuthority"
_TIMEOUT_S = 20.0
_ROLES = {"manager": MANAGER, "worker": WORKER}


@dataclass(frozen=True)
class Issued:
    """A node's fresh certificate and what came with it."""

    node_id: str
    cluster_id: str
    role: str
    """`manager` or `worker`."""
    managers: list[str]
    tls: TLSMaterial


@dataclass(frozen=True)
class Applicant:
    """What a node tells the authority of itself."""

    address: str
    """`host:port` where it will serve if it becomes a manager."""
    hostname: str
    availability: str = "active"


async def join(manager: str, token: JoinToken, applicant: Applicant) -> Issued:
    """Obtain the first certificate with a join token.

    The root comes over an unverified connection and is compared with the token's digest; the
    token goes only over a connection that this root verifies.

    Raises:
        Forbidden: when the root or the token is not the cluster's.
        Unavailable: when the manager does not answer.
    """
    root_pem = await fetch_root(manager)
    token.check_root(root_pem)
    key_pem, csr_pem = _request()
    credentials = grpc.ssl_channel_credentials(root_pem)
    request = pb.IssueRequest(
        csr_pem=csr_pem,
        join_token=token.text,
        address=applicant.address,
        availability=applicant.availability,
        hostname=applicant.hostname,
    )
    reply = await _issue(manager, credentials, JOIN_SERVER_NAME, request)
    return _issued(reply, root_pem, key_pem)


async def renew(
    manager: str,
    present: TLSMaterial,
    applicant: Applicant,
    now_ns: int,
    *,
    is_outdated: bool = False,
) -> Issued:
    """Obtain a new certificate with the present one, also when that is over.

    Its role is the store's. `now_ns` is the time of the epoch; `is_outdated` says that managers
    do not trust the root of the present one any more.

    Raises:
        Unauthenticated, Forbidden: when the present certificate is refused.
        Unavailable: when the manager does not answer.
    """
    node_id = present.identity.node_id
    key_pem, csr_pem = _request()
    request = pb.IssueRequest(csr_pem=csr_pem, node_id=node_id, address=applicant.address)
    if now_ns < validity(present.cert_pem)[1] and not is_outdated:
        reply = await _issue(manager, present.client(), MANAGER, request)
    else:  # TLS refuses it; its key still proves who asks
        request.certificate_pem = present.cert_pem
        request.proof = _sign(present.key_pem, csr_pem)
        credentials = grpc.ssl_channel_credentials(present.ca_pem)
        reply = await _issue(manager, credentials, JOIN_SERVER_NAME, request)
    issued = _issued(reply, present.ca_pem, key_pem)
    if issued.node_id != node_id:
        raise errors.Internal(f"renewal: the certificate is for node {issued.node_id}, not ours")
    return issued


async def root_in_force(manager: str, present: TLSMaterial) -> bytes:
    """Return the cluster's root as a manager tells it that our own trust verifies.

    A manager's certificate carries what leads back to former roots.

    Raises:
        Unavailable: it does not answer, or no former root leads to it.
    """
    credentials = grpc.ssl_channel_credentials(present.ca_pem)
    return await _ask_root(manager, credentials)


def issuer_of(tls: TLSMaterial) -> str:
    """Return the digest of the trusted root that issued a certificate; empty when none did."""
    leaf = x509.load_pem_x509_certificate(tls.cert_pem)
    for root in x509.load_pem_x509_certificates(tls.ca_pem):
        try:
            leaf.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return root_digest(root.public_bytes(serialization.Encoding.PEM))
    return ""


async def fetch_root(manager: str) -> bytes:
    """Return a manager's root certificate, unverified: compare it before it is trusted."""
    leaf_pem = await _leaf_of(manager)
    # The leaf alone as root: TLS then verifies nothing but that the peer stayed the same.
    return await _ask_root(manager, grpc.ssl_channel_credentials(leaf_pem))


async def _ask_root(manager: str, credentials: grpc.ChannelCredentials) -> bytes:
    options = [expect(JOIN_SERVER_NAME)]
    async with grpc.aio.secure_channel(manager, credentials, options=options) as channel:
        call = channel.unary_unary(
            f"{_SERVICE}/GetRoot",
            request_serializer=pb.GetRootRequest.SerializeToString,
            response_deserializer=pb.GetRootReply.FromString,
        )
        try:
            reply = await call(pb.GetRootRequest(), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise _failure(manager, error) from error
    return bytes(reply.root_pem)


async def _leaf_of(manager: str) -> bytes:
    host, port = split(manager)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=JOIN_SERVER_NAME
            )
    except (OSError, TimeoutError) as error:
        raise errors.Unavailable(
            f"manager {manager} cannot be reached: {str(error) or 'no answer in time'}"
        ) from error
    try:
        peer: ssl.SSLObject = writer.get_extra_info("ssl_object")
        der = peer.getpeercert(binary_form=True)
    finally:
        writer.close()
    if der is None:
        raise errors.Unavailable(f"manager {manager} shows no certificate")
    return ssl.DER_cert_to_PEM_cert(der).encode()


async def _issue(
    manager: str,
    credentials: grpc.ChannelCredentials,
    name: str,
    request: pb.IssueRequest,
    *,
    is_named: bool = False,
) -> pb.IssueReply:
    """Ask a manager, or the leader that it names; `is_named` says that it is that one."""
    async with grpc.aio.secure_channel(manager, credentials, options=[expect(name)]) as channel:
        call = channel.unary_unary(
            f"{_SERVICE}/IssueCertificate",
            request_serializer=pb.IssueRequest.SerializeToString,
            response_deserializer=pb.IssueReply.FromString,
        )
        try:
            reply: pb.IssueReply = await call(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            pairs: Any = error.trailing_metadata()  # the stubs hide that they are pairs
            leader = dict(pairs or ()).get(LEADER_METADATA, "")
            if leader and leader != manager and not is_named:
                return await _issue(leader, credentials, name, request, is_named=True)
            raise _failure(manager, error) from error
    return reply


def _failure(manager: str, error: grpc.aio.AioRpcError) -> errors.SwarmError:
    """Return the project's error for gRPC's."""
    kind = errors.BY_GRPC_CODE.get(error.code().name, errors.Internal)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        kind = errors.Unavailable
    return kind(f"manager {manager}: {error.details()}")


def _request() -> tuple[bytes, bytes]:
    """Return a fresh (key, certificate request), PEM; the authority decides the names."""
    key = ec.generate_private_key(ec.SECP256R1())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return key_pem, csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _sign(key_pem: bytes, data: bytes) -> bytes:
    key = serialization.load_pem_private_key(key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise errors.Internal("the node's private key is no ECDSA key: join the node again")
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def _issued(reply: pb.IssueReply, root_pem: bytes, key_pem: bytes) -> Issued:
    roots_pem = bytes(reply.roots_pem) or root_pem
    tls = TLSMaterial(roots_pem, bytes(reply.certificate_pem), key_pem)
    identity = tls.identity
    if (identity.node_id, identity.role) != (reply.node_id, _ROLES.get(reply.role)):
        raise errors.Internal(f"the certificate of node {reply.node_id} names something else")
    return Issued(
        reply.node_id, reply.cluster_id, reply.role, [str(m) for m in reply.managers], tls
    )
