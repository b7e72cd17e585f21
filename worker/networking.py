"""The engine's and the agent's networking on the machine's `Network`.

What is needed to take containers over after a restart of the daemon lies in the run directory,
unsynced: a reboot makes it void together with the namespaces. Nothing of the machine is touched
before the first container, or the first endpoint table, needs it.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from swarmapi.errors import InvalidArgument, NotFound, Unsupported
from swarmapi.model.tables import NetworkTable
from worker.config import Config
from worker.engine.networks import BRIDGE_ID, BRIDGE_POOL
from worker.engine.ports import Joined, JoinedEndpoint, JoinRequest, NetworkInfo
from worker.engine.spec import EndpointSpec
from worker.network.attachments import (
    Attached,
    AttachedEndpoint,
    Attachment,
    BridgeNetwork,
    DnsConfig,
    NetworkError,
    NetworkKind,
    PortBinding,
)
from worker.network.network import Network

log = logging.getLogger(__name__)
BUILTIN = (
    NetworkInfo(id="0" * 63 + "1", name="host", driver="host"),
    NetworkInfo(id="0" * 63 + "2", name="none", driver="null"),
)
DEFAULT_BRIDGE = BridgeNetwork(
    network_id=BRIDGE_ID,
    name="bridge",
    bridge="swarm0",
    subnet="172.17.0.0/16",
    default=True,
)
_RETRY_S = 2.0


class _Kept(msgspec.Struct, frozen=True):
    """What it takes to take one container over."""

    attachments: list[Attachment]
    endpoints: list[AttachedEndpoint]
    ports: list[PortBinding]
    dns: DnsConfig
    hostname: str


class _KeptTables(msgspec.Struct, frozen=True):
    """The cluster's part: who we are in it, and its networks."""

    node_id: str
    data_path_addr: str
    tables: dict[str, NetworkTable]


class MachineNetworking:
    """Namespaces, addresses and names for containers and tasks of one machine."""

    def __init__(self, network: Network, run_dir: Path) -> None:
        self._network = network
        self._endpoints_dir = run_dir / "endpoints"
        self._tables_path = run_dir / "tables.msgpack"
        self._starting = asyncio.Lock()
        self._started = False
        self._bridge: BridgeNetwork | None = None
        self._node_id = ""
        self._data_path_addr = ""
        self._tables: dict[str, NetworkTable] = {}
        self._restored = False
        self._retry: asyncio.Task[None] | None = None

    # The engine's port

    async def join(self, request: JoinRequest) -> Joined:
        """Make a namespace on the networks asked for; the caller closes `netns_fd`.

        Raises:
            NotFound, Unsupported: for a network that is not here or cannot be used so.
            InvalidArgument: for an address or a port that cannot be had.
        """
        keys = {}
        attachments = []
        for name, spec in request.networks.items():
            attachment = self._attachment(name, spec, request.names)
            keys[attachment.network_id] = name
            attachments.append(attachment)
        dns = DnsConfig(servers=tuple(request.dns))
        ports = [_binding(*port) for port in request.ports]
        try:
            await self._start()
            if any(a.network_id == DEFAULT_BRIDGE.network_id for a in attachments):
                await self._ensure_bridge()
            attached = await self._network.attach(
                request.container_id,
                attachments,
                host_ports=ports,
                dns=dns,
                hostname=request.hostname,
            )
        except (NetworkError, OSError) as error:
            raise InvalidArgument(str(error)) from error
        kept = _Kept(
            attachments,
            list(attached.endpoints),
            list(attached.ports),
            dns,
            request.hostname,
        )
        await asyncio.to_thread(self._keep, request.container_id, kept)
        return _joined(request.container_id, attached, keys)

    async def leave(self, container_id: str) -> None:
        """Let a container's namespace go; unknown ids are fine."""
        if self._started:
            await self._network.detach(container_id)
        with suppress(FileNotFoundError):
            self._kept_path(container_id).unlink()

    def networks(self) -> Sequence[NetworkInfo]:
        """Return the machine's networks and those of the cluster that are in use here."""
        bridge = self._bridge or DEFAULT_BRIDGE
        found = [
            *BUILTIN,
            NetworkInfo(bridge.network_id, bridge.name, "bridge", bridge.subnet, bridge.gateway),
        ]
        found += [
            NetworkInfo(table.network_id, table.name, "overlay", table.subnet, table.gateway)
            for table in self._tables.values()
        ]
        return found

    async def close(self) -> None:
        """Let go; namespaces, links and rules stay for the next daemon."""
        if self._retry is not None:
            self._retry.cancel()
            await asyncio.gather(self._retry, return_exceptions=True)
        if self._started:
            await self._network.stop(remove=False)

    # The cluster's port

    async def identify(self, node_id: str, data_path_addr: str) -> None:
        """Say which node of a cluster this machine is."""
        self._node_id, self._data_path_addr = node_id, data_path_addr
        await self._start()
        await self._network.identify(node_id, data_path_addr)
        await self._restore_tables()

    async def set_tables(self, tables: Mapping[str, NetworkTable]) -> dict[str, int]:
        """Put the endpoint tables into effect; return the revisions that are.

        What cannot be put into effect is logged, tried again, and not acknowledged.
        """
        if not tables and not self._started:
            return {}
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._tables = dict(tables)
        await asyncio.to_thread(self._keep_tables)
        try:
            await self._start()
            return await self._network.set_tables(tables)
        except (NetworkError, OSError) as error:
            log.warning("endpoint tables are not in effect: %s", error)
            self._retry = asyncio.create_task(self._try_again())
            return {}

    async def _try_again(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_S)
            try:
                await self._network.set_tables(self._tables)
            except (NetworkError, OSError) as error:
                log.warning("endpoint tables are still not in effect: %s", error)
            else:
                return

    # After a restart

    async def rejoin(
        self, request: JoinRequest, pid: int, endpoints: Sequence[JoinedEndpoint]
    ) -> None:
        """Take over a running container's namespace after a restart of the daemon.

        Raises:
            InvalidArgument: when it cannot be, or nothing is known of it.
        """
        kept = await asyncio.to_thread(self._read_kept, request.container_id)
        if kept is None:
            raise InvalidArgument(f"nothing is kept of its networks in {self._endpoints_dir}")
        try:
            await self._start()
            await self._restore_tables()
            if any(a.network_id == DEFAULT_BRIDGE.network_id for a in kept.attachments):
                await self._ensure_bridge()
            await self._network.readopt(
                request.container_id,
                pid,
                kept.endpoints,
                attachments=kept.attachments,
                host_ports=kept.ports,
                dns=kept.dns,
                hostname=kept.hostname,
            )
        except (NetworkError, OSError) as error:
            raise InvalidArgument(str(error)) from error

    async def _restore_tables(self) -> None:
        """Take the last tables up before their containers: no manager may be there to ask."""
        if self._restored or self._tables:
            return
        self._restored = True
        try:
            raw = await asyncio.to_thread(self._tables_path.read_bytes)
            stored = msgspec.msgpack.decode(raw, type=_KeptTables)
        except FileNotFoundError:
            return
        except msgspec.MsgspecError as error:
            log.warning("the last endpoint tables cannot be read: %s", error)
            return
        if self._node_id not in ("", stored.node_id):
            return
        self._node_id, self._data_path_addr = stored.node_id, stored.data_path_addr
        await self._network.identify(stored.node_id, stored.data_path_addr)
        await self.set_tables(stored.tables)

    # Parts

    async def _start(self) -> None:
        async with self._starting:
            if not self._started:
                await self._network.start()
                self._started = True

    async def _ensure_bridge(self) -> None:
        async with self._starting:
            if self._bridge is None:
                self._bridge = await self._network.create_bridge_network(DEFAULT_BRIDGE)

    def _attachment(self, name: str, spec: EndpointSpec, names: tuple[str, ...]) -> Attachment:
        address = spec.ipv4_address or None
        if name in (DEFAULT_BRIDGE.name, DEFAULT_BRIDGE.network_id):
            return Attachment(DEFAULT_BRIDGE.network_id, "bridge", address)
        for table in self._tables.values():
            if name in (table.network_id, table.name):
                if address is None:
                    raise Unsupported(
                        f"network {table.name} belongs to the cluster: only services can use it"
                    )
                kind: NetworkKind = "ingress" if table.ingress else "overlay"
                aliases = (*names, *spec.aliases)
                return Attachment(table.network_id, kind, address, aliases)
        raise NotFound(f"network {name} not found on this machine")

    def _kept_path(self, container_id: str) -> Path:
        return self._endpoints_dir / f"{container_id}.msgpack"

    def _keep(self, container_id: str, kept: _Kept) -> None:
        _replace(self._kept_path(container_id), msgspec.msgpack.encode(kept))

    def _keep_tables(self) -> None:
        stored = _KeptTables(self._node_id, self._data_path_addr, self._tables)
        _replace(self._tables_path, msgspec.msgpack.encode(stored))

    def _read_kept(self, container_id: str) -> _Kept | None:
        path = self._kept_path(container_id)
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise InvalidArgument(f"{path} cannot be read: {error}") from error


def open_networking(
    config: Config, node_netns: Path = Path("/proc/self/ns/net")
) -> MachineNetworking:
    """Return the machine's networking; it starts when something needs it."""
    run_dir = config.run_dir / "network"
    network = Network(
        node_id="",
        run_dir=run_dir,
        state_dir=config.data_root / "network",
        data_path_addr=config.data_path_addr,
        upstream_dns=upstream_resolvers(Path("/etc/resolv.conf")),
        bridge_pool=BRIDGE_POOL,
        node_netns=node_netns,
    )
    return MachineNetworking(network, run_dir)


def upstream_resolvers(path: Path) -> tuple[str, ...]:
    """Return the IPv4 resolvers of a resolv.conf; the resolver asks from the node's namespace."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ()
    words = [line.split() for line in lines]
    return tuple(w[1] for w in words if len(w) > 1 and w[0] == "nameserver" and ":" not in w[1])


def _binding(container_port: int, protocol: str, host_ip: str, host_port: int) -> PortBinding:
    if protocol == "tcp":
        return PortBinding("tcp", container_port, host_port, host_ip)
    if protocol == "udp":
        return PortBinding("udp", container_port, host_port, host_ip)
    raise Unsupported(f"protocol {protocol} cannot be published: use tcp or udp")


def _joined(container_id: str, attached: Attached, keys: Mapping[str, str]) -> Joined:
    """Translate; networks that were not asked for (the way out) are not shown."""
    endpoints = tuple(
        JoinedEndpoint(
            network=keys[e.network_id],
            network_id=e.network_id,
            endpoint_id=hashlib.sha256(f"{container_id}/{e.network_id}".encode()).hexdigest(),
            address=e.address,
            prefix_length=e.prefix,
            gateway=e.gateway,
            mac=e.mac,
        )
        for e in attached.endpoints
        if e.network_id in keys
    )
    servers = [
        line.split()[1]
        for line in attached.resolv_conf.splitlines()
        if line.startswith("nameserver ")
    ]
    return Joined(
        netns_fd=os.dup(attached.netns_fd),
        endpoints=endpoints,
        ports=tuple(
            (p.container_port, p.protocol, p.host_ip or "0.0.0.0", p.host_port)
            for p in attached.ports
        ),
        dns_servers=tuple(servers),
    )


def _replace(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(body)
    fresh.rename(path)
