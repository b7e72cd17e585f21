"""A new root for the cluster: made here or brought along, cross-signed by the present one."""

import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from manager.ca.certificates import BACK_DATED, RandomBytes, create_root, new_token
from swarmapi.errors import InvalidArgument
from swarmapi.model.objects import RootCA, RootRotation

LEAST_LEFT = datetime.timedelta(days=365)
IssuerKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def begin(
    root: RootCA,
    now: datetime.datetime,
    random_bytes: RandomBytes,
    cert_pem: str = "",
    key_pem: str = "",
) -> RootRotation:
    """Return the rotation to a fresh root, or to the one that is given with its key.

    Raises:
        InvalidArgument: what is given is no root, lacks its key, ends too soon, or has the
            present root's key.
    """
    if cert_pem:
        certificate, key = _given(cert_pem, key_pem, now)
    else:
        made = create_root(now, random_bytes)
        certificate, key = _given(made.cert_pem.decode(), made.key_pem.decode(), now)
    old = x509.load_pem_x509_certificate(root.cert_pem)
    if certificate.public_key() == old.public_key():
        raise InvalidArgument("CAConfig.SigningCAKey: it is the present root's; give another key")
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return RootRotation(
        cert_pem=pem,
        key_pem=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        cross_pem=_cross_signed(certificate, old, root.key_pem, now),
        join_token_worker=new_token(pem, random_bytes),
        join_token_manager=new_token(pem, random_bytes),
    )


def same_root(cert_pem: str, root: RootCA) -> bool:
    """Tell whether a certificate is that of the root that signs now."""
    signer = root.rotation.cert_pem if root.rotation else root.cert_pem
    return _certificate(cert_pem) == x509.load_pem_x509_certificate(signer)


def _certificate(cert_pem: str) -> x509.Certificate:
    try:
        found = x509.load_pem_x509_certificates(cert_pem.encode())
    except ValueError as error:
        raise InvalidArgument(f"CAConfig.SigningCACert: {error}") from error
    if len(found) != 1:
        raise InvalidArgument("CAConfig.SigningCACert: exactly one certificate is needed")
    return found[0]


def _given(
    cert_pem: str, key_pem: str, now: datetime.datetime
) -> tuple[x509.Certificate, IssuerKey]:
    certificate = _certificate(cert_pem)
    if not key_pem:
        raise InvalidArgument("CAConfig.SigningCAKey: the certificate's private key is needed")
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), None)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"CAConfig.SigningCAKey: {error}") from error
    if not isinstance(key, IssuerKey) or key.public_key() != certificate.public_key():
        raise InvalidArgument("CAConfig.SigningCAKey: it is not the certificate's (ECDSA or RSA)")
    try:
        certificate.verify_directly_issued_by(certificate)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise InvalidArgument("CAConfig.SigningCACert: it is no root certificate") from error
    if not basic.ca:
        raise InvalidArgument("CAConfig.SigningCACert: it is no certificate of an authority")
    if certificate.not_valid_before_utc > now or certificate.not_valid_after_utc < now + LEAST_LEFT:
        raise InvalidArgument("CAConfig.SigningCACert: it must hold now and for another year")
    return certificate, key


def _cross_signed(
    new: x509.Certificate, old: x509.Certificate, old_key_pem: bytes, now: datetime.datetime
) -> bytes:
    key = serialization.load_pem_private_key(old_key_pem, None)
    assert isinstance(key, IssuerKey)
    public = new.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(new.subject)
        .issuer_name(old.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACK_DATED)
        .not_valid_after(min(new.not_valid_after_utc, old.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
