"""Rotation of the root: who trusts whom at every moment, and when the old root goes."""

import asyncio
import dataclasses
import datetime
import os
import random
from pathlib import Path

import grpc
import pytest
from msgspec.structs import replace

from manager.ca.certificates import create_root, tls_of, trust_of
from manager.ca.rotation import begin
from manager.control.cluster import the_cluster, update_cluster
from manager.control.nodes import remove_node
from manager.orchestrator.rotation import behind, issuer_wanted
from manager.store.changes import PutNode, SetNodeStatus, SetNodeTLS
from swarmapi.errors import FailedPrecondition, Forbidden, InvalidArgument, Unavailable
from swarmapi.identity import LiveTLS, TLSMaterial, expect
from swarmapi.ids import root_digest
from swarmapi.model.objects import Node, NodeState, RootCA
from swarmapi.model.spec import CAConfig, ClusterSpec, NodeRole
from tests.unit.manager_shell.cluster import NOW, MemoryCluster
from tests.unit.manager_shell.test_server import first_manager, play
from tests.unit.manager_shell.wire import material, root_of
from worker.cluster import ca_client
from worker.cluster.ca_client import Applicant, issuer_of

some_bytes = os.urandom


def issued(root: RootCA, node_id: str, role: NodeRole = NodeRole.MANAGER) -> TLSMaterial:
    """Return what a node gets now."""
    return dataclasses.replace(material(root, node_id, role), ca_pem=trust_of(root))


async def rotate(
    cluster: MemoryCluster, *, skip_down: bool = False, cert: str = "", key: str = ""
) -> RootCA:
    present = the_cluster(cluster.store)
    forced = present.spec.ca_config.force_rotate if present.spec.ca_config else 0
    config = CAConfig(force_rotate=forced + 1, signing_ca_cert=cert, signing_ca_key=key)
    spec = replace(present.spec, ca_config=config)
    version = present.meta.version
    await update_cluster(cluster.store, spec, version, some_bytes, skip_down=skip_down)
    return root_of(cluster)


async def told(cluster: MemoryCluster, node_id: str, tls: TLSMaterial) -> None:
    """Have the store know what a node shows and trusts."""
    known = tls_of(root_of(cluster), tls.cert_pem, tls.ca_pem)
    await cluster.store.propose((SetNodeTLS(node_id=node_id, tls=known),))
    await cluster.settle()


async def speaks(server: TLSMaterial, client: TLSMaterial) -> bool:
    """Tell whether two nodes take each other's certificates."""
    serving = grpc.aio.server()
    port = serving.add_secure_port("127.0.0.1:0", LiveTLS(server).server())
    await serving.start()
    options = [expect("swarm-manager"), ("grpc.use_local_subchannel_pool", 1)]
    try:
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{port}", client.client(), options=options
        ) as channel:
            call = channel.unary_unary(
                "/none/none", request_serializer=bytes, response_deserializer=bytes
            )
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"", timeout=5)
        return refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await serving.stop(None)


async def founded(*more: str) -> MemoryCluster:
    cluster = MemoryCluster()
    await cluster.found()
    for node_id in more:
        node = Node(id=node_id, state=NodeState.READY)
        await cluster.store.propose((PutNode(node=node, expect_version=0),))
    return cluster


def test_the_old_root_goes_after_the_last_node_and_tokens_change() -> None:
    async def story() -> None:
        cluster = await founded("w1", "w2")
        old = root_of(cluster)
        during = await rotate(cluster)
        assert (during.cert_pem, during.join_token_worker) == (old.cert_pem, old.join_token_worker)
        assert during.rotation is not None
        for node_id in ("m1", "w1", "w2"):
            assert next(n.id for n in behind(cluster.store.view)) == node_id
            await told(cluster, node_id, issued(during, node_id))
        after = root_of(cluster)
        assert after.rotation is None
        assert after.cert_pem == during.rotation.cert_pem
        assert root_digest(after.cert_pem) in after.join_token_worker
        assert after.join_token_manager != after.join_token_worker
        assert [f.cert_pem for f in after.former] == [old.cert_pem]

    asyncio.run(story())


def test_a_node_with_the_new_certificate_but_not_the_trust_holds_it_up() -> None:
    async def story() -> None:
        cluster = await founded()
        old = root_of(cluster)
        during = await rotate(cluster)
        fresh = issued(during, "m1")
        await told(cluster, "m1", dataclasses.replace(fresh, ca_pem=old.cert_pem))
        assert root_of(cluster).rotation is not None
        await told(cluster, "m1", fresh)
        assert root_of(cluster).rotation is None

    asyncio.run(story())


def test_a_node_that_is_down_holds_it_up_until_it_is_skipped_or_removed() -> None:
    async def story(*, removed: bool) -> None:
        cluster = await founded("w1")
        during = await rotate(cluster)
        await cluster.store.propose((SetNodeStatus(node_id="w1", state=NodeState.DOWN),))
        await told(cluster, "m1", issued(during, "m1"))
        assert [n.id for n in behind(cluster.store.view)] == ["w1"]
        if removed:
            await remove_node(cluster.store, "w1", force=False)
        else:
            present = the_cluster(cluster.store)
            version = present.meta.version
            await update_cluster(cluster.store, present.spec, version, some_bytes, skip_down=True)
        await cluster.settle()
        assert root_of(cluster).rotation is None

    asyncio.run(story(removed=False))
    asyncio.run(story(removed=True))


def test_an_update_that_says_nothing_of_the_authority_begins_no_rotation() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        during = await rotate(cluster)
        for config, same in ((None, True), (None, True), (CAConfig(force_rotate=1), True),
                             (None, True), (CAConfig(force_rotate=2), False)):  # fmt: skip
            present = the_cluster(cluster.store)
            spec = replace(present.spec, ca_config=config)
            await update_cluster(cluster.store, spec, present.meta.version, some_bytes)
            assert (root_of(cluster).rotation == during.rotation) is same

    asyncio.run(story())


def test_skipping_without_a_rotation_is_refused() -> None:
    async def story() -> None:
        cluster = await founded()
        present = the_cluster(cluster.store)
        with pytest.raises(FailedPrecondition, match="no rotation"):
            await update_cluster(
                cluster.store, present.spec, present.meta.version, some_bytes, skip_down=True
            )

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(3))
def test_all_nodes_take_each_other_at_every_moment(seed: int) -> None:
    """Renewals in any order, a second rotation in the midst of the first, and one after."""

    async def story() -> None:
        chance = random.Random(seed)
        cluster = await founded("n1", "n2")
        nodes = {i: issued(root_of(cluster), i) for i in ("m1", "n1", "n2")}
        for supersedes in (True, False):
            during = await rotate(cluster)
            left = chance.sample(sorted(nodes), 3)
            for at, node_id in enumerate(left):
                if supersedes and at == 1:
                    during = await rotate(cluster)
                    left.append(left[0])  # its certificate is of a root that never was
                nodes[node_id] = issued(during, node_id)
                for one in nodes.values():
                    for other in nodes.values():
                        assert await speaks(one, other)
            for node_id, tls in nodes.items():
                await told(cluster, node_id, tls)
            after = root_of(cluster)
            assert after.rotation is None
            for node_id in chance.sample(sorted(nodes), 3):  # the old root goes one by one
                nodes[node_id] = dataclasses.replace(nodes[node_id], ca_pem=trust_of(after))
                for one in nodes.values():
                    for other in nodes.values():
                        assert await speaks(one, other)

    asyncio.run(asyncio.wait_for(story(), 100))


def test_certificates_of_the_old_root_are_refused_after_it() -> None:
    async def story() -> None:
        cluster = await founded()
        old = issued(root_of(cluster), "m1")
        await told(cluster, "m1", issued(await rotate(cluster), "m1"))
        fresh = issued(root_of(cluster), "m1")
        assert not await speaks(fresh, old)
        assert await speaks(fresh, dataclasses.replace(fresh, ca_pem=old.ca_pem))

    asyncio.run(story())


def test_a_root_that_is_brought_along() -> None:
    async def story() -> None:
        cluster = await founded()
        mine, present = create_root(NOW, some_bytes), root_of(cluster)
        cert, key = mine.cert_pem.decode(), mine.key_pem.decode()
        for wrong, words in (
            ((cert, ""), "private key is needed"),
            ((cert, present.key_pem.decode()), "not the certificate's"),
            ((cert + cert, key), "exactly one"),
            (("no", key), "SigningCACert"),
            (
                (issued(present, "n").cert_pem.decode(), issued(present, "n").key_pem.decode()),
                "Key",
            ),
        ):
            with pytest.raises(InvalidArgument, match=words):
                await rotate(cluster, cert=wrong[0], key=wrong[1])
        same = replace(present, join_token_worker="x")
        with pytest.raises(InvalidArgument, match="present root's"):
            begin(same, NOW, some_bytes, present.cert_pem.decode(), present.key_pem.decode())
        old = create_root(NOW - datetime.timedelta(days=20 * 365 - 30), some_bytes)
        with pytest.raises(InvalidArgument, match="another year"):
            await rotate(cluster, cert=old.cert_pem.decode(), key=old.key_pem.decode())
        during = await rotate(cluster, cert=cert, key=key)
        assert issuer_wanted(during) == root_digest(mine.cert_pem)
        spec = the_cluster(cluster.store).spec
        assert spec.ca_config == CAConfig(force_rotate=spec.ca_config.force_rotate)  # type: ignore[union-attr]
        again = await rotate(cluster, cert=cert)
        assert again.rotation == during.rotation, "the same root again changes nothing"

    asyncio.run(story())


def test_the_way_back_of_a_node_that_was_left_out(tmp_path: Path) -> None:
    async def story() -> None:
        async with first_manager(tmp_path) as first:
            store = first.manager.store
            old = the_cluster(store).root_ca
            assert old is not None
            await store.propose((PutNode(node=Node(id="w1"), expect_version=0),))
            cluster_id = the_cluster(store).id
            shown = material(old, "w1", NodeRole.WORKER, cluster_id)
            forged = material(old, "w1", NodeRole.WORKER, cluster_id)
            known = tls_of(old, shown.cert_pem, shown.ca_pem)
            gone = SetNodeStatus(node_id="w1", state=NodeState.DOWN)
            await store.propose((SetNodeTLS(node_id="w1", tls=known), gone))
            spec = ClusterSpec(ca_config=CAConfig(force_rotate=1))
            version = the_cluster(store).meta.version
            await update_cluster(store, spec, version, some_bytes, skip_down=True)
            during = the_cluster(store).root_ca
            assert during is not None
            own = material(during, first.node_id, NodeRole.MANAGER, cluster_id)
            own = dataclasses.replace(own, ca_pem=trust_of(during))
            known = tls_of(during, own.cert_pem, own.ca_pem)
            await store.propose((SetNodeTLS(node_id=first.node_id, tls=known),))
            assert await store.until(lambda view: not behind(view), 10)
            assert await store.until(
                lambda v: (
                    v.cluster is not None
                    and v.cluster.root_ca is not None
                    and v.cluster.root_ca.rotation is None
                ),
                10,
            )
            after = the_cluster(store).root_ca
            assert after is not None
            for path, body in (
                (first.paths.ca, trust_of(after)),
                (first.paths.cert, own.cert_pem),
                (first.paths.key, own.key_pem),
            ):
                path.write_bytes(body)
            assert (await first.rest("POST", "/local/certificate"))[0] == 200
            me, now_ns = Applicant("127.0.0.1:1", "w1"), store.now_ns()
            with pytest.raises(Unavailable):
                await ca_client.renew(first.target, shown, me, now_ns)
            told_root = await ca_client.root_in_force(first.target, shown)
            assert root_digest(told_root) != issuer_of(shown)
            with pytest.raises(Forbidden, match="being of another root"):
                await ca_client.renew(first.target, forged, me, now_ns, is_outdated=True)
            back = await ca_client.renew(first.target, shown, me, now_ns, is_outdated=True)
            assert back.tls.ca_pem == after.cert_pem
            assert issuer_of(back.tls) == root_digest(after.cert_pem)
            await ca_client.renew(first.target, back.tls, me, now_ns)

    play(story())
