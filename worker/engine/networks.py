"""Networking of a machine: none and host always, others by the network it is given."""

from collections.abc import Sequence

from swarmapi.errors import Unsupported
from worker.config import Config
from worker.engine.ports import Joined, JoinRequest, NetworkInfo, Networking

BUILTIN = (
    NetworkInfo(id="0" * 63 + "1", name="host", driver="host"),
    NetworkInfo(id="0" * 63 + "2", name="none", driver="null"),
)


class NoNetworking:
    """The networks a machine has without a network driver."""

    async def join(self, request: JoinRequest) -> Joined:
        """Refuse: there is nothing to join."""
        names = ", ".join(request.networks)
        raise Unsupported(
            f"network {names} is not available on this machine: use --network none or host"
        )

    async def leave(self, container_id: str) -> None:
        """Leave nothing, as nothing was joined."""

    def networks(self) -> Sequence[NetworkInfo]:
        """Return host and none."""
        return BUILTIN

    async def close(self) -> None:
        """Let go of nothing."""


async def build_networking(config: Config) -> Networking:
    """Return the networking of this machine."""
    return NoNetworking()
