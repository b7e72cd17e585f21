"""The network as the engine and the agent use it."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, TypeVar

from swarmapi.model.tables import NetworkTable
from worker.network import netns
from worker.network.attachments import (
    Attached,
    AttachedEndpoint,
    Attachment,
    BridgeNetwork,
    NetworkBusy,
    NetworkError,
    PortBinding,
    PortTaken,
)
from worker.network.dns import Resolver
from worker.network.drift import keep_verifying
from worker.network.family import IPV4
from worker.network.host import Host, node_addresses
from worker.network.ipam import AddressPool, choose_subnet
from worker.network.local import UDP, Ipv4Tables, LocalContainer, in_use, vanished
from worker.network.localnets import LocalNetworks
from worker.network.mesh import is_at_places
from worker.network.plan import DesiredState, Names, Planner
from worker.network.publishing import Closable, close_all, per_family
from worker.network.relay import Relays, carried

T = TypeVar("T")
_log = logging.getLogger(__name__)

EGRESS_NETWORK = "swarm-egress"
"""The bridge that gives tasks on overlays a way out of the node, unless these are internal."""
_EGRESS = BridgeNetwork(EGRESS_NETWORK, EGRESS_NETWORK, bridge="swarm-egress")


@dataclass
class _Container:
    attachments: dict[str, Attachment]
    endpoints: dict[str, AttachedEndpoint]
    upstream: tuple[str, ...]
    ports: tuple[PortBinding, ...] = ()
    holders: list[Closable] = field(default_factory=list)
    next_interface: int = 0
    way_out: str | None = None
    """The network its default route goes through."""
    served: bool = False
    """Whether the resolver listens in it."""


class Network:
    """All networks of one machine. Calls are served one after the other."""

    def __init__(
        self,
        *,
        node_id: str,
        run_dir: Path,
        data_path_addr: str,
        upstream_dns: tuple[str, ...],
        bridge_pool: str,
        node_netns: Path = Path("/proc/self/ns/net"),
        ipv6_seed: str = "swarm",
    ) -> None:
        self._node_id = node_id
        self._run_dir = run_dir
        self._data_path_addr = data_path_addr
        self._upstream = upstream_dns
        self._pool = bridge_pool
        self._node_netns = node_netns
        # One thread: setns(2) is per thread, and the kernel's own locks serialise anyway.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._lock = asyncio.Lock()
        self._host: Host | None = None
        self._resolver: Resolver | None = None
        self._tables: dict[str, NetworkTable] = {}
        self._ipv4_tables = Ipv4Tables()
        self._containers: dict[str, _Container] = {}
        self._own = LocalNetworks(bridge_pool, ipv6_seed)
        self._bridges = self._own.specs
        self.spoken_for: tuple[str, ...] = ()
        """Subnets of networks that may come: no other is put there unasked."""
        self._planner = Planner(node_id)
        self._relays = Relays(lambda kind, family: self._kernel.node_socket(kind, family))
        self._desired: DesiredState | None = None
        self._drift_repaired = 0
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._forgetting: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the node's namespace and begin to read the kernel back."""

        def open_host() -> Host:
            fd = os.open(self._node_netns, os.O_RDONLY | os.O_CLOEXEC)
            return Host(fd, self._run_dir, self._data_path_addr)

        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._host = await self._on_thread(open_host)
        self._resolver = Resolver(self._host.node_socket)
        self._spawn(keep_verifying(self.verify), self._tasks)

    async def stop(self, *, remove: bool) -> None:
        """Close everything; with `remove` also take every link, table and pin away."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._forgetting, return_exceptions=True)
        if self._resolver is not None:
            await self._resolver.stop()
        for container in self._containers.values():
            close_all(container.holders)
        self._relays.close()
        self._containers.clear()
        if self._host is not None:
            host = self._host
            await self._on_thread(lambda: host.close(remove=remove))
            self._host = None
        self._thread.shutdown()

    # Bridge networks of the standalone engine

    async def address_for(self, link: str, taken: Sequence[str]) -> tuple[str, bool]:
        """Return the address with prefix that a bridge has, or a free one, and which it is.

        Needs no `start`. Raises NetworkError when the pool is used up.
        """

        def look() -> tuple[str, bool]:
            with netns.opened(self._node_netns) as fd:
                here = netns.inside(fd, node_addresses)
            own = IPV4.of(here.get(link, ()))
            if own:
                return own[0], True
            there = [str(ip_interface(one).network) for found in here.values() for one in found]
            subnet = choose_subnet(self._pool, [*taken, *there])
            return f"{AddressPool(subnet, '').gateway}/{subnet.partition('/')[2]}", False

        return await self._on_thread(look)

    async def create_bridge_network(self, spec: BridgeNetwork) -> BridgeNetwork:
        """Create a bridge network and return it with subnet and gateway filled in.

        Raises NetworkError when the subnet overlaps another network's or none is free.
        """
        async with self._lock:
            return await self._create_bridge(spec)

    async def _create_bridge(self, spec: BridgeNetwork) -> BridgeNetwork:
        if spec.network_id in self._bridges:
            raise NetworkError(f"network {spec.name} exists already")
        if any(b.bridge == spec.bridge for b in self._bridges.values()):
            raise NetworkError(f"network {spec.name}: bridge {spec.bridge} is another network's")
        there = await self._on_thread(lambda: self._kernel.foreign_subnets({spec.bridge}))
        overlays = [prefix for table in self._tables.values() for prefix in table.subnets()]
        whole = self._own.complete(spec, overlays, lambda: [*there, *self.spoken_for])
        await self._on_thread(lambda: self._kernel.add_bridge(whole))
        self._own.add(whole)
        await self._settle()
        return whole

    async def remove_bridge_network(self, network_id: str) -> None:
        """Remove a bridge network; NetworkError while containers are on it."""
        async with self._lock:
            if network_id not in self._bridges:
                raise NetworkError(f"network {network_id} is not known on this node")
            users = [k for k, c in self._containers.items() if network_id in c.endpoints]
            if users:
                raise NetworkBusy(
                    f"network {self._bridges[network_id].name} has containers: remove {users[0]}"
                )
            await self._remove_bridge(network_id)

    async def _remove_bridge(self, network_id: str) -> None:
        await self._on_thread(lambda: self._kernel.remove_bridge(network_id))
        self._own.remove(network_id)
        await self._settle()

    # Containers

    async def attach(
        self,
        container_id: str,
        attachments: list[Attachment],
        *,
        host_ports: list[PortBinding],
        upstream: tuple[str, ...] = (),
        netns_fd: int = -1,
    ) -> Attached:
        """Make a namespace, or take `netns_fd`, and configure it. On failure nothing remains.

        `upstream` are the resolvers asked for other names instead of the node's. Raises
        NetworkError for an unknown network or an address in use, PortTaken for a port.
        """
        async with self._lock:
            if container_id in self._containers:
                raise NetworkError(f"container {container_id} is attached already")
            container = _Container({}, {}, upstream)
            await self._on_thread(lambda: self._kernel.make_container(container_id, netns_fd))
            async with self._entering(container_id, container):
                await self._plug_all(container_id, attachments)
                container.ports = await self._reserve(container, host_ports)
            return self._attached(container_id)

    @asynccontextmanager
    async def _entering(self, container_id: str, container: _Container) -> AsyncIterator[None]:
        """Put a container that is plugged inside into effect, or take all of it away again."""
        self._containers[container_id] = container
        try:
            yield
            await self._settle()
            await self._serve_names(container_id)
        except BaseException:
            await self._drop(container_id)
            raise

    def _attached(self, container_id: str) -> Attached:
        container = self._containers[container_id]
        return Attached(
            self._kernel.containers[container_id].fd,
            tuple(container.endpoints.values()),
            container.ports,
            self._uses_resolver(container),
        )

    async def _plug_all(self, container_id: str, attachments: list[Attachment]) -> None:
        wanted = list(attachments)
        kinds = {a.kind for a in wanted}
        if kinds == {"overlay"} and any(self._leads_out(a.network_id) for a in wanted):
            if EGRESS_NETWORK not in self._bridges:
                await self._create_bridge(_EGRESS)
            wanted.append(Attachment(EGRESS_NETWORK, "bridge"))
        for attachment in wanted:
            await self._plug(container_id, attachment)
        await self._route_out(container_id)

    def _leads_out(self, network_id: str) -> bool:
        table = self._tables.get(network_id)
        return table is not None and not table.internal

    async def _plug(self, container_id: str, attachment: Attachment) -> None:
        container, network_id = self._containers[container_id], attachment.network_id
        asked = tuple(filter(None, (attachment.address, attachment.ipv6_address)))
        if network_id in self._bridges:
            addresses = self._own.take(network_id, asked)
        elif not asked:
            raise NetworkError(f"network {network_id}: an overlay address comes from a manager")
        else:
            table = self._tables.get(network_id)
            if table is None:
                raise NetworkError(f"network {network_id} is not known on this node yet")
            addresses = asked if netns.has_ipv6() else IPV4.of(asked)
            await self._on_thread(lambda: self._kernel.ensure_overlay(table, self._node_id))
        interface = f"eth{container.next_interface}"
        try:
            endpoint = await self._on_thread(
                lambda: self._kernel.connect(
                    container_id, network_id, interface, addresses, attachment.mac
                )
            )
        except BaseException:
            self._own.release(network_id, addresses)
            raise
        container.next_interface += 1
        container.attachments[network_id] = attachment
        container.endpoints[network_id] = endpoint

    async def _route_out(self, container_id: str) -> None:
        container = self._containers[container_id]
        way_out = self._way_out(container)
        if way_out is not None and way_out != container.way_out:
            endpoint = container.endpoints[way_out]
            await self._on_thread(lambda: self._kernel.route_through(container_id, endpoint))
        container.way_out = way_out

    async def connect(self, container_id: str, attachment: Attachment) -> Attached:
        """Plug a running container into one more network."""
        async with self._lock:
            container = self._known(container_id)
            if attachment.network_id in container.endpoints:
                raise NetworkError(
                    f"container {container_id} is on {attachment.network_id} already"
                )
            await self._plug(container_id, attachment)
            await self._route_out(container_id)
            await self._settle()
            await self._serve_names(container_id)
            return self._attached(container_id)

    async def disconnect(self, container_id: str, network_id: str) -> None:
        """Unplug a running container from a network."""
        async with self._lock:
            container = self._known(container_id)
            if network_id not in container.endpoints:
                raise NetworkError(f"container {container_id} is not on network {network_id}")
            endpoint = container.endpoints.pop(network_id)
            del container.attachments[network_id]
            self._own.release(network_id, endpoint.addresses())
            # Rules first: a netdev chain disappears with its device.
            await self._settle()
            await self._on_thread(lambda: self._kernel.disconnect(container_id, network_id))
            await self._route_out(container_id)

    async def rename(self, container_id: str, aliases: Mapping[str, tuple[str, ...]]) -> None:
        """Give a container other names, by network id; unknown ids are fine."""
        async with self._lock:
            container = self._containers.get(container_id)
            if container is None:
                return
            for network_id, names in aliases.items():
                if network_id in container.attachments:
                    before = container.attachments[network_id]
                    container.attachments[network_id] = replace(before, aliases=names)
            await self._settle()

    async def detach(self, container_id: str) -> None:
        """Let a container's namespace go; the kernel drops it. Unknown ids are fine."""
        async with self._lock:
            if container_id in self._containers:
                await self._drop(container_id)
                await self._settle()

    async def _drop(self, container_id: str) -> None:
        container = self._containers.pop(container_id)
        close_all(container.holders)
        if self._resolver is not None:
            self._resolver.detach(container_id)
        for network_id, endpoint in container.endpoints.items():
            self._own.release(network_id, endpoint.addresses())
        await self._on_thread(lambda: self._kernel.drop_container(container_id))
        if any(port.protocol == "udp" for port in container.ports):
            # A datagram flow would keep going to the address, whoever has it next.
            for endpoint in container.endpoints.values():
                for address in endpoint.addresses():
                    await self._on_thread(partial(self._kernel.forget_on_node, address, (UDP,)))

    async def readopt(
        self,
        container_id: str,
        netns_path_or_pid: Path | int,
        endpoints: list[AttachedEndpoint],
        *,
        attachments: list[Attachment],
        host_ports: list[PortBinding],
        upstream: tuple[str, ...] = (),
    ) -> Attached:
        """Take over a container that outlived a restart: its handles, resolver and ports.

        `endpoints` and `host_ports` are what `attach` returned; overlays need their table first.
        """
        path = (
            Path(f"/proc/{netns_path_or_pid}/ns/net")
            if isinstance(netns_path_or_pid, int)
            else netns_path_or_pid
        )
        async with self._lock:
            if any(e.network_id == EGRESS_NETWORK for e in endpoints):
                attachments = [*attachments, Attachment(EGRESS_NETWORK, "bridge")]
            container = _Container(
                {a.network_id: a for a in attachments},
                {e.network_id: e for e in endpoints},
                upstream,
                next_interface=1 + max((int(e.interface[3:]) for e in endpoints), default=-1),
            )
            await self._on_thread(
                lambda: self._kernel.adopt_container(container_id, path, endpoints)
            )
            async with self._entering(container_id, container):
                for endpoint in endpoints:
                    await self._readopt_network(endpoint)
                container.way_out = out = self._way_out(container)
                await self._on_thread(lambda: self._kernel.adopt_ports(container_id, out))
                container.ports = await self._reserve(container, host_ports, anew=False)
            return self._attached(container_id)

    async def _readopt_network(self, endpoint: AttachedEndpoint) -> None:
        if endpoint.network_id == EGRESS_NETWORK and EGRESS_NETWORK not in self._bridges:
            subnet = ip_interface(f"{endpoint.gateway}/{endpoint.prefix}").network
            await self._create_bridge(
                replace(_EGRESS, subnet=str(subnet), gateway=endpoint.gateway)
            )
        table = self._tables.get(endpoint.network_id)
        if endpoint.network_id in self._bridges:
            self._own.take(endpoint.network_id, endpoint.addresses())
        elif table is not None:
            await self._on_thread(lambda: self._kernel.ensure_overlay(table, self._node_id))

    async def _reserve(
        self, container: _Container, wanted: list[PortBinding], *, anew: bool = True
    ) -> tuple[PortBinding, ...]:
        """Hold the ports; one that is not published `anew` stays so whoever has taken it since."""
        way_out = self._way_out(container)
        if wanted and way_out is None:
            raise NetworkError(
                "ports of a container on no network, or on internal ones only, cannot be"
                " published: attach it to a bridge or a network that is not internal"
            )
        bound: list[PortBinding] = []
        opening = self._kernel.node_socket
        for binding in wanted:
            inside = container.endpoints[way_out or ""]
            same_port = per_family(binding, inside)
            try:
                holders = await self._on_thread(partial(self._kernel.hold, same_port))
            except PortTaken as error:
                if anew:
                    raise
                _log.warning("a published port is another program's too: %s", error)
                bound += same_port
                continue
            port = holders[0].getsockname()[1]
            for one, holder in zip(same_port, holders, strict=True):
                container.holders.append(await carried(one, holder, inside, opening))
            bound += [replace(one, host_port=port, host_port_last=0) for one in same_port]
        return tuple(bound)

    async def _serve_names(self, container_id: str) -> None:
        container = self._containers[container_id]
        if container.served or not self._uses_resolver(container):
            return
        if self._resolver is None or self._desired is None:
            return
        listeners = await self._on_thread(lambda: self._kernel.listeners(container_id))
        names = self._desired.names.get(container_id, Names())
        await self._resolver.attach(container_id, listeners, names, self._upstream_of(container))
        container.served = True

    def _upstream_of(self, container: _Container) -> tuple[str, ...]:
        """Return the resolvers of other names: none without a way out, or names would leak."""
        if self._way_out(container) is None:
            return ()
        return container.upstream or self._upstream

    def _uses_resolver(self, container: _Container) -> bool:
        return any(
            not (key in self._bridges and self._bridges[key].default) for key in container.endpoints
        )

    async def connections(self, container_id: str, addresses: Sequence[str]) -> int:
        """Return how many TCP connections to these addresses of a container are open."""
        return await self._on_thread(lambda: self._kernel.connections(container_id, addresses))

    # Cluster

    async def identify(self, node_id: str, data_path_addr: str) -> None:
        """Say which node of a cluster this machine is; overlays opened from now on use it."""
        async with self._lock:
            self._node_id, self._data_path_addr = node_id, data_path_addr
            self._planner = Planner(node_id)
            await self._on_thread(lambda: self._kernel.use_data_path(data_path_addr))

    async def set_tables(self, tables: Mapping[str, NetworkTable]) -> dict[str, int]:
        """Replace the endpoint tables and return {network id: revision} now in effect.

        Returns only once nft, DNS and fdb hold them for every local container. Connections of
        removed backends, and UDP flows of withdrawn ones, are deleted afterwards.
        """
        async with self._lock:
            before = self._tables
            self._tables = dict(tables) if netns.has_ipv6() else self._ipv4_tables.of(tables)
            for table in self._tables.values():
                if table.ingress and self._node_id in table.nodes:
                    await self._on_thread(
                        partial(self._kernel.ensure_overlay, table, self._node_id)
                    )
            await self._settle()
            await self._close_unused_overlays()
            self._spawn(self._forget(before, self._tables), self._forgetting)
            return {key: table.revision for key, table in self._tables.items()}

    async def settled(self) -> None:
        """Wait until the connections that `set_tables` made obsolete are deleted."""
        await asyncio.gather(*self._forgetting)

    async def _close_unused_overlays(self) -> None:
        used = {key for c in self._containers.values() for key in c.endpoints}
        for network_id in set(self._kernel.overlays) - set(self._tables) - used:
            await self._on_thread(partial(self._kernel.remove_overlay, network_id))
        if not self._tables and EGRESS_NETWORK in set(self._bridges) - used:
            await self._remove_bridge(EGRESS_NETWORK)

    async def _forget(
        self, before: Mapping[str, NetworkTable], after: Mapping[str, NetworkTable]
    ) -> None:
        for address, protocols in vanished(before, after):
            self._relays.forget(address, only_datagrams=protocols == (UDP,))
            try:
                await self._on_thread(partial(self._kernel.forget, address, protocols))
            except OSError:
                # They end by their own time-outs.
                _log.exception("connections of the backend %s could not be deleted", address)

    async def _settle(self) -> None:
        desired = self._planner.plan(
            self._tables,
            [self._local(key, c) for key, c in self._containers.items()],
            self._own.planned(),
            await self._on_thread(self._kernel.addresses) if is_at_places(self._tables) else {},
        )
        await self._on_thread(lambda: self._kernel.settle(desired))
        await self._relays.settle(desired.carried)
        self._desired = desired
        if self._resolver is not None:
            for container_id, names in desired.names.items():
                upstream = self._upstream_of(self._containers[container_id])
                self._resolver.update(container_id, names, upstream)

    def _local(self, container_id: str, container: _Container) -> LocalContainer:
        endpoints = container.endpoints
        leading = endpoints.get(self._way_out(container) or next(iter(endpoints), ""))
        return LocalContainer(
            container_id,
            {key: (e.interface, *e.addresses()) for key, e in endpoints.items()},
            names={
                key: a.aliases
                for key, a in container.attachments.items()
                if not (key in self._bridges and self._bridges[key].default)
            },
            links={key: a.links for key, a in container.attachments.items() if a.links},
            ports=container.ports,
            port_address=leading.address if leading is not None else "",
            ipv6_port_address=leading.ipv6_address if leading is not None else "",
        )

    def _way_out(self, container: _Container) -> str | None:
        """Return the network that leads out of the container, if any.

        That is the bridge of the highest priority, then the first by name; else the ingress
        network, whose gateway is this node.
        """
        endpoints, bridges = container.endpoints, self._bridges
        leading = [key for key in endpoints if key in bridges and not bridges[key].internal]
        if leading:
            wishes = container.attachments
            return min(leading, key=lambda key: (-wishes[key].priority, bridges[key].name))
        return next((key for key in endpoints if self._is_ingress(key)), None)

    def _is_ingress(self, network_id: str) -> bool:
        table = self._tables.get(network_id)
        return table is not None and table.ingress

    # Drift

    def drift_repaired_total(self) -> int:
        """Return how many things had drifted from the plan and were repaired."""
        return self._drift_repaired

    async def verify(self) -> int:
        """Read the kernel back now, repair drift and return how much there was."""
        async with self._lock:
            if is_at_places(self._tables):
                await self._settle()  # addresses of the node come and go
            desired = self._desired
            if desired is None:
                return 0
            await self._relays.settle(desired.carried)
            repaired = await self._on_thread(lambda: self._kernel.verify(desired))
            used = {p: in_use(t) for t in self._tables.values() for p in t.subnets()}
            self._turn += 1
            repaired += await self._on_thread(lambda: self._kernel.forget_dead(used, self._turn))
        for container_id in list(self._containers):
            # One by one: who attaches or sets tables meanwhile does not wait for all of them.
            async with self._lock:
                look = partial(self._kernel.verify_container, container_id)
                repaired += await self._on_thread(look)
        self._drift_repaired += repaired
        return repaired

    # The thread

    @property
    def _kernel(self) -> Host:
        if self._host is None:
            raise NetworkError("the network is not started")
        return self._host

    def _known(self, container_id: str) -> _Container:
        container = self._containers.get(container_id)
        if container is None:
            raise NetworkError(f"container {container_id} is not attached")
        return container

    async def _on_thread(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, action)

    def _spawn(self, work: Coroutine[Any, Any, None], group: set[asyncio.Task[None]]) -> None:
        task = asyncio.ensure_future(work)
        group.add(task)
        task.add_done_callback(group.discard)
