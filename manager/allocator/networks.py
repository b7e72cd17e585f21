"""What a network is given: subnet, gateway and VXLAN id. Pure."""

from ipaddress import IPv4Network
from typing import Final, NamedTuple

from manager.allocator.pools import AddressPool, free_subnet, overlapping
from manager.store.view import View, bare
from swarmapi.model.defaults import vxlan_id
from swarmapi.model.objects import Network
from swarmapi.model.spec import IPAMPool, NetworkSpec

MAX_VNI: Final = (1 << 24) - 1
_FIRST_VNI: Final = 4096


class Allocation(NamedTuple):
    """What it is given, or why it cannot be."""

    subnet: str = ""
    gateway: str = ""
    vni: int = 0
    error: str = ""


def choose(view: View, spec: NetworkSpec) -> Allocation:
    """Return what a network of this spec gets now."""
    pool = asked(spec)
    reserved = list((pool.auxiliary_addresses or {}).values())
    subnet, error = _given_subnet(view, pool.subnet) if pool.subnet else _free_subnet(view)
    if error:
        return Allocation(error=error)
    vni, error = _vni(view, vxlan_id(spec))
    if error:
        return Allocation(error=error)
    hosts = map(str, IPv4Network(subnet).hosts())
    gateway = bare(pool.gateway) or next(host for host in hosts if host not in reserved)
    return Allocation(subnet, gateway, vni)


def asked(spec: NetworkSpec) -> IPAMPool:
    """Return the subnet that a spec asks for; an empty one when it leaves that open."""
    return next(iter((spec.ipam and spec.ipam.config) or ()), IPAMPool())


def pool_of(view: View, network: Network) -> AddressPool:
    """Return the addresses of a network that has its subnet."""
    pool = asked(network.spec)
    reserved = (pool.auxiliary_addresses or {}).values()
    used = {*view.addresses_of.of(network.id), *reserved}
    return AddressPool(network.subnet, network.gateway, used, pool.ip_range)


def _subnets(view: View) -> list[str]:
    return [n.subnet for n in view.networks.values() if n.subnet]


def _given_subnet(view: View, subnet: str) -> tuple[str, str]:
    other = overlapping(subnet, _subnets(view))
    if other:
        return "", f"subnet {subnet} overlaps {other}: choose another one"
    for node_id in sorted(view.nodes):
        node = view.nodes[node_id]
        route = overlapping(subnet, node.description.routes)
        if route:
            name = node.description.hostname or node_id
            return "", f"subnet {subnet} overlaps the route {route} of node {name}: choose another"
    return subnet, ""


def _free_subnet(view: View) -> tuple[str, str]:
    """Keep off the nodes' routes, unless these leave nothing: a node may be in all of 10/8."""
    pools = view.cluster.address_pools if view.cluster is not None else ("10.0.0.0/8",)
    size = view.cluster.subnet_size if view.cluster is not None else 24
    used = _subnets(view)
    routes = {route for node in view.nodes.values() for route in node.description.routes}
    found = free_subnet(pools, size, [*used, *sorted(routes)]) or free_subnet(pools, size, used)
    return (
        (found, "") if found else ("", f"no free /{size} in the address pools {', '.join(pools)}")
    )


def _vni(view: View, wanted: int) -> tuple[int, str]:
    """Numbers go upwards, so that none is used again soon, past those that were asked for."""
    taken = {n.vni: n.spec.name for n in view.networks.values() if n.vni}
    if wanted:
        name = taken.get(wanted)
        return wanted, f"VXLAN id {wanted} is network {name}'s: choose another" if name else ""
    vni = (view.cluster.last_vni if view.cluster is not None else _FIRST_VNI) + 1
    while vni in taken:
        vni += 1
    return vni, "no VXLAN id is left" if vni > MAX_VNI else ""
