"""Root, tokens and certificates, and their issue over loopback TLS."""

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from cryptography import x509

from manager.ca.certificates import (
    create_root,
    new_request,
    new_token,
    role_of_token,
    sign_request,
)
from manager.control.nodes import remove_node
from manager.dispatcher.dispatcher import Dispatcher
from manager.store.changes import PutNode
from manager.store.level import LEVEL
from swarmapi.errors import Forbidden, InvalidArgument
from swarmapi.identity import MANAGER, TLSMaterial, expect, identity_of
from swarmapi.ids import root_digest
from swarmapi.model.objects import Node
from swarmapi.model.spec import NodeRole, NodeSpec
from swarmapi.v1 import ca_pb2 as pb
from swarmapi.v1 import ca_pb2_grpc
from tests.unit.manager_shell.cluster import NOW, MemoryCluster
from tests.unit.manager_shell.wire import material, root_of, served


def some_bytes(count: int) -> bytes:
    return bytes(range(1, count + 1))


def test_token_pins_the_root_and_decides_the_role() -> None:
    root = create_root(NOW, some_bytes)
    kind, version, digest, secret = root.join_token_worker.split("-")
    assert (kind, version, len(digest), len(secret)) == ("SWMTKN", "1", 50, 25)
    assert digest == root_digest(root.cert_pem)
    manager_token = new_token(root.cert_pem, lambda n: bytes(n))
    root = type(root)(
        cert_pem=root.cert_pem,
        key_pem=root.key_pem,
        join_token_worker=root.join_token_worker,
        join_token_manager=manager_token,
    )
    assert role_of_token(root, root.join_token_worker) is NodeRole.WORKER
    assert role_of_token(root, manager_token) is NodeRole.MANAGER
    with pytest.raises(Forbidden, match="invalid join token"):
        role_of_token(root, manager_token[:-1] + "1")


def test_certificate_carries_the_servers_names_only() -> None:
    root = create_root(NOW, some_bytes)
    _, csr_pem = new_request()
    pem = sign_request(root, csr_pem, node_id="n1", role=NodeRole.WORKER, cluster_id="c1", now=NOW)
    identity = identity_of(pem)
    assert (identity.node_id, identity.role, identity.cluster_id) == ("n1", "swarm-worker", "c1")
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1", "swarm-worker"]
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(root.cert_pem))
    assert certificate.not_valid_after_utc == NOW + datetime.timedelta(days=90)
    with pytest.raises(InvalidArgument):
        sign_request(root, b"no", node_id="n", role=NodeRole.WORKER, cluster_id="c", now=NOW)


Story = Callable[[MemoryCluster, str], Awaitable[None]]


def play(story: Story) -> None:
    async def main() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        async with served(cluster, Dispatcher(cluster.store)) as target:
            await asyncio.wait_for(story(cluster, target), 30)

    asyncio.run(main())


async def call(target: str, tls: TLSMaterial, stub: str, method: str, request: Any) -> Any:
    stubs: Any = ca_pb2_grpc
    options = [expect(MANAGER)]
    async with grpc.aio.secure_channel(target, tls.client(), options=options) as channel:
        return await getattr(getattr(stubs, stub)(channel), method)(request)


def test_join_renew_promote_and_removal() -> None:
    async def story(cluster: MemoryCluster, target: str) -> None:
        root = root_of(cluster)
        anyone = material(root, "anyone")

        async def issue(tls: TLSMaterial, **request: Any) -> pb.IssueReply:
            csr = new_request()[1]
            message = pb.IssueRequest(csr_pem=csr, **request)
            reply = await call(target, tls, "CertificateAuthorityStub", "IssueCertificate", message)
            assert isinstance(reply, pb.IssueReply)
            return reply

        told = await call(
            target, anyone, "CertificateAuthorityStub", "GetRoot", pb.GetRootRequest()
        )
        assert told.root_pem == root.cert_pem
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await issue(anyone, join_token="SWMTKN-1-x-y")
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        token = root.join_token_worker
        joined = await issue(anyone, join_token=token, hostname="w", availability="drain")
        node = cluster.store.view.nodes[joined.node_id]
        assert (node.spec.availability, node.description.hostname) == ("drain", "w")
        assert identity_of(joined.certificate_pem).node_id == joined.node_id
        own = material(root, joined.node_id)
        with pytest.raises(grpc.aio.AioRpcError) as foreign:
            await issue(own, node_id="m1")
        assert foreign.value.code() is grpc.StatusCode.PERMISSION_DENIED
        promoted = Node(id=node.id, spec=NodeSpec(role=NodeRole.MANAGER))
        await cluster.store.propose((PutNode(node=promoted),))
        renewed = await issue(own, node_id=node.id)
        assert (renewed.role, identity_of(renewed.certificate_pem).role) == (
            "manager",
            "swarm-manager",
        )
        await cluster.store.propose((PutNode(node=Node(id=node.id)),))
        await remove_node(cluster.store, node.id, force=True)
        with pytest.raises(grpc.aio.AioRpcError) as removed:
            await issue(own, node_id=node.id)
        assert "was removed" in (removed.value.details() or "")

    play(story)


def test_only_a_manager_by_certificate_and_store_enters_raft() -> None:
    async def story(cluster: MemoryCluster, target: str) -> None:
        root = root_of(cluster)
        await cluster.store.propose((PutNode(node=Node(id="n2")),))
        request = pb.JoinRequest(address="10.0.0.2:2377", level=LEVEL)
        by_certificate = material(root, "n2", NodeRole.MANAGER)
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await call(target, by_certificate, "MembershipStub", "Join", request)
        assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
        promoted = Node(id="n2", spec=NodeSpec(role=NodeRole.MANAGER))
        await cluster.store.propose((PutNode(node=promoted),))
        with pytest.raises(grpc.aio.AioRpcError) as worker:
            await call(target, material(root, "n2"), "MembershipStub", "Join", request)
        assert worker.value.code() is grpc.StatusCode.PERMISSION_DENIED
        reply = await call(target, by_certificate, "MembershipStub", "Join", request)
        assert dict(reply.members) == {"m1": "127.0.0.1:2377", "n2": "10.0.0.2:2377"}
        assert cluster.store.view.nodes["n2"].manager_address == "10.0.0.2:2377"

    play(story)


def test_who_is_demoted_while_it_is_added_is_no_member() -> None:
    async def story(cluster: MemoryCluster, target: str) -> None:
        add_member = cluster.log.add_member

        async def demoted_on_the_way(node_id: str, address: str) -> int:
            await cluster.store.propose((PutNode(node=Node(id=node_id)),))
            return await add_member(node_id, address)

        cluster.log.add_member = demoted_on_the_way  # type: ignore[method-assign]
        manager = Node(id="n2", spec=NodeSpec(role=NodeRole.MANAGER))
        await cluster.store.propose((PutNode(node=manager),))
        tls = material(root_of(cluster), "n2", NodeRole.MANAGER)
        request = pb.JoinRequest(address="10.0.0.2:2377", level=LEVEL)
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await call(target, tls, "MembershipStub", "Join", request)
        assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert cluster.log.members() == {"m1": "127.0.0.1:2377"}

    play(story)
