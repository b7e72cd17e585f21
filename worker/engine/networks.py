"""Networking of a machine: none and host always, bridge by the machine's Network."""

import os
from collections.abc import Sequence
from pathlib import Path

from swarmapi.errors import InvalidArgument, NotFound
from worker.config import Config
from worker.engine.ports import Joined, JoinedEndpoint, JoinRequest, NetworkInfo, Networking
from worker.network.attachments import (
    AttachedEndpoint,
    Attachment,
    BridgeNetwork,
    DnsConfig,
    NetworkError,
    PortBinding,
)
from worker.network.network import Network

BRIDGE_ID = "b" * 64
BRIDGE_POOL = "172.16.0.0/12"
_BUILTIN = (
    NetworkInfo(id="0" * 63 + "1", name="host", driver="host"),
    NetworkInfo(id="0" * 63 + "2", name="none", driver="null"),
)


class MachineNetworking:
    """The default bridge, made when the first container asks for it."""

    def __init__(self, network: Network, bridge: str = "swarm0") -> None:
        self.network = network
        self._wanted = BridgeNetwork(BRIDGE_ID, "bridge", bridge, default=True)
        self._made: BridgeNetwork | None = None

    async def join(self, request: JoinRequest) -> Joined:
        """Make and configure a namespace; see the port.

        Raises:
            NotFound: for a network that is not the default bridge.
            InvalidArgument: for an address or a port that cannot be had.
        """
        for name in request.networks:
            if name != "bridge":
                raise NotFound(f"network {name} not found")
        try:
            await self._make_bridge()
            attached = await self.network.attach(
                request.container_id,
                _attachments(request),
                host_ports=_bindings(request),
                dns=DnsConfig(servers=request.dns),
                hostname=request.hostname,
            )
        except NetworkError as error:
            raise InvalidArgument(str(error)) from error
        return Joined(
            netns_fd=os.dup(attached.netns_fd),
            endpoints=tuple(
                JoinedEndpoint(
                    network="bridge",
                    network_id=endpoint.network_id,
                    endpoint_id=request.container_id,
                    address=endpoint.address,
                    prefix_length=endpoint.prefix,
                    gateway=endpoint.gateway,
                    mac=endpoint.mac,
                )
                for endpoint in attached.endpoints
            ),
            ports=tuple(
                (port.container_port, port.protocol, port.host_ip or "0.0.0.0", port.host_port)
                for port in attached.ports
            ),
            dns_servers=request.dns,
        )

    async def rejoin(
        self, request: JoinRequest, pid: int, endpoints: Sequence[JoinedEndpoint]
    ) -> None:
        """Take over a running container's namespace after a restart of the daemon.

        Raises:
            InvalidArgument: when its addresses or ports are no longer to be had.
        """
        try:
            await self._make_bridge()
            await self.network.readopt(
                request.container_id,
                pid,
                [
                    AttachedEndpoint(
                        endpoint.network_id,
                        f"eth{index}",
                        endpoint.address,
                        endpoint.prefix_length,
                        endpoint.mac,
                        endpoint.gateway,
                    )
                    for index, endpoint in enumerate(endpoints)
                ],
                attachments=_attachments(request),
                host_ports=_bindings(request),
                dns=DnsConfig(servers=request.dns),
                hostname=request.hostname,
            )
        except NetworkError as error:
            raise InvalidArgument(str(error)) from error

    async def _make_bridge(self) -> None:
        if self._made is None:
            self._made = await self.network.create_bridge_network(self._wanted)

    async def leave(self, container_id: str) -> None:
        """Let the container's namespace go."""
        await self.network.detach(container_id)

    def networks(self) -> Sequence[NetworkInfo]:
        """Return bridge, host and none."""
        made = self._made or self._wanted
        return (NetworkInfo(BRIDGE_ID, "bridge", "bridge", made.subnet, made.gateway), *_BUILTIN)

    async def close(self) -> None:
        """Stop serving; links and rules stay for running containers."""
        await self.network.stop(remove=False)


def _attachments(request: JoinRequest) -> list[Attachment]:
    return [
        Attachment(BRIDGE_ID, "bridge", endpoint.ipv4_address or None, tuple(endpoint.aliases))
        for endpoint in request.networks.values()
    ]


def _bindings(request: JoinRequest) -> list[PortBinding]:
    return [
        PortBinding("udp" if protocol == "udp" else "tcp", port, host_port, address)
        for port, protocol, address, host_port in request.ports
    ]


async def build_networking(config: Config) -> Networking:
    """Start the networking of this machine."""
    network = Network(
        node_id="",
        run_dir=config.run_dir / "network",
        state_dir=config.data_root / "network",
        data_path_addr=config.data_path_addr,
        upstream_dns=host_resolvers(),
        bridge_pool=BRIDGE_POOL,
    )
    await network.start()
    return MachineNetworking(network)


def host_resolvers() -> tuple[str, ...]:
    """Return the name servers of the machine's resolv.conf."""
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except OSError:
        return ()
    words = [line.split() for line in lines]
    return tuple(word[1] for word in words if len(word) > 1 and word[0] == "nameserver")
