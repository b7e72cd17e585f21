"""Endpoint tables, derived from the View alone."""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from manager.store.ports import place_of
from manager.store.view import View, bare
from swarmapi.model import defaults
from swarmapi.model.objects import Network, NetworkLease, Node, NodeState, Service, Task
from swarmapi.model.tables import (
    NetworkTable,
    NodeEntry,
    PublishedPort,
    ServiceEntry,
    TaskEndpoint,
)

MESH_FIRST_PORT: Final = 5536
MESH_PORTS: Final = 60_000
MESH_SHARES: Final = 16
MTU: Final = 1450
MTU_OPTION: Final = "com.docker.network.driver.mtu"


def network_table(view: View, network_id: str) -> NetworkTable | None:
    """Return the table of a network, or None while it has no subnet or does not exist."""
    network = view.networks.get(network_id)
    if network is None or not network.subnet:
        return None
    nodes = sorted(view.participants(network))
    known = [view.nodes[n] for n in nodes if n in view.nodes]
    members = [node for node in known if _has_place(node, network)]
    places = {node.id: node for node in members}
    tasks = (view.tasks[i] for i in sorted(view.endpoints_of.of(network_id)))
    placed = [task for task in tasks if task.node_id in places]
    endpoints = {task.id: _endpoint(task, network_id) for task in placed}
    endpoints |= {lease.container_id: _container(lease) for lease in _leases(view, network, places)}
    endpoints = {key: _reachable(e, places[e.node_id]) for key, e in endpoints.items()}
    service_ids = {task.service_id for task in placed} | view.vips_of.of(network_id)
    services = {
        i: _service(view.services[i], network) for i in sorted(service_ids) if i in view.services
    }
    shares = mesh_shares(view) if network.spec.ingress else 0
    return NetworkTable(
        network_id=network_id,
        name=network.spec.name,
        revision=network.table_index,
        subnet=network.subnet,
        gateway=network.gateway,
        further_subnets=tuple(pool.subnet for pool in network.further),
        vni=network.vni,
        mtu=_mtu(network),
        ingress=network.spec.ingress,
        internal=network.spec.internal,
        services=services,
        endpoints=endpoints,
        nodes={n.id: _node(n, network, shares) for n in members},
    )


def tables_of_node(view: View, node_id: str) -> tuple[str, ...]:
    """Return ids of the networks whose tables a node holds, in order."""
    ids = set(view.networks_of.of(node_id))
    ingress = view.ingress_network()
    if ingress is not None and node_id in view.nodes:
        ids.add(ingress.id)
    return tuple(sorted(i for i in ids if i in view.networks and view.networks[i].subnet))


def mesh_shares(view: View) -> int:
    """Return into how many shares the mesh's source ports are cut: 16, then doubling."""
    highest = max((n.mesh_slot for n in view.nodes.values()), default=-1)
    shares = MESH_SHARES
    while shares <= highest:
        shares *= 2
    return shares


def mesh_ports(slot: int, shares: int) -> tuple[int, int]:
    """Return the inclusive range of source ports of one share; (0, 0) for no share."""
    size = MESH_PORTS // shares if shares else 0
    if slot < 0 or not size:
        return (0, 0)
    first = MESH_FIRST_PORT + slot * size
    return (first, first + size - 1)


def task_name(task: Task) -> str:
    """Return `service.slot.taskid`, with the node's id as slot of a global task."""
    return f"{task.service_name}.{task.slot or task.node_id}.{task.id}"


def _endpoint(task: Task, network_id: str) -> TaskEndpoint:
    own = next(a for a in task.addresses if a.network_id == network_id)
    return TaskEndpoint(
        task_id=task.id,
        service_id=task.service_id,
        node_id=task.node_id,
        name=task_name(task),
        address=bare(own.address),
        ipv6_address=bare(own.ipv6_address),
        state=task.endpoint.state,
    )


def _reachable(endpoint: TaskEndpoint, node: Node) -> TaskEndpoint:
    """Return an endpoint with the addresses that its node's kernel can give it."""
    return endpoint if node.description.ipv6 else replace(endpoint, ipv6_address="")


def _leases(view: View, network: Network, places: Mapping[str, Node]) -> list[NetworkLease]:
    """Return the leases of running containers; nobody finds those on a node that is down."""
    leases = (view.leases[i] for i in sorted(view.leases_of.of(network.id)))
    up = [lease for lease in leases if lease.is_up and lease.address and lease.node_id in places]
    return [lease for lease in up if places[lease.node_id].state is not NodeState.DOWN]


def _container(lease: NetworkLease) -> TaskEndpoint:
    name, *aliases = lease.names or (lease.container_id[:12],)
    return TaskEndpoint(
        task_id=lease.container_id,
        service_id="",
        node_id=lease.node_id,
        name=name,
        address=bare(lease.address),
        ipv6_address=bare(lease.ipv6_address),
        aliases=tuple(aliases),
    )


def _service(service: Service, network: Network) -> ServiceEntry:
    is_virtual = defaults.endpoint_mode(service.spec) == "vip"
    vips = service.endpoint.vips if is_virtual else ()
    vip = next((v for v in vips if v.network_id == network.id), None)
    ports: tuple[PublishedPort, ...] = ()
    if network.spec.ingress:
        ports = tuple(
            PublishedPort(
                protocol=p.protocol or "tcp",
                published=p.published_port,
                target=p.target_port,
                place=place_of(p),
                source=p.source,
            )
            for p in service.endpoint.ports
            if p.publish_mode != "host"
        )
    attached = service.spec.task_template.networks or service.spec.networks or ()
    aliases = next(
        (a.aliases or () for a in attached if a.target in (network.id, network.spec.name)), ()
    )
    return ServiceEntry(
        service_id=service.id,
        name=service.spec.name,
        vip=bare(vip.address) if vip is not None else "",
        ipv6_vip=bare(vip.ipv6_address) if vip is not None else "",
        aliases=aliases,
        ports=ports,
        sticky=defaults.is_sticky(service.spec),
    )


def _has_place(node: Node, network: Network) -> bool:
    """Tell whether others can name it: it has said its data path, and has its ingress address."""
    return bool(node.data_path) and (not network.spec.ingress or bool(node.ingress_address))


def _node(node: Node, network: Network, shares: int) -> NodeEntry:
    if not network.spec.ingress:
        return NodeEntry(node_id=node.id, data_path=node.data_path)
    return NodeEntry(
        node_id=node.id,
        data_path=node.data_path,
        gateway=bare(node.ingress_address),
        ipv6_gateway=bare(node.ingress_ipv6) if node.description.ipv6 else "",
        mesh_ports=mesh_ports(node.mesh_slot, shares),
    )


def _mtu(network: Network) -> int:
    given = (network.spec.options or {}).get(MTU_OPTION, "")
    return int(given) if given.isdigit() else MTU
