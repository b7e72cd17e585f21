"""Certificates are renewed in time, and a node whose own is over comes back after months."""

import asyncio
import datetime
import os
import time
from pathlib import Path

import pytest
from cryptography import x509

from manager.bootstrap import prepare_first
from manager.ca.certificates import create_root, lifetime_of, new_request, sign_request
from manager.config import InitConfig
from manager.keys import load_keyring
from manager.recovery import certify_again
from swarmapi.errors import FailedPrecondition, Forbidden
from swarmapi.identity import TLSMaterial, renewal_due_ns, validity
from swarmapi.model.objects import RootCA
from swarmapi.model.spec import CAConfig, ClusterSpec, NodeRole
from tests.unit.manager_shell.test_server import first_manager, play
from tests.unit.manager_shell.test_three_managers import Place
from worker.cluster import ca_client
from worker.cluster.ca_client import Applicant
from worker.cluster.tokens import JoinToken

DAY_NS = 24 * 3_600 * 10**9
ME = Applicant("127.0.0.1:1", "w1")


def issued(
    root: RootCA, node_id: str, days_ago: int, role: NodeRole = NodeRole.WORKER, cluster: str = "c"
) -> TLSMaterial:
    """Return what was issued so many days ago, for the usual 90."""
    key_pem, csr_pem = new_request()
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days_ago)
    pem = sign_request(root, csr_pem, node_id=node_id, role=role, cluster_id=cluster, now=then)
    return TLSMaterial(root.cert_pem, pem, key_pem)


def test_a_worker_whose_certificate_is_over_comes_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with first_manager(tmp_path) as first:
            _, swarm = await first.rest("GET", "/swarm")
            joining = await ca_client.join(
                first.target, JoinToken.parse(swarm["JoinTokens"]["Worker"]), ME
            )
            cluster = first.manager.store.view.cluster
            assert cluster is not None
            root = cluster.root_ca
            assert root is not None

            async def renew(root: RootCA, node_id: str, days_ago: int) -> ca_client.Issued:
                old = issued(root, node_id, days_ago, cluster=cluster.id)
                tls = TLSMaterial(first.tls.ca_pem, old.cert_pem, old.key_pem)
                return await ca_client.renew(first.target, tls, ME, time.time_ns())

            back = await renew(root, joining.node_id, 200)
            assert back.node_id == joining.node_id
            assert validity(back.tls.cert_pem)[1] > time.time_ns()
            with pytest.raises(Forbidden, match="over for too long"):
                await renew(root, joining.node_id, 90 + 366)
            with pytest.raises(Forbidden, match="not in the cluster"):
                await renew(root, "stranger", 200)
            foreign = create_root(datetime.datetime.now(datetime.UTC), os.urandom)
            with pytest.raises(Forbidden, match="does not prove who asks"):
                await renew(foreign, joining.node_id, 200)

            old = issued(root, joining.node_id, 200, cluster=cluster.id)
            _, other_key = issued(root, "thief", 0).cert_pem, issued(root, "thief", 0).key_pem
            thief = TLSMaterial(old.ca_pem, old.cert_pem, other_key)
            with pytest.raises(Forbidden, match="does not prove who asks"):
                await ca_client.renew(first.target, thief, ME, time.time_ns())

    play(story())


def test_a_manager_signs_itself_another_one_after_months(tmp_path: Path) -> None:
    async def story() -> None:
        place = Place(tmp_path)
        prepare_first(InitConfig(place.paths, place.address, ("10.0.0.0/8",), 24), os.urandom)
        await place.start()
        await place.until("/swarm", lambda body: "JoinTokens" in body)
        await place.stop()
        keyring, before = load_keyring(place.paths), place.tls
        end_ns = validity(before.cert_pem)[1]
        certify_again(place.paths, keyring, end_ns - 1)
        assert place.tls == before
        with pytest.raises(FailedPrecondition, match="leave the cluster by force"):
            certify_again(place.paths, keyring, end_ns + 400 * DAY_NS)
        assert place.tls == before
        certify_again(place.paths, keyring, end_ns + 200 * DAY_NS)
        assert place.tls.identity == before.identity
        assert validity(place.tls.cert_pem)[1] > end_ns + 200 * DAY_NS

    asyncio.run(asyncio.wait_for(story(), 30))


def test_renewals_are_spread_between_half_and_80_percent() -> None:
    root = create_root(datetime.datetime.now(datetime.UTC), os.urandom)
    shares = []
    for number in range(40):
        pem = issued(root, f"n{number}", 0).cert_pem
        begin, end = validity(pem)
        shares.append((renewal_due_ns(pem) - begin) / (end - begin))
        assert renewal_due_ns(pem) == renewal_due_ns(pem)
    assert 0.5 <= min(shares) < 0.6
    assert 0.7 < max(shares) <= 0.8


def test_a_certificate_holds_as_long_as_the_cluster_says() -> None:
    root = create_root(datetime.datetime.now(datetime.UTC), os.urandom)
    spec = ClusterSpec(ca_config=CAConfig(node_cert_expiry=3_600 * 10**9))
    _, csr_pem = new_request()
    now = datetime.datetime.now(datetime.UTC)
    pem = sign_request(
        root, csr_pem, node_id="n", role=NodeRole.WORKER, cluster_id="c", now=now,
        lifetime=lifetime_of(spec),
    )  # fmt: skip
    end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    assert abs((end - now).total_seconds() - 3_600) < 2
    assert lifetime_of(ClusterSpec()).days == 90
