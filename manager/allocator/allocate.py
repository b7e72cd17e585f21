"""The allocator: subnets, mesh shares, endpoints and addresses, once per turn.

What is in use is an index of the View, kept by apply; a released address stays in it through
its quarantine record until no node's table can name it any more.
"""

import itertools
from functools import partial
from ipaddress import ip_address, ip_network

from manager.allocator.networks import Addresses, addresses_of, choose
from manager.allocator.ports import allocate_ports, needs_ingress
from manager.store.changes import (
    Delete,
    SetAddresses,
    SetLeaseAddress,
    SetNetworkAllocation,
    SetNodeMesh,
    SetServiceEndpoint,
)
from manager.store.turn import NOT_COMMITTED, Turn
from manager.store.view import NEW, View, is_unallocated
from swarmapi.model import defaults
from swarmapi.model.objects import (
    Network,
    NetworkAddress,
    NetworkLease,
    Service,
    ServiceEndpoint,
    Task,
    TaskState,
    VirtualIP,
)
from swarmapi.model.spec import ServiceSpec

Taken = tuple[str, str]
"""An IPv4 address and an IPv6 one, with prefix lengths; the second is empty without IPv6."""


def allocate(turn: Turn) -> None:
    """Give out whatever is owed and free."""
    work = _Allocation(turn)
    work.release()
    for network_id in sorted(turn.view.unallocated.of("network")):
        work.network(turn.view.networks[network_id])
    for node_id in sorted(turn.view.unallocated.of("node")):
        work.node(node_id)
    for service_id in sorted(turn.view.unallocated.of("service")):
        work.service(turn.view.services[service_id])
    for lease_id in sorted(turn.view.unallocated.of("lease")):
        work.lease(turn.view.leases[lease_id])
    for task in turn.view.tasks_in(NEW):
        if turn.is_full():
            turn.wake_at(turn.now_ns)
            return
        work.task(task)


class _Allocation:
    """The allocator's work of one turn, with its pools."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._pools: dict[str, Addresses] = {}
        self._mesh_slots: set[int] | None = None
        self._holders: dict[str, list[str]] | None = None
        """Network id to the nodes that have acknowledged a table of it, made at first need."""

    def release(self) -> None:
        """End the quarantine of addresses that no node's table names any more.

        A network's records are in the order of their indexes, so only those that end are looked at.
        """
        view = self._turn.view
        for network_id in view.quarantine.filled():
            network = view.networks.get(network_id)
            known = self._known_by_all(network) if network is not None else NOT_COMMITTED
            queue = view.quarantine.of(network_id).items()
            free = list(itertools.takewhile(partial(_is_within, known), queue))
            for record_id, _ in free:
                if self._turn.is_full():
                    self._turn.wake_at(self._turn.now_ns)
                    return
                reason = "no node's table names it any more"
                self._turn.emit(Delete(object="quarantined", id=record_id, reason=reason))

    def _known_by_all(self, network: Network) -> int:
        """Return the table revision that every node with the table has, any without such nodes."""
        acks, nodes = self._turn.acks, self._turn.view.nodes
        if self._holders is None:
            self._holders = {}
            for node_id, known in acks.items():
                for network_id in known:
                    self._holders.setdefault(network_id, []).append(node_id)
        holders = {*self._turn.view.participants(network), *self._holders.get(network.id, ())}
        revisions = (acks.get(n, {}).get(network.id, 0) for n in holders if n in nodes)
        return min(revisions, default=NOT_COMMITTED)

    def network(self, network: Network) -> None:
        """Give a network its subnets, gateways and VXLAN id."""
        if self._turn.is_full():
            self._turn.wake_at(self._turn.now_ns)
            return
        pools, vni, error = choose(self._turn.view, network.spec)
        if error and error == network.error:
            return
        self._turn.emit(
            SetNetworkAllocation(
                network_id=network.id,
                subnet=pools[0].subnet if pools else "",
                gateway=pools[0].gateway if pools else "",
                further=pools[1:],
                vni=vni,
                error=error,
                reason=error or "allocated",
            )
        )

    def node(self, node_id: str) -> None:
        """Give a node its share of mesh ports and its address on the ingress network."""
        if self._turn.is_full():
            self._turn.wake_at(self._turn.now_ns)
            return
        view = self._turn.view
        node, ingress = view.nodes[node_id], view.ingress_network()
        slot, address, ipv6 = node.mesh_slot, node.ingress_address, node.ingress_ipv6
        if slot < 0:
            slot = self._mesh_slot()
        if not address and ingress is not None and ingress.subnet:
            address, ipv6 = self._take(ingress) or ("", "")
        if (slot, address) != (node.mesh_slot, node.ingress_address):
            self._turn.emit(
                SetNodeMesh(
                    node_id=node_id,
                    ingress_address=address,
                    ingress_ipv6=ipv6,
                    mesh_slot=slot,
                    reason="part of the routing mesh",
                )
            )

    def _mesh_slot(self) -> int:
        """Return the lowest share that no node has."""
        if self._mesh_slots is None:
            self._mesh_slots = {n.mesh_slot for n in self._turn.view.nodes.values()}
        slot = next(i for i in range(len(self._mesh_slots) + 1) if i not in self._mesh_slots)
        self._mesh_slots.add(slot)
        return slot

    def service(self, service: Service) -> None:
        """Give a service its ports and VIPs; what it had and still needs is kept."""
        if self._turn.is_full():
            self._turn.wake_at(self._turn.now_ns)
            return
        endpoint = self._endpoint(service)
        if endpoint is not None and endpoint != service.endpoint:
            reason = endpoint.error or "allocated"
            self._turn.emit(
                SetServiceEndpoint(service_id=service.id, endpoint=endpoint, reason=reason)
            )

    def _endpoint(self, service: Service) -> ServiceEndpoint | None:
        view, old = self._turn.view, service.endpoint
        record = view.specs.get((service.id, service.spec_version))
        networks = [view.networks.get(i) for i in (record.networks if record else ())]
        ports, error = allocate_ports(view, service)
        mode = defaults.endpoint_mode(service.spec)
        if not error and needs_ingress(service.spec) and not any(_is_mesh(n) for n in networks):
            error = "ports in ingress mode need the ingress network: create it, then update again"
        vips: list[VirtualIP] = []
        for network in networks if mode == "vip" and not error else ():
            if network is None or network.error:
                error = network.error if network is not None else "a network of it is gone"
                break
            if not network.subnet:
                return None
            vip = next((v for v in old.vips if v.network_id == network.id), None)
            if vip is None:
                taken = self._take(network)
                if taken is None:
                    error = _no_address(network)
                    break
                vip = VirtualIP(network_id=network.id, address=taken[0], ipv6_address=taken[1])
            vips.append(vip)
        if error:
            # Until the new one fits, the old allocation goes on serving the running tasks.
            spec_version = old.spec_version if old.spec_version != service.spec_version else 0
            return ServiceEndpoint(
                mode=old.mode,
                ports=old.ports,
                vips=old.vips,
                error=error,
                spec_version=spec_version,
            )
        return ServiceEndpoint(
            mode=mode, ports=ports, vips=tuple(vips), spec_version=service.spec_version
        )

    def lease(self, lease: NetworkLease) -> None:
        """Give a container's lease its address, or say why there is none."""
        if self._turn.is_full():
            self._turn.wake_at(self._turn.now_ns)
            return
        network = self._turn.view.networks[lease.network_id]
        if not network.subnet and not network.error:
            return
        taken, error = None, network.error
        if network.subnet:
            taken = self._take(network, lease.wanted, lease.wanted_ipv6)
            error = "" if taken else _no_address(network, lease.wanted, lease.wanted_ipv6)
        self._turn.emit(
            SetLeaseAddress(
                lease_id=lease.id,
                address=taken[0] if taken else "",
                ipv6_address=taken[1] if taken else "",
                error=error,
                reason=error or "leased to a container",
            )
        )

    def task(self, task: Task) -> None:
        """Give a NEW task its addresses; it waits for its service and all its networks."""
        view = self._turn.view
        service, record = view.services.get(task.service_id), view.spec_of(task)
        if service is None or record is None or is_unallocated(service):
            return
        networks = [view.networks.get(i) for i in record.networks]
        leases: list[NetworkAddress] = []
        for network in networks:
            if network is None or not network.subnet:
                return
            taken = self._take(network)
            if taken is None:
                return
            leases.append(
                NetworkAddress(
                    network_id=network.id,
                    address=taken[0],
                    ipv6_address=taken[1],
                    aliases=_aliases(record.spec, network),
                )
            )
        self._turn.emit(
            SetAddresses(task_id=task.id, addresses=tuple(leases), reason="pending task scheduling")
        )

    def _take(self, network: Network, *wanted: str) -> Taken | None:
        """Return an address of each family, those `wanted` among them; none without IPv6."""
        free = self._pools.get(network.id)
        if free is None:
            free = self._pools[network.id] = addresses_of(self._turn.view, network)
        return take(free, network, *wanted)


def take(free: Addresses, network: Network, ipv4: str = "", ipv6: str = "") -> Taken | None:
    """Return an IPv4 address of a network, the one asked for if any, and an IPv6 one or "".

    None when one of them cannot be had.
    """
    own = free.take_this(ipv4) if ipv4 else free.take()
    if own is None or not (network.has_ipv6() or ipv6):
        return None if own is None else (own, "")
    other = free.take_this(ipv6) if ipv6 else free.take(ipv6=True)
    return None if other is None else (own, other)


def _no_address(network: Network, *wanted: str) -> str:
    """Say what cannot be had: one of those asked for, else any."""
    name = network.spec.name
    subnets = [pool.subnet for pool in network.pools()]
    for address in filter(None, wanted):
        if not any(ip_address(address) in ip_network(subnet) for subnet in subnets):
            return f"address {address} is not in subnet {', '.join(subnets)} of network {name}"
    if any(wanted):
        asked = " or ".join(filter(None, wanted))
        return f"address {asked} is in use or reserved on network {name}"
    ranges = [defaults.pool_asked(network.spec, subnet).ip_range or subnet for subnet in subnets]
    return f"network {name} has no free address in {', '.join(ranges)}"


def _is_within(known: int, record: tuple[str, int]) -> bool:
    return record[1] <= known


def _is_mesh(network: Network | None) -> bool:
    return network is not None and network.spec.ingress


def waiting_for(view: View, task: Task) -> str:
    """Return what of the allocator's a NEW task waits for, empty when for nothing."""
    service, record = view.services.get(task.service_id), view.spec_of(task)
    if task.status.state != TaskState.NEW or service is None or record is None:
        return ""
    if is_unallocated(service):
        return service.endpoint.error or "its service is not allocated yet"
    for network in (view.networks.get(i) for i in record.networks):
        if network is None:
            return "a network of its service is gone"
        if not network.subnet:
            return network.error or f"network {network.spec.name} is not allocated yet"
        if take(addresses_of(view, network), network) is None:
            return _no_address(network)
    return ""


def _aliases(spec: ServiceSpec, network: Network) -> tuple[str, ...]:
    for attachment in spec.task_template.networks or spec.networks or ():
        if attachment.target in (network.id, network.spec.name):
            return attachment.aliases or ()
    return ()
