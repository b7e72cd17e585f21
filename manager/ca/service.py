"""The gRPC services `CertificateAuthority` and `Membership`."""

import datetime
from collections.abc import Awaitable, Callable
from typing import Any, Final

from manager.ca.authority import check_manager, check_node
from manager.ca.certificates import (
    check_returning,
    lifetime_of,
    role_of_token,
    sign_request,
    trust_of,
)
from manager.ca.rpc import refuse
from manager.replica import Store
from manager.store.changes import PutNode, SetNodeDescription, SetNodeLevel
from manager.store.level import check_joining
from swarmapi.errors import Forbidden, InvalidArgument, NotLeader, SwarmError, Unavailable
from swarmapi.identity import identity_from_auth_context
from swarmapi.model.objects import Cluster, Node, NodeDescription, RootCA
from swarmapi.model.spec import Availability, NodeRole, NodeSpec
from swarmapi.v1 import ca_pb2 as pb

DIGEST_WAIT_S: Final = 2.0
Relay = Callable[[str, pb.IssueRequest], Awaitable[pb.IssueReply]]
"""Passes a request with a join token on to the leader at an address."""


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class CertificateService:
    """Issues certificates on the leader; the root is told by every manager."""

    def __init__(
        self,
        store: Store,
        root_pem: bytes,
        relay: Relay | None = None,
        now: Callable[[], datetime.datetime] = _now,
    ) -> None:
        self._store = store
        self._relay = relay
        self._root_pem = root_pem
        self._now = now

    async def GetRoot(  # noqa: N802 - the name is the protocol's
        self, request: pb.GetRootRequest, context: Any
    ) -> pb.GetRootReply:
        """Return the root certificate; the caller compares it with its join token."""
        cluster = self._store.view.cluster
        root = cluster.root_ca if cluster is not None else None
        return pb.GetRootReply(root_pem=root.cert_pem if root is not None else self._root_pem)

    async def IssueCertificate(  # noqa: N802 - the name is the protocol's
        self, request: pb.IssueRequest, context: Any
    ) -> pb.IssueReply:
        """Issue a first certificate for a join token, or renew the caller's own."""
        try:
            leader = self._store.log.status.leader_address
            proves_itself = bool(request.join_token or request.proof)
            if proves_itself and not self._store.log.status.is_leader and leader:
                # A token or a signature proves itself, so a follower may carry it; any other
                # renewal needs the caller's own certificate and goes to the leader by redirection.
                if self._relay is None:
                    raise NotLeader(leader=leader)
                return await self._relay(leader, request)
            cluster, root = self._leading()
            if request.join_token:
                node = await self._admit(request, root)
            else:
                identity = (
                    check_returning(
                        root,
                        request.certificate_pem,
                        request.csr_pem,
                        request.proof,
                        self._now(),
                        self._known_key,
                    )
                    if request.proof
                    else identity_from_auth_context(context)
                )
                node = check_node(self._store.view, identity)
                if request.node_id not in ("", node.id):
                    raise Forbidden(f"node {node.id} cannot renew for node {request.node_id}")
            certificate = sign_request(
                root,
                request.csr_pem,
                node_id=node.id,
                role=node.spec.role,
                cluster_id=cluster.id,
                now=self._now(),
                lifetime=lifetime_of(cluster.spec),
            )
        except SwarmError as error:
            await refuse(context, error)
        return pb.IssueReply(
            node_id=node.id,
            cluster_id=cluster.id,
            role=node.spec.role.value,
            certificate_pem=certificate,
            managers=self._store.view.manager_addresses(),
            roots_pem=trust_of(root),
        )

    def _known_key(self, node_id: str) -> str:
        node = self._store.view.nodes.get(node_id)
        return node.tls.key if node is not None else ""

    def _leading(self) -> tuple[Cluster, RootCA]:
        status = self._store.log.status
        if not status.is_leader:
            raise NotLeader(leader=status.leader_address)
        cluster = self._store.view.cluster
        if not status.ready or cluster is None or cluster.root_ca is None:
            raise Unavailable("the leader is starting: try again")
        return cluster, cluster.root_ca

    async def _admit(self, request: pb.IssueRequest, root: RootCA) -> Node:
        """Create the node that a join token admits."""
        role = role_of_token(root, request.join_token)
        try:
            availability = Availability(request.availability or "active")
        except ValueError as error:
            raise InvalidArgument(
                f"availability: {request.availability!r} is not active, pause or drain"
            ) from error
        node = Node(
            id=self._store.new_id(),
            spec=NodeSpec(role=role, availability=availability),
            description=NodeDescription(hostname=request.hostname),
            manager_address=request.address if role is NodeRole.MANAGER else "",
        )
        change = PutNode(node=node, expect_version=0, reason="joined with a token")
        await self._store.propose((change,))
        return node


class MembershipService:
    """Takes managers into Raft."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def Join(  # noqa: N802 - the name is the protocol's
        self, request: pb.JoinRequest, context: Any
    ) -> pb.JoinReply:
        """Add the calling manager to Raft and return the members it will talk to."""
        try:
            status = self._store.log.status
            if not status.is_leader:
                raise NotLeader(leader=status.leader_address)
            identity = identity_from_auth_context(context)
            node = check_manager(self._store.view, identity)
            if not request.address:
                raise InvalidArgument("address: host:port of the new manager is needed")
            check_joining(self._store.view, request.level)
            await self._take_level(node, request)
            if node.manager_address != request.address:
                change = SetNodeDescription(
                    node_id=node.id,
                    description=node.description,
                    manager_address=request.address,
                    reason="manager joined",
                )
                await self._store.propose((change,))
            log = self._store.log
            if request.returning:
                index = await log.release(node.id)  # it asks again, to be added, once it listens
            else:
                index = await log.add_member(node.id, request.address)
            try:
                check_manager(self._store.view, identity)
            except Forbidden:  # demoted on the way: what removed it then is over
                await log.remove_member(node.id)
                raise
        except SwarmError as error:
            await refuse(context, error)
        return pb.JoinReply(members=self._store.log.members(), index=index)

    async def _take_level(self, node: Node, request: pb.JoinRequest) -> None:
        if (node.level, node.manager_version) != (request.level, request.version):
            told = SetNodeLevel(
                node_id=node.id, known=request.level, version=request.version, reason="level told"
            )
            await self._store.propose((told,))

    async def Digest(  # noqa: N802 - the name is the protocol's
        self, request: pb.DigestRequest, context: Any
    ) -> pb.DigestReply:
        """Return what this manager's state was as of an entry, once it is applied here."""
        try:
            check_manager(self._store.view, identity_from_auth_context(context))
        except SwarmError as error:
            await refuse(context, error)
        await self._store.until(lambda view: view.index >= request.index, DIGEST_WAIT_S)
        return pb.DigestReply(digest=self._store.replica.digest_at(request.index))
