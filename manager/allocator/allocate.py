"""The allocator: subnets, mesh shares, endpoints and addresses, once per turn.

What is in use is an index of the View, kept by apply; a released address stays in it through
its quarantine record until no node's table can name it any more.
"""

import itertools
from functools import partial
from ipaddress import IPv4Address, IPv4Network

from manager.allocator.networks import asked, choose, pool_of
from manager.allocator.pools import AddressPool
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
        self._pools: dict[str, AddressPool] = {}
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
        """Give a network its subnet, gateway and VXLAN id."""
        if self._turn.is_full():
            self._turn.wake_at(self._turn.now_ns)
            return
        subnet, gateway, vni, error = choose(self._turn.view, network.spec)
        if error and error == network.error:
            return
        self._turn.emit(
            SetNetworkAllocation(
                network_id=network.id,
                subnet=subnet,
                gateway=gateway,
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
        slot, address = node.mesh_slot, node.ingress_address
        if slot < 0:
            slot = self._mesh_slot()
        if not address and ingress is not None and ingress.subnet:
            address = self._take(ingress) or ""
        if (slot, address) != (node.mesh_slot, node.ingress_address):
            self._turn.emit(
                SetNodeMesh(
                    node_id=node_id,
                    ingress_address=address,
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
            kept = next((v for v in old.vips if v.network_id == network.id), None)
            address = kept.address if kept is not None else self._take(network)
            if address is None:
                error = _no_address(network, "")
                break
            vips.append(VirtualIP(network_id=network.id, address=address))
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
        address, error = None, network.error
        if network.subnet:
            address = self._take(network, lease.wanted)
            error = "" if address else _no_address(network, lease.wanted)
        self._turn.emit(
            SetLeaseAddress(
                lease_id=lease.id,
                address=address or "",
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
            address = self._take(network)
            if address is None:
                return
            aliases = _aliases(record.spec, network)
            leases.append(NetworkAddress(network_id=network.id, address=address, aliases=aliases))
        self._turn.emit(
            SetAddresses(task_id=task.id, addresses=tuple(leases), reason="pending task scheduling")
        )

    def _take(self, network: Network, wanted: str = "") -> str | None:
        pool = self._pools.get(network.id)
        if pool is None:
            pool = self._pools[network.id] = pool_of(self._turn.view, network)
        return pool.take_this(wanted) if wanted else pool.take()


def _no_address(network: Network, wanted: str) -> str:
    if not wanted:
        where = asked(network.spec).ip_range or network.subnet
        return f"network {network.spec.name} has no free address in {where}"
    if IPv4Address(wanted) not in IPv4Network(network.subnet):
        return f"address {wanted} is not in subnet {network.subnet} of network {network.spec.name}"
    return f"address {wanted} is in use or reserved on network {network.spec.name}"


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
        if pool_of(view, network).take() is None:
            return _no_address(network, "")
    return ""


def _aliases(spec: ServiceSpec, network: Network) -> tuple[str, ...]:
    for attachment in spec.task_template.networks or spec.networks or ():
        if attachment.target in (network.id, network.spec.name):
            return attachment.aliases or ()
    return ()
