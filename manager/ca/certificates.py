"""X.509: the cluster's root, node certificates and join tokens (SWARM: ECDSA P-256)."""

import datetime
import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmapi.errors import Forbidden, InvalidArgument
from swarmapi.identity import JOIN_SERVER_NAME, Identity, identity_of
from swarmapi.ids import base36
from swarmapi.model.objects import RootCA
from swarmapi.model.spec import ClusterSpec, NodeRole

ROOT_LIFETIME: Final = datetime.timedelta(days=20 * 365)
NODE_LIFETIME: Final = datetime.timedelta(days=90)
GRACE_NS: Final = 365 * 24 * 3_600 * 10**9
"""How long after its end a certificate still proves who asks for the next one."""
BACK_DATED: Final = datetime.timedelta(hours=1)
_SECRET_LENGTH: Final = 25
_DIGEST_LENGTH: Final = 50
RandomBytes = Callable[[int], bytes]


def unit_of(role: NodeRole) -> str:
    """Return the organizational unit that stands for a role."""
    return f"swarm-{role.value}"


def create_root(now: datetime.datetime, random_bytes: RandomBytes) -> RootCA:
    """Return a new root CA with fresh join tokens."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-ca")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACK_DATED)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return RootCA(
        cert_pem=pem,
        key_pem=key_to_pem(key),
        join_token_worker=new_token(pem, random_bytes),
        join_token_manager=new_token(pem, random_bytes),
    )


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def new_request() -> tuple[bytes, bytes]:
    """Return a fresh (key PEM, CSR PEM); the CSR carries no names."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return key_to_pem(key), csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def sign_request(
    root: RootCA,
    csr_pem: bytes,
    *,
    node_id: str,
    role: NodeRole,
    cluster_id: str,
    now: datetime.datetime,
    lifetime: datetime.timedelta = NODE_LIFETIME,
) -> bytes:
    """Return a node certificate in PEM; of the request only its public key is taken.

    Raises:
        InvalidArgument: when the request cannot be read or is not signed by its key.
    """
    try:
        request = x509.load_pem_x509_csr(csr_pem)
    except ValueError as error:
        raise InvalidArgument(f"certificate request: {error}") from error
    key = request.public_key()
    if not request.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidArgument("certificate request: an ECDSA key that signed it is needed")
    issuer_key = serialization.load_pem_private_key(root.key_pem, None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise InvalidArgument("root key: not an ECDSA key")
    issuer = x509.load_pem_x509_certificate(root.cert_pem)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit_of(role)),
            x509.NameAttribute(NameOID.COMMON_NAME, node_id),
        ]
    )
    names = [node_id, unit_of(role)]
    if role is NodeRole.MANAGER:
        names.append(JOIN_SERVER_NAME)
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACK_DATED)
        .not_valid_after(min(now + lifetime, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def lifetime_of(spec: ClusterSpec) -> datetime.timedelta:
    """Return how long a node's certificate holds, as the cluster is set."""
    expiry_ns = spec.ca_config.node_cert_expiry if spec.ca_config else 0
    return datetime.timedelta(microseconds=expiry_ns / 1000) if expiry_ns else NODE_LIFETIME


def check_returning(
    root: RootCA, cert_pem: bytes, csr_pem: bytes, proof: bytes, now: datetime.datetime
) -> Identity:
    """Return who holds a certificate of this root, perhaps one that is over, and signed a request.

    `proof` is the certificate's key over the request (ECDSA, SHA-256).

    Raises:
        Forbidden: another root's certificate, another key's signature, or over for too long.
    """
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(root.cert_pem))
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Forbidden("certificate: an ECDSA key is needed")
        key.verify(proof, csr_pem, ec.ECDSA(hashes.SHA256()))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Forbidden("certificate: it does not prove who asks; join the node again") from error
    grace = datetime.timedelta(microseconds=GRACE_NS / 1000)
    if now > certificate.not_valid_after_utc + grace:
        raise Forbidden("certificate: it is over for too long; join the node again")
    return identity_of(cert_pem)


def root_digest(cert_pem: bytes) -> str:
    """Return what a join token pins: SHA-256 of the root's PEM in 50 base36 digits."""
    number = int.from_bytes(hashlib.sha256(cert_pem).digest(), "big")
    return base36(number, _DIGEST_LENGTH)


def new_token(cert_pem: bytes, random_bytes: RandomBytes) -> str:
    """Return a join token with a fresh 128-bit secret."""
    secret = base36(int.from_bytes(random_bytes(16), "big"), _SECRET_LENGTH)
    return f"SWMTKN-1-{root_digest(cert_pem)}-{secret}"


def role_of_token(root: RootCA, token: str) -> NodeRole:
    """Return the role a join token grants; compared in constant time.

    Raises:
        Forbidden: when it is none of the cluster's present tokens.
    """
    given = token.encode()
    is_worker = hmac.compare_digest(given, root.join_token_worker.encode())
    is_manager = hmac.compare_digest(given, root.join_token_manager.encode())
    if is_manager:
        return NodeRole.MANAGER
    if is_worker:
        return NodeRole.WORKER
    raise Forbidden("invalid join token")
