"""A certificate authority for tests: real keys and certificates, nothing stored."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from swarmapi.identity import MANAGER, TLSMaterial

_HOUR = datetime.timedelta(hours=1)


class CertificateAuthority:
    """Issues certificates of the cluster's shape: CN node id, OU role, O cluster id."""

    def __init__(self, cluster_id: str = "cluster1") -> None:
        self.cluster_id = cluster_id
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-ca")])
        builder = _builder(self._name, self._name, self._key.public_key())
        self._certificate = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        ).sign(self._key, hashes.SHA256())
        self.ca_pem = _pem(self._certificate)

    def issue(self, node_id: str, role: str = MANAGER) -> TLSMaterial:
        """Return a fresh key and a certificate for `node_id`."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, node_id),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.cluster_id),
            ]
        )
        return self.sign(subject, [node_id, role])

    def client(self, name: str, unit: str = "", *, age_h: int = 0) -> TLSMaterial:
        """Return the certificate of a client of the API; after 24 hours of age it is over."""
        parts = [(NameOID.COMMON_NAME, name), (NameOID.ORGANIZATIONAL_UNIT_NAME, unit)]
        subject = x509.Name([x509.NameAttribute(oid, word) for oid, word in parts if word])
        return self.sign(subject, [name], age_h=age_h)

    def revoke(self, *certificates: bytes) -> bytes:
        """Return a list of revoked certificates, PEM."""
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateRevocationListBuilder(self._name, now - _HOUR, now + _HOUR)
        for pem in certificates:
            serial = x509.load_pem_x509_certificate(pem).serial_number
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            made = made.add_revoked_certificate(one.build())
        crl = made.sign(self._key, hashes.SHA256())
        return crl.public_bytes(serialization.Encoding.PEM)

    def sign(self, subject: x509.Name, names: list[str], *, age_h: int = 0) -> TLSMaterial:
        """Return a certificate with any subject, also a wrong one."""
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        signed = self.certify(subject, names, key.public_key(), age_h=age_h)
        return TLSMaterial(self.ca_pem, signed, private)

    def certify(
        self,
        subject: x509.Name,
        names: list[str],
        key: ec.EllipticCurvePublicKey,
        *,
        age_h: int = 0,
    ) -> bytes:
        """Return a certificate for a key that stays with its owner."""
        certificate = (
            _builder(subject, self._name, key, age_h)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return _pem(certificate)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, age_h: int = 0
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC) - age_h * _HOUR
    return x509.CertificateBuilder(
        issuer, subject, key, x509.random_serial_number(), now - _HOUR, now + 24 * _HOUR
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
