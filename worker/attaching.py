"""Containers that are no task's on the cluster's attachable networks: leases before they join."""

import asyncio
from collections.abc import Callable, Container
from dataclasses import replace
from typing import Final, Protocol

import msgspec

from swarmapi.errors import NotFound, SwarmError, Unavailable, Unsupported
from swarmapi.model.objects import Network, NetworkLease, NetworkPool
from worker.engine.endpoints import EndpointSpec
from worker.engine.ports import JoinRequest, NetworkInfo

TABLE_WITHIN_S: Final = 15.0


class Lessor(Protocol):
    """Who has the addresses: the managers, by the node's session."""

    async def find(self, reference: str) -> Network: ...
    async def take(
        self, network: str, container_id: str, wanted: tuple[str, str], names: tuple[str, ...]
    ) -> NetworkLease: ...
    def drop(self, container_id: str, network_id: str = "") -> None: ...
    def changed(self) -> None: ...


class Attaching:
    """Leases what a request to join leaves open, and waits for the networks' tables."""

    def __init__(self) -> None:
        self.lessor_now: Callable[[], Lessor | None] = lambda: None
        """Returns None outside of a cluster."""
        self._in_effect: dict[str, int] = {}
        self._moved = asyncio.Event()

    def now_in_effect(self, revisions: dict[str, int]) -> None:
        """Take note of the tables that the kernel holds."""
        self._in_effect = revisions
        self._moved.set()

    async def find(self, reference: str) -> NetworkInfo:
        """Return a network of the cluster as the managers know it.

        Raises:
            NotFound: there is none. Unavailable: no manager can be asked.
        """
        lessor = self.lessor_now()
        if lessor is None:
            raise NotFound(f"network {reference} not found")
        try:
            network = await lessor.find(reference)
        except Unavailable as error:
            message = f"network {reference} is not on this node, and {error.message}"
            raise Unavailable(message) from error
        further = (pool for pool in network.further if ":" in pool.subnet)
        pool = next(further, NetworkPool(subnet="", gateway=""))
        return NetworkInfo(
            network.id,
            network.spec.name,
            "overlay",
            network.subnet,
            network.gateway,
            ipv6=network.has_ipv6(),
            ipv6_subnet=pool.subnet,
            ipv6_gateway=pool.gateway,
            internal=network.spec.internal,
            attachable=network.spec.attachable and not network.spec.ingress,
            labels=network.spec.labels or {},
            scope="swarm",
        )

    async def leased(self, request: JoinRequest, own: Container[str]) -> JoinRequest:
        """Return the request with an address on each network of the cluster; `own` are others.

        Raises:
            SwarmError: as the managers refuse it; what was leased is given back then.
        """
        networks = dict(request.networks)
        for name, spec in request.networks.items():
            if spec.attached and not spec.leased and spec.network_id not in own:
                networks[name] = await self._lease(request, spec)
        return replace(request, networks=networks)

    async def _lease(self, request: JoinRequest, spec: EndpointSpec) -> EndpointSpec:
        lessor = self.lessor_now()
        if lessor is None:
            raise Unavailable("the container is on a network of a cluster: join the cluster first")
        if spec.mac_address:
            raise Unsupported(
                "a MAC address of one's own is not possible on an overlay, where every node knows "
                "it by the IP address: leave it out"
            )
        names = names_on(request, spec)
        try:
            lease = await lessor.take(
                spec.network_id,
                request.container_id,
                (spec.ipv4_address, spec.ipv6_address),
                names,
            )
            await self._table(lease)
        except SwarmError:
            self.gone(request.container_id)
            raise
        address, ipv6 = lease.address.partition("/")[0], lease.ipv6_address.partition("/")[0]
        return msgspec.structs.replace(spec, ipv4_address=address, ipv6_address=ipv6, leased=True)

    async def _table(self, lease: NetworkLease) -> None:
        """Wait until this node's kernel knows of the lease."""
        try:
            async with asyncio.timeout(TABLE_WITHIN_S):
                while self._in_effect.get(lease.network_id, -1) < lease.meta.version:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            raise Unavailable("the network's table did not come in time: try again") from None

    def gone(self, container_id: str, network_id: str = "") -> None:
        """Say that a container is no longer on a network, or on any."""
        lessor = self.lessor_now()
        if lessor is not None:
            lessor.drop(container_id, network_id)

    def changed(self) -> None:
        """Say that a container joined or has another name."""
        lessor = self.lessor_now()
        if lessor is not None:
            lessor.changed()


def names_on(request: JoinRequest, spec: EndpointSpec) -> tuple[str, ...]:
    """Return what a container answers to on a network, its name first."""
    return tuple(dict.fromkeys(filter(None, (request.name, *spec.aliases, *request.names))))
