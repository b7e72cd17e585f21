"""The engine's and the agent's networking on the machine's `Network`.

What is needed to take containers over after a restart of the daemon lies in the run directory,
unsynced: a reboot makes it void together with the namespaces. Nothing of the machine is touched
before the first container, or the first endpoint table, needs it.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from swarmapi.errors import Conflict, InvalidArgument, NotFound, Unsupported
from swarmapi.model.tables import NetworkTable
from worker.attaching import Attaching, names_on
from worker.bridge import BridgeOptions, kernel_bridge
from worker.config import Config
from worker.engine import network_spec
from worker.engine.endpoints import EndpointSpec, parse_link
from worker.engine.launcher import endpoint_id
from worker.engine.networks import BRIDGE_ID, BRIDGE_POOL, HOST_ID, NONE_ID
from worker.engine.ports import Joined, JoinedEndpoint, JoinRequest, NetworkInfo, PortWish
from worker.machineid import machine_id
from worker.network.attachments import (
    Attached,
    AttachedEndpoint,
    Attachment,
    NetworkBusy,
    NetworkError,
    NetworkKind,
    PortBinding,
    PortProtocol,
    PortTaken,
)
from worker.network.family import IPV6
from worker.network.network import Network

log = logging.getLogger(__name__)
BUILTIN = (
    NetworkInfo(id=HOST_ID, name="host", driver="host"),
    NetworkInfo(id=NONE_ID, name="none", driver="null"),
)


_RETRY_S = 2.0


class _Kept(msgspec.Struct, frozen=True):
    """What it takes to take one container over."""

    attachments: list[Attachment]
    endpoints: list[AttachedEndpoint]
    ports: list[PortBinding]
    upstream: tuple[str, ...]


class _KeptTables(msgspec.Struct, frozen=True):
    """The cluster's part: who we are in it, and its networks."""

    node_id: str
    data_path_addr: str
    tables: dict[str, NetworkTable]


class MachineNetworking:
    """Namespaces, addresses and names for containers and tasks of one machine."""

    def __init__(
        self,
        network: Network,
        run_dir: Path,
        bridge: BridgeOptions | None = None,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._network = network
        self._retry_s = retry_s
        self._default = bridge or BridgeOptions()
        self._bridges: dict[str, NetworkInfo] = {}
        """The machine's own networks by id, from `open` on."""
        self._open: set[str] = set()
        """Ids of those that the kernel has."""
        self._endpoints_dir = run_dir / "endpoints"
        self._tables_path = run_dir / "tables.msgpack"
        self._starting = asyncio.Lock()
        self._started = False
        self._node_id = ""
        self._data_path_addr = ""
        self._tables: dict[str, NetworkTable] = {}
        self._restored = False
        self._retry: asyncio.Task[None] | None = None
        self.attaching = Attaching()
        self._late: asyncio.Queue[dict[str, int]] = asyncio.Queue()
        """Revisions that came into effect after `set_tables` had given up."""

    # The engine's port: networks

    async def open(self, networks: Sequence[NetworkInfo]) -> None:
        """Say which user-defined networks there are; they are made when they are needed.

        Raises:
            InvalidArgument: when the default bridge cannot be as the daemon's options have it.
        """
        for begun in self._endpoints_dir.glob("*.new"):  # by a daemon that died
            begun.unlink()
        taken = [subnet for network in networks for subnet in network.subnets()]
        self._bridges = {network.id: network for network in networks}
        if self._default.link:
            address, is_there = await self._network.address_for(self._default.link, taken)
            if is_there and self._default.address not in ("", address):
                raise InvalidArgument(
                    f"bip {self._default.address}: {self._default.link} has {address}:"
                    " delete the link, or leave bip out"
                )
            self._bridges[BRIDGE_ID] = self._default.network(address)
        self._speak_for()

    async def create(self, network: NetworkInfo) -> NetworkInfo:
        """Make a network and return it with subnet and gateway.

        Raises:
            InvalidArgument: when its subnet or its bridge is another network's.
        """
        await self._start()
        # A chosen subnet must avoid those of networks that nothing has needed yet.
        await self._open_all()
        try:
            made = await self._network.create_bridge_network(kernel_bridge(network))
        except (NetworkError, OSError) as error:
            raise InvalidArgument(str(error)) from error
        self._open.add(network.id)
        self._bridges[network.id] = replace(
            network,
            subnet=made.subnet,
            gateway=made.gateway,
            ipv6_subnet=made.ipv6_subnet,
            ipv6_gateway=made.ipv6_gateway,
        )
        self._speak_for()
        return self._bridges[network.id]

    async def remove(self, network_id: str) -> None:
        """Take a network away.

        Raises:
            Conflict: while a container is on it.
        """
        if network_id in self._open:
            try:
                await self._network.remove_bridge_network(network_id)
            except NetworkBusy as error:
                raise Conflict(str(error)) from error
            self._open.discard(network_id)
        else:
            await self._sweep(self._bridges[network_id])
        self._bridges.pop(network_id, None)
        self._speak_for()

    def _speak_for(self) -> None:
        self._network.spoken_for = tuple(
            subnet for one in self._bridges.values() for subnet in one.subnets()
        )

    async def _sweep(self, network: NetworkInfo) -> None:
        """Remove the link a former daemon made for a network this one has not needed."""
        await self._start()
        with suppress(NetworkError, OSError):
            await self._network.create_bridge_network(kernel_bridge(network))
            await self._network.remove_bridge_network(network.id)

    def networks(self) -> Sequence[NetworkInfo]:
        """Return the machine's networks and those of the cluster that are in use here."""
        found = [*BUILTIN, *self._bridges.values()]
        found += [
            NetworkInfo(
                table.network_id,
                table.name,
                "overlay",
                table.subnet,
                table.gateway,
                ipv6_subnet=next(iter(IPV6.of(table.subnets())), ""),
                ipv6=bool(IPV6.of(table.subnets())),
                internal=table.internal,
                scope="swarm",
            )
            for table in self._tables.values()
        ]
        return found

    async def find(self, reference: str) -> NetworkInfo:
        """Return a network of the cluster as the managers know it (see `Attaching`)."""
        return await self.attaching.find(reference)

    async def host_gateway(self) -> str:
        """Return the default bridge's address, by which every container reaches the host.

        Raises:
            InvalidArgument: when there is no default bridge.
        """
        if BRIDGE_ID not in self._bridges:
            raise InvalidArgument("host-gateway needs the default bridge, which is turned off")
        await self._start()
        await self._open_bridge(BRIDGE_ID)
        return self._bridges[BRIDGE_ID].gateway

    # The engine's port: containers

    async def join(self, request: JoinRequest) -> Joined:
        """Make a namespace on the networks asked for; the caller closes `netns_fd`.

        Raises:
            NotFound, Unsupported: for a network that is not here or cannot be used so.
            Conflict: for a port that another container or program has.
            InvalidArgument: for an address that cannot be had.
        """
        request = await self.attaching.leased(request, self._bridges)
        attachments, keys = self._attachments(request)
        ports = [self._binding(port, keys) for port in self._publishable(request, keys)]
        try:
            await self._start()
            for network_id in keys:
                await self._open_bridge(network_id)
            attached = await self._network.attach(
                request.container_id,
                attachments,
                host_ports=ports,
                upstream=request.dns,
                netns_fd=request.netns_fd,
            )
        except PortTaken as error:
            network_id = next(iter(keys), "")
            raise Conflict(
                "driver failed programming external connectivity on endpoint "
                f"{request.name} ({endpoint_id(request.container_id, network_id)}): {error}"
            ) from error
        except (NetworkError, OSError) as error:
            raise InvalidArgument(str(error)) from error
        kept = _Kept(attachments, list(attached.endpoints), list(attached.ports), request.dns)
        await asyncio.to_thread(self._keep, request.container_id, kept)
        return Joined(
            netns_fd=os.dup(attached.netns_fd),
            endpoints=self._joined(request.container_id, attached, keys),
            ports=tuple(
                (p.container_port, p.protocol, p.host_ip, p.host_port) for p in attached.ports
            ),
        )

    async def connect(self, request: JoinRequest) -> JoinedEndpoint:
        """Put a running container on the one network of the request.

        Raises:
            NotFound, Unsupported, InvalidArgument: as `join`.
        """
        request = await self.attaching.leased(request, self._bridges)
        (attachment,), keys = self._attachments(request)
        try:
            await self._open_bridge(attachment.network_id)
            attached = await self._network.connect(request.container_id, attachment)
        except (NetworkError, OSError) as error:
            self.attaching.gone(request.container_id, attachment.network_id)
            raise InvalidArgument(str(error)) from error
        await self._amend(
            request.container_id,
            lambda kept: ([*kept.attachments, attachment], list(attached.endpoints)),
        )
        (joined,) = self._joined(request.container_id, attached, keys)
        return joined

    async def disconnect(self, container_id: str, network_id: str) -> None:
        """Take a running container off a network.

        Raises:
            InvalidArgument: when it is not on it.
        """
        try:
            await self._network.disconnect(container_id, network_id)
        except (NetworkError, OSError) as error:
            raise InvalidArgument(str(error)) from error
        self.attaching.gone(container_id, network_id)
        await self._amend(
            container_id,
            lambda kept: (
                [a for a in kept.attachments if a.network_id != network_id],
                [e for e in kept.endpoints if e.network_id != network_id],
            ),
        )

    async def rename(self, request: JoinRequest) -> None:
        """Let a running container answer to other names."""
        attachments, _ = self._attachments(request)
        aliases = {a.network_id: a.aliases for a in attachments}
        await self._network.rename(request.container_id, aliases)
        self.attaching.changed()
        await self._amend(
            request.container_id,
            lambda kept: (
                [
                    replace(a, aliases=aliases.get(a.network_id, a.aliases))
                    for a in kept.attachments
                ],
                kept.endpoints,
            ),
        )

    async def leave(self, container_id: str) -> None:
        """Let a container's namespace go; unknown ids are fine."""
        if self._started:
            await self._network.detach(container_id)
        self.attaching.gone(container_id)
        with suppress(FileNotFoundError):
            self._kept_path(container_id).unlink()

    async def connections(self, container_id: str, addresses: Sequence[str]) -> int:
        """Return how many TCP connections to these addresses of a container are open."""
        return await self._network.connections(container_id, addresses) if self._started else 0

    async def kept(self) -> Sequence[str]:
        """Return the ids of all containers that this or an earlier daemon let in."""
        files = await asyncio.to_thread(lambda: list(self._endpoints_dir.glob("*.msgpack")))
        return sorted(path.stem for path in files)

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

        What cannot be put into effect is logged and tried again; `caught_up` tells when it is.
        """
        if not tables and not self._started:
            return {}
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        while not self._late.empty():
            self._late.get_nowait()
        self._tables = dict(tables)
        await asyncio.to_thread(self._keep_tables)
        try:
            await self._start()
            revisions = await self._network.set_tables(tables)
            self.attaching.now_in_effect(revisions)
            return revisions
        except (NetworkError, OSError) as error:
            log.warning("endpoint tables are not in effect: %s", error)
            self._retry = asyncio.create_task(self._try_again())
            return {}

    async def _try_again(self) -> None:
        while True:
            await asyncio.sleep(self._retry_s)
            try:
                revisions = await self._network.set_tables(self._tables)
            except (NetworkError, OSError) as error:
                log.warning("endpoint tables are still not in effect: %s", error)
            else:
                self.attaching.now_in_effect(revisions)
                self._late.put_nowait(revisions)
                return

    async def caught_up(self) -> dict[str, int]:
        """Wait until tables that could not be put into effect are; return their revisions."""
        return await self._late.get()

    def drift_repaired_total(self) -> int:
        """Return how many things in the kernel had drifted from the plan and were repaired."""
        return self._network.drift_repaired_total()

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
            for attachment in kept.attachments:
                await self._open_bridge(attachment.network_id)
            await self._network.readopt(
                request.container_id,
                pid,
                kept.endpoints,
                attachments=kept.attachments,
                host_ports=kept.ports,
                upstream=kept.upstream,
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

    async def _open_bridge(self, network_id: str) -> None:
        """Make one of the machine's own networks real; others are left alone."""
        async with self._starting:
            network = self._bridges.get(network_id)
            if network is not None and network_id not in self._open:
                await self._network.create_bridge_network(kernel_bridge(network))
                self._open.add(network_id)

    async def _open_all(self) -> None:
        for network_id, network in list(self._bridges.items()):
            try:
                await self._open_bridge(network_id)
            except (NetworkError, OSError) as error:
                log.warning("network %s cannot be made: %s", network.name, error)

    def _attachments(self, request: JoinRequest) -> tuple[list[Attachment], dict[str, str]]:
        """Return the attachments of a request, and its key of each network by id."""
        keys = {}
        attachments = []
        for name, spec in request.networks.items():
            attachment = self._attachment(name, spec, request)
            keys[attachment.network_id] = name
            attachments.append(attachment)
        return attachments, keys

    def _attachment(self, name: str, spec: EndpointSpec, request: JoinRequest) -> Attachment:
        address = spec.ipv4_address or None
        aliases = names_on(request, spec)
        network, table = self._bridges.get(spec.network_id), self._tables.get(spec.network_id)
        if network is None and table is None:  # one made anew under its name will do
            known, tables = self._bridges.values(), self._tables.values()
            network = next((n for n in known if name in (n.id, n.name)), None)
            table = next((t for t in tables if name in (t.network_id, t.name)), None)
        if network is not None:
            named = () if network.id == BRIDGE_ID else aliases
            return Attachment(
                network.id,
                "bridge",
                address,
                named,
                spec.mac_address,
                spec.gateway_priority,
                tuple(map(parse_link, spec.links)),
                spec.ipv6_address or None,
            )
        if table is not None:
            kind: NetworkKind = "ingress" if table.ingress else "overlay"
            ipv6 = spec.ipv6_address or None
            return Attachment(table.network_id, kind, address, aliases, ipv6_address=ipv6)
        raise NotFound(f"network {name} not found")

    def _publishable(self, request: JoinRequest, keys: Mapping[str, str]) -> tuple[PortWish, ...]:
        """Return the ports to publish: none where every network is internal, as with Docker."""
        known = [self._bridges[key] for key in keys if key in self._bridges]
        internal = len(known) == len(keys) and all(network.internal for network in known)
        return () if internal else request.ports

    def _binding(self, port: PortWish, keys: Mapping[str, str]) -> PortBinding:
        address = port.host_ip
        if not address:
            options = (self._bridges[key].options for key in keys if key in self._bridges)
            named = (found.get(network_spec.HOST_ADDRESS, "") for found in options)
            address = next((one for one in named if one), "")
        if port.protocol == "tcp":
            protocol: PortProtocol = "tcp"
        elif port.protocol == "udp":
            protocol = "udp"
        else:
            raise Unsupported(f"protocol {port.protocol} cannot be published: use tcp or udp")
        return PortBinding(
            protocol, port.container_port, port.host_port, address, port.host_port_last
        )

    def _joined(
        self, container_id: str, attached: Attached, keys: Mapping[str, str]
    ) -> tuple[JoinedEndpoint, ...]:
        """Translate; networks that were not asked for (the way out) are not shown."""
        return tuple(
            JoinedEndpoint(
                network=keys[e.network_id],
                network_id=e.network_id,
                endpoint_id=endpoint_id(container_id, e.network_id),
                address=e.address,
                prefix_length=e.prefix,
                gateway=e.gateway,
                mac=e.mac,
                driver="bridge" if e.network_id in self._bridges else "overlay",
                ipv6_address=e.ipv6_address,
                ipv6_prefix_length=e.ipv6_prefix,
                ipv6_gateway=e.ipv6_gateway,
            )
            for e in attached.endpoints
            if e.network_id in keys
        )

    def _kept_path(self, container_id: str) -> Path:
        return self._endpoints_dir / f"{container_id}.msgpack"

    def _keep(self, container_id: str, kept: _Kept) -> None:
        _replace(self._kept_path(container_id), msgspec.msgpack.encode(kept))

    async def _amend(
        self,
        container_id: str,
        change: Callable[[_Kept], tuple[list[Attachment], list[AttachedEndpoint]]],
    ) -> None:
        kept = await asyncio.to_thread(self._read_kept, container_id)
        if kept is not None:
            attachments, endpoints = change(kept)
            kept = msgspec.structs.replace(kept, attachments=attachments, endpoints=endpoints)
            await asyncio.to_thread(self._keep, container_id, kept)

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
        data_path_addr=config.data_path_addr,
        upstream_dns=upstream_resolvers(Path("/etc/resolv.conf")),
        bridge_pool=BRIDGE_POOL,
        node_netns=node_netns,
        ipv6_seed=machine_id(),
    )
    return MachineNetworking(network, run_dir, config.default_bridge)


def upstream_resolvers(path: Path) -> tuple[str, ...]:
    """Return the resolvers of a resolv.conf, but those that only one link's address reaches."""
    try:
        words = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return ()
    named = [w[1] for w in words if len(w) > 1 and w[0] == "nameserver"]
    return tuple(one for one in named if not one.startswith("fe80:"))


def _replace(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(body)
    fresh.rename(path)
