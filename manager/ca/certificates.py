"""X.509: the cluster's root, node certificates and join tokens (SWARM: ECDSA P-256)."""

import datetime
import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmapi.errors import Forbidden, InvalidArgument
from swarmapi.identity import JOIN_SERVER_NAME, Identity, identity_of
from swarmapi.ids import base36, root_digest
from swarmapi.model.objects import NodeTLS, RootCA
from swarmapi.model.spec import ClusterSpec, NodeRole

ROOT_LIFETIME: Final = datetime.timedelta(days=20 * 365)
NODE_LIFETIME: Final = datetime.timedelta(days=90)
GRACE_NS: Final = 365 * 24 * 3_600 * 10**9
"""How long after its end a certificate still proves who asks for the next one."""
BACK_DATED: Final = datetime.timedelta(hours=1)
MOST_ROOTS: Final = 16
_SECRET_LENGTH: Final = 25
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
    signer = root.rotation or root
    issuer_key = serialization.load_pem_private_key(signer.key_pem, None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidArgument("root key: neither ECDSA nor RSA")
    issuer = x509.load_pem_x509_certificate(signer.cert_pem)
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
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    crosses = [root.rotation.cross_pem] if root.rotation else []
    crosses += [former.cross_pem for former in reversed(root.former)]
    return certificate.public_bytes(serialization.Encoding.PEM) + b"".join(crosses)


def trust_of(root: RootCA) -> bytes:
    """Return every root that nodes are to trust now, PEM after PEM, the one of the tokens first."""
    return root.cert_pem + (root.rotation.cert_pem if root.rotation else b"")


def tls_of(root: RootCA, cert_pem: bytes, roots_pem: bytes) -> NodeTLS:
    """Return what a node said that it shows and trusts, in the store's words.

    Raises:
        InvalidArgument: when it cannot be read.
    """
    try:
        leaf = x509.load_pem_x509_certificate(cert_pem)
        roots = x509.load_pem_x509_certificates(roots_pem)
    except ValueError as error:
        raise InvalidArgument(f"certificate of a node: {error}") from error
    if len(roots) > MOST_ROOTS:
        raise InvalidArgument(f"certificate of a node: it trusts more than {MOST_ROOTS} roots")
    known = [root.cert_pem, *([root.rotation.cert_pem] if root.rotation else [])]
    known += [former.cert_pem for former in root.former]
    return NodeTLS(
        issuer=next((root_digest(pem) for pem in known if _is_issued_by(leaf, pem)), ""),
        key=_key_digest(leaf),
        trusts=tuple(root_digest(r.public_bytes(serialization.Encoding.PEM)) for r in roots),
    )


def _is_issued_by(certificate: x509.Certificate, root_pem: bytes) -> bool:
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(root_pem))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _key_digest(certificate: x509.Certificate) -> str:
    key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(key).hexdigest()


def lifetime_of(spec: ClusterSpec) -> datetime.timedelta:
    """Return how long a node's certificate holds, as the cluster is set."""
    expiry_ns = spec.ca_config.node_cert_expiry if spec.ca_config else 0
    return datetime.timedelta(microseconds=expiry_ns / 1000) if expiry_ns else NODE_LIFETIME


def check_returning(
    root: RootCA,
    cert_pem: bytes,
    csr_pem: bytes,
    proof: bytes,
    now: datetime.datetime,
    known_key: Callable[[str], str] = lambda node_id: "",
) -> Identity:
    """Return who holds a certificate of ours, perhaps one that is over, and signed a request.

    `proof` is the certificate's key over the request (ECDSA, SHA-256). A former root proves
    nothing, it may have been replaced because its key leaked: a certificate of it must be the
    very one that the node showed last. `known_key` returns that one's digest by node id.

    Raises:
        Forbidden: another root's certificate, another key's signature, or over for too long.
    """
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Forbidden("certificate: an ECDSA key is needed")
        key.verify(proof, csr_pem, ec.ECDSA(hashes.SHA256()))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Forbidden("certificate: it does not prove who asks; join the node again") from error
    grace = datetime.timedelta(microseconds=GRACE_NS / 1000)
    if now > certificate.not_valid_after_utc + grace:
        raise Forbidden("certificate: it is over for too long; join the node again")
    identity = identity_of(cert_pem)
    present = [root.cert_pem, *([root.rotation.cert_pem] if root.rotation else [])]
    if not any(_is_issued_by(certificate, pem) for pem in present):
        known = known_key(identity.node_id)
        if not known or not hmac.compare_digest(known, _key_digest(certificate)):
            raise Forbidden(
                "certificate: it does not prove who asks, being of another root; join again"
            )
    return identity


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
