"""Addresses on the cluster's attachable networks for containers that are no task's.

The managers have the leases; a node says which it holds, at the begin of each session and after
each change. So what was given back while no manager could be asked is given back then.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import grpc
import msgspec

from swarmapi.errors import BY_GRPC_CODE, Internal, SwarmError, Unavailable
from swarmapi.model.objects import Network, NetworkLease
from swarmapi.v1 import leases_pb2 as pb

log = logging.getLogger(__name__)
_ANSWER_S: Final = 15.0
_GIVING_BACK_S: Final = 3.0
_LOOK_EVERY_S: Final = 1.0


class Held(NamedTuple):
    """A container's place on a network, as the engine's record has it."""

    network_id: str
    container_id: str
    names: tuple[str, ...]
    is_up: bool


class NodeLeases:
    """Takes leases over the session that is in force, and tells which are held."""

    def __init__(self, held: Callable[[], Iterable[Held]]) -> None:
        self._held = held
        self._channel: grpc.aio.Channel | None = None
        self._taken: dict[tuple[str, str], Held] = {}
        """Those whose container is not seen on the network yet."""
        self._told: dict[tuple[str, str], Held] | None = None
        """What the managers know; None when that is not certain."""
        self._calling = asyncio.Lock()
        self._changed = asyncio.Event()

    def begin(self, channel: grpc.aio.Channel | None) -> None:
        """Ask over this session's channel; None ends it."""
        self._channel = channel

    async def find(self, reference: str) -> Network:
        """Return a network of the cluster.

        Raises:
            NotFound: there is none, Unavailable: no manager can be asked.
        """
        answer = await self._call("Find", pb.NetworkReference(reference=reference), pb.FoundNetwork)
        return msgspec.msgpack.decode(answer.network, type=Network)

    async def take(
        self, network: str, container_id: str, wanted: tuple[str, str], names: tuple[str, ...]
    ) -> NetworkLease:
        """Return a container's lease; it holds until the container's record says otherwise.

        `wanted` are the addresses of each family that alone will do, empty for any.

        Raises:
            SwarmError: as the managers refuse it; Unavailable when none can be asked.
        """
        request = pb.LeaseRequest(
            network=network,
            container_id=container_id,
            wanted=wanted[0],
            wanted_ipv6=wanted[1],
            names=names,
        )
        async with self._calling:
            self._told = None  # even a container that is gone before the next look was told of
            answer = await self._call("Take", request, pb.TakenLease)
            lease = msgspec.msgpack.decode(answer.lease, type=NetworkLease)
            key = (lease.network_id, container_id)
            self._taken[key] = Held(*key, lease.names, is_up=True)
        return lease

    def drop(self, container_id: str, network_id: str = "") -> None:
        """Say that a container has left a network, or all."""
        for key in [k for k in self._taken if k[1] == container_id]:
            if network_id in ("", key[0]):
                del self._taken[key]
        self.changed()

    def changed(self) -> None:
        """Look soon: a container joined, left or has another name."""
        self._changed.set()

    async def run(self) -> None:
        """Tell what is held, at once and after each change, until the session ends."""
        self._told = None
        while True:
            self._changed.clear()
            async with self._calling:
                held = self._present()
                if held != self._told:
                    try:
                        await self._tell(held)
                        self._told = held
                    except SwarmError as error:
                        log.info("leases are not told: %s", error.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _LOOK_EVERY_S)

    async def give_back(self) -> None:
        """Give all leases back; a manager that cannot be asked keeps them until the node goes."""
        with contextlib.suppress(SwarmError, TimeoutError):
            async with asyncio.timeout(_GIVING_BACK_S), self._calling:
                await self._tell({})

    def _present(self) -> dict[tuple[str, str], Held]:
        seen = {(one.network_id, one.container_id): one for one in self._held()}
        for key in [k for k in self._taken if k in seen and seen[k].is_up]:
            del self._taken[key]
        return {**seen, **self._taken}

    async def _tell(self, held: dict[tuple[str, str], Held]) -> None:
        leases = [
            pb.HeldLease(
                network_id=one.network_id,
                container_id=one.container_id,
                names=one.names,
                up=one.is_up,
            )
            for _, one in sorted(held.items())
        ]
        await self._call("Keep", pb.HeldLeases(leases=leases), pb.LeasesKept)

    async def _call(self, method: str, request: Any, answer: Any) -> Any:
        if self._channel is None:
            raise Unavailable("no manager of the cluster can be asked now: try again")
        call: Any = self._channel.unary_unary(
            f"/swarmapi.v1.Leases/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return await call(request, timeout=_ANSWER_S)
        except grpc.aio.AioRpcError as error:
            kind = BY_GRPC_CODE.get(error.code().name, Internal)
            raise kind(error.details() or error.code().name) from error
