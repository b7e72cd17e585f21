"""Identities are read from certificates, and only from well-shaped ones."""

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from swarmapi.errors import Unauthenticated
from swarmapi.identity import (
    MANAGER,
    WORKER,
    Identity,
    identity_from_auth_context,
    identity_of,
)
from tests.fakes.pki import CertificateAuthority


class Context:
    """A servicer context whose peer presented `chain`."""

    def __init__(self, *chain: bytes) -> None:
        self._properties = {"x509_pem_cert": list(chain)} if chain else {}

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._properties


@pytest.mark.parametrize("role", [MANAGER, WORKER])
def test_identity_names_node_role_and_cluster(role: str) -> None:
    material = CertificateAuthority("c9").issue("n1", role)
    assert (material.identity.node_id, material.identity.role) == ("n1", role)
    assert material.identity.cluster_id == "c9"
    assert material.identity.is_manager == (role == MANAGER)


def test_peer_is_the_leaf_of_its_chain() -> None:
    authority = CertificateAuthority()
    leaf, other = authority.issue("n1"), authority.issue("n2")
    assert identity_from_auth_context(Context(leaf.cert_pem, other.cert_pem)) == Identity(
        "n1", MANAGER, "cluster1"
    )


def test_peer_without_certificate_is_nobody() -> None:
    with pytest.raises(Unauthenticated, match="no client certificate"):
        identity_from_auth_context(Context())


def test_unreadable_certificate_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="cannot be read"):
        identity_of(b"no certificate")


def test_unknown_role_is_refused() -> None:
    material = CertificateAuthority().issue("n1", "swarm-emperor")
    with pytest.raises(Unauthenticated, match="swarm-emperor"):
        identity_of(material.cert_pem)


def test_two_common_names_are_refused() -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "n1"),
            x509.NameAttribute(NameOID.COMMON_NAME, "n2"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, MANAGER),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "c"),
        ]
    )
    with pytest.raises(Unauthenticated, match="exactly one CN"):
        identity_of(CertificateAuthority().sign(subject, ["n1"]).cert_pem)


def test_key_does_not_show_in_repr() -> None:
    assert "PRIVATE" not in repr(CertificateAuthority().issue("n1"))
