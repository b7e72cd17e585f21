"""The gRPC service `Leases`: addresses for containers of a node that are no task's."""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from manager.ca.authority import check_node
from manager.ca.rpc import refuse
from manager.control.lookup import find_network
from manager.replica import Store
from manager.store.changes import Change, Delete, PutLease
from manager.store.view import View
from swarmapi.errors import (
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    NotFound,
    NotLeader,
    SwarmError,
    Unavailable,
)
from swarmapi.identity import identity_from_auth_context
from swarmapi.model.objects import Network, NetworkLease, Node
from swarmapi.v1 import leases_pb2 as pb

GIVEN_WITHIN_S: Final = 10.0
"""The allocator gives an address in its next turn."""
_encode = msgspec.msgpack.encode


class LeaseService:
    """Serves nodes, each for its own containers alone."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def Find(  # noqa: N802 - the name is the protocol's
        self, request: pb.NetworkReference, context: Any
    ) -> pb.FoundNetwork:
        """Return a network."""
        try:
            self._node_of(context)
            network = find_network(self._store.view, request.reference)
        except SwarmError as error:
            await refuse(context, error)
        return pb.FoundNetwork(network=_encode(network))

    async def Take(  # noqa: N802 - the name is the protocol's
        self, request: pb.LeaseRequest, context: Any
    ) -> pb.TakenLease:
        """Return a container's lease, the one it has or a new one."""
        try:
            lease = await self._take(self._node_of(context), request)
        except SwarmError as error:
            await refuse(context, error)
        return pb.TakenLease(lease=_encode(lease))

    async def Keep(  # noqa: N802 - the name is the protocol's
        self, request: pb.HeldLeases, context: Any
    ) -> pb.LeasesKept:
        """Make a node's leases those that it holds."""
        try:
            changes = kept(self._store.view, self._node_of(context).id, request.leases)
            if changes:
                await self._store.propose(changes)
        except SwarmError as error:
            await refuse(context, error)
        return pb.LeasesKept()

    def _node_of(self, context: Any) -> Node:
        node = check_node(self._store.view, identity_from_auth_context(context))
        status = self._store.log.status
        if not status.is_leader:
            raise NotLeader(leader=status.leader_address)
        return node

    async def _take(self, node: Node, request: pb.LeaseRequest) -> NetworkLease:
        view = self._store.view
        network = find_network(view, request.network)
        check_attachable(network)
        wanted, wanted_ipv6 = _address(request.wanted, 4), _address(request.wanted_ipv6, 6)
        lease_id = f"{network.id}/{request.container_id}"
        held = view.leases.get(lease_id)
        lease = NetworkLease(
            id=lease_id,
            network_id=network.id,
            node_id=node.id,
            container_id=request.container_id,
            wanted=wanted,
            wanted_ipv6=wanted_ipv6,
            names=tuple(request.names),
        )
        if not request.container_id or (held is not None and held.node_id != node.id):
            raise InvalidArgument(f"container {request.container_id!r} is not this node's")
        if wanted_ipv6 and not network.has_ipv6():
            raise InvalidArgument(
                f"address {wanted_ipv6}: network {network.spec.name} has no IPv6: create it"
                " with --ipv6"
            )
        blank = {"meta": lease.meta, "address": "", "ipv6_address": "", "error": ""}
        if held is None or replace(held, **blank) != lease:
            change = PutLease(lease=lease, reason=f"a container joins {network.spec.name}")
            await self._store.propose((change,))
        return await self._given(lease_id)

    async def _given(self, lease_id: str) -> NetworkLease:
        """Wait for the allocator; what cannot be had is not kept."""

        def is_decided(view: View) -> bool:
            lease = view.leases.get(lease_id)
            return lease is None or bool(lease.address or lease.error)

        if not await self._store.until(is_decided, GIVEN_WITHIN_S):
            raise Unavailable("no address was given in time: try again")
        lease = self._store.view.leases.get(lease_id)
        if lease is None:
            raise NotFound("the network was removed")
        if lease.error:
            await self._store.propose((Delete(object="lease", id=lease_id, reason=lease.error),))
            raise FailedPrecondition(lease.error)
        return lease


def check_attachable(network: Network) -> None:
    """Refuse a network that only services may use, in Docker's words; raises Forbidden."""
    if not network.spec.attachable or network.spec.ingress:
        raise Forbidden(
            f"Could not attach to network {network.spec.name}: rpc error: code = PermissionDenied "
            f"desc = network {network.spec.name} not manually attachable"
        )


def kept(view: View, node_id: str, held: Iterable[pb.HeldLease]) -> tuple[Change, ...]:
    """Return what makes a node's leases those that it holds; unknown ones are not made."""
    changes: list[Change] = []
    named = {f"{one.network_id}/{one.container_id}": one for one in held}
    for lease_id in sorted(view.leases_of.of(node_id)):
        lease, one = view.leases[lease_id], named.get(lease_id)
        if one is None:
            reason = "the container is no longer on the network"
            changes.append(Delete(object="lease", id=lease_id, reason=reason))
        elif (lease.is_up, lease.names) != (one.up, tuple(one.names)):
            new = replace(lease, is_up=one.up, names=tuple(one.names))
            changes.append(PutLease(lease=new, reason="its container changed"))
    return tuple(changes)


def _address(wanted: str, version: int) -> str:
    try:
        address = ip_address(wanted) if wanted else None
    except ValueError:
        raise InvalidArgument(f"invalid IPv{version} address: {wanted}") from None
    if address is not None and address.version != version:
        raise InvalidArgument(f"invalid IPv{version} address: {wanted}")
    return str(address or "")
