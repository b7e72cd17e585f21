"""Joining and renewing against an authority over real TLS on loopback."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from manager.ca.certificates import new_token
from swarmapi.errors import Forbidden, Internal, Unavailable
from swarmapi.identity import WORKER
from tests.fakes.authority import FakeAuthority
from tests.fakes.pki import CertificateAuthority
from worker.cluster import ca_client
from worker.cluster.ca_client import Applicant
from worker.cluster.tokens import JoinToken

ME = Applicant("127.0.0.1:2377", "host", "active")


def token_for(ca: CertificateAuthority, secret: int = 1) -> str:
    return new_token(ca.ca_pem, lambda count: bytes([secret]) * count)


def with_authority(
    body: Callable[[FakeAuthority], Awaitable[None]], tokens: dict[str, str] | None = None
) -> None:
    async def run() -> None:
        ca = CertificateAuthority()
        authority = FakeAuthority(ca, tokens or {token_for(ca): "worker"})
        try:
            await body(authority)
        finally:
            await authority.stop()

    asyncio.run(run())


def test_a_token_brings_a_certificate_whose_key_never_travelled() -> None:
    async def body(authority: FakeAuthority) -> None:
        target = await authority.start()
        token = JoinToken.parse(token_for(authority.ca))
        issued = await ca_client.join(target, token, ME)
        assert (issued.node_id, issued.role, issued.cluster_id) == ("node1", "worker", "cluster1")
        assert issued.tls.identity.role == WORKER
        assert issued.tls.ca_pem == authority.ca.ca_pem
        assert issued.managers == ["127.0.0.1:1"]
        sent = authority.requests[0].SerializeToString()
        assert issued.tls.key_pem not in sent
        assert b"PRIVATE" not in sent

    with_authority(body)


def test_a_token_of_another_root_is_refused_before_it_is_sent() -> None:
    async def body(authority: FakeAuthority) -> None:
        target = await authority.start()
        token = JoinToken.parse(token_for(CertificateAuthority()))
        with pytest.raises(Forbidden, match="root certificate is not the one"):
            await ca_client.join(target, token, ME)
        assert authority.requests == []

    with_authority(body)


def test_an_impostor_that_shows_the_true_root_never_sees_the_token() -> None:
    """The root is public: anyone may return it, but only its holder has certificates under it."""

    async def body(authority: FakeAuthority) -> None:
        true_root = CertificateAuthority()
        authority.root_pem = true_root.ca_pem
        target = await authority.start()
        with pytest.raises(Unavailable):
            await ca_client.join(target, JoinToken.parse(token_for(true_root)), ME)
        assert authority.requests == []

    with_authority(body)


def test_a_wrong_secret_is_refused_by_the_authority() -> None:
    async def body(authority: FakeAuthority) -> None:
        target = await authority.start()
        token = JoinToken.parse(token_for(authority.ca, secret=2))
        with pytest.raises(Forbidden, match="invalid join token"):
            await ca_client.join(target, token, ME)

    with_authority(body)


def test_nobody_listening_is_told_with_the_address() -> None:
    async def run() -> None:
        token = JoinToken.parse(token_for(CertificateAuthority()))
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 cannot be reached"):
            await ca_client.join("127.0.0.1:1", token, ME)

    asyncio.run(run())


def test_a_renewal_needs_no_token_and_takes_the_stores_role() -> None:
    async def body(authority: FakeAuthority) -> None:
        target = await authority.start(mutual=True)
        authority.role_of_node["n7"] = "manager"
        present = authority.ca.issue("n7", WORKER)
        issued = await ca_client.renew(target, present, ME, time.time_ns())
        assert (issued.node_id, issued.role) == ("n7", "manager")
        assert issued.tls.key_pem != present.key_pem
        assert authority.requests[0].join_token == ""

    with_authority(body)


@pytest.mark.parametrize(
    "text",
    ["", "SWMTKN-1-short-secret", "SWMTKN-2-" + "0" * 50 + "-" + "0" * 25, "x" * 85],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(Internal, match="invalid join token"):
        JoinToken.parse(text)
