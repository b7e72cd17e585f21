"""What a network is given: subnets, gateways and VXLAN id. Pure."""

import hashlib
from collections.abc import Sequence
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from manager.allocator.pools import AddressPool, free_subnet, is_ipv6, overlapping
from manager.store.view import View, bare
from swarmapi.model.defaults import pool_asked, vxlan_id
from swarmapi.model.objects import Network, NetworkPool
from swarmapi.model.spec import IPAMPool, NetworkSpec

MAX_VNI: Final = (1 << 24) - 1
_FIRST_VNI: Final = 4096
_IPV6_PREFIX: Final = 64


class Allocation(NamedTuple):
    """What it is given, or why it cannot be."""

    pools: tuple[NetworkPool, ...] = ()
    """The first is IPv4's."""
    vni: int = 0
    error: str = ""


class Addresses:
    """The free addresses of a network, of all its subnets."""

    def __init__(self, pools: Sequence[AddressPool]) -> None:
        self._pools = pools

    def take(self, *, ipv6: bool = False) -> str | None:
        """Return an address of a family with prefix length, from the first subnet with one."""
        found = (pool.take() for pool in self._pools if pool.is_ipv6 == ipv6)
        return next((address for address in found if address is not None), None)

    def take_this(self, wanted: str) -> str | None:
        """Return `wanted` with prefix length, or None when it cannot be had."""
        found = (pool.take_this(wanted) for pool in self._pools)
        return next((address for address in found if address is not None), None)


def choose(view: View, spec: NetworkSpec) -> Allocation:
    """Return what a network of this spec gets now."""
    used = _subnets(view)
    pools: list[NetworkPool] = []
    for wish in _wishes(spec):
        if wish.pool.subnet:
            subnet, error = _given_subnet(view, str(ip_network(wish.pool.subnet)), used)
        else:
            subnet, error = _free_subnet(view, used, ipv6=wish.is_ipv6)
        if error:
            return Allocation(error=error)
        used.append(subnet)
        pools.append(NetworkPool(subnet=subnet, gateway=_gateway(subnet, wish.pool)))
    vni, error = _vni(view, vxlan_id(spec))
    return Allocation(error=error) if error else Allocation(tuple(pools), vni)


class _Wish(NamedTuple):
    is_ipv6: bool
    pool: IPAMPool


def _wishes(spec: NetworkSpec) -> list[_Wish]:
    """Return the subnets a network is to have: IPv4's first, one of each family at least."""
    asked = [pool for pool in (spec.ipam and spec.ipam.config) or () if pool.subnet]
    wishes: list[_Wish] = []
    for ipv6 in (False, True) if spec.enable_ipv6 else (False,):
        own = [_Wish(ipv6, pool) for pool in asked if is_ipv6(pool.subnet) == ipv6]
        wishes += own or [_Wish(ipv6, IPAMPool())]
    return wishes


def _gateway(subnet: str, asked: IPAMPool) -> str:
    reserved = set((asked.auxiliary_addresses or {}).values())
    if asked.gateway:
        return str(ip_address(bare(asked.gateway)))
    return next(str(host) for host in ip_network(subnet).hosts() if str(host) not in reserved)


def addresses_of(view: View, network: Network) -> Addresses:
    """Return the free addresses of a network that has its subnets."""
    used = view.addresses_of.of(network.id)
    pools = []
    for pool in network.pools():
        asked = pool_asked(network.spec, pool.subnet)
        reserved = (asked.auxiliary_addresses or {}).values()
        pools.append(AddressPool(pool.subnet, pool.gateway, {*used, *reserved}, asked.ip_range))
    return Addresses(pools)


def _subnets(view: View) -> list[str]:
    return [pool.subnet for n in view.networks.values() for pool in n.pools()]


def _given_subnet(view: View, subnet: str, used: Sequence[str]) -> tuple[str, str]:
    other = overlapping(subnet, used)
    if other:
        return "", f"subnet {subnet} overlaps {other}: choose another one"
    for node_id in sorted(view.nodes):
        node = view.nodes[node_id]
        route = overlapping(subnet, node.description.routes)
        if route:
            name = node.description.hostname or node_id
            return "", f"subnet {subnet} overlaps the route {route} of node {name}: choose another"
    return subnet, ""


def _free_subnet(view: View, used: Sequence[str], *, ipv6: bool) -> tuple[str, str]:
    """Keep off the nodes' routes, unless these leave nothing: a node may be in all of 10/8."""
    if ipv6:
        pools, size = [_local_prefix(view)], _IPV6_PREFIX
    elif view.cluster is not None:
        pools, size = list(view.cluster.address_pools), view.cluster.subnet_size
    else:
        pools, size = ["10.0.0.0/8"], 24
    taken = [one for one in used if is_ipv6(one) == ipv6]
    routes = {
        route
        for node in view.nodes.values()
        for route in node.description.routes
        if is_ipv6(route) == ipv6
    }
    found = free_subnet(pools, size, [*taken, *sorted(routes)]) or free_subnet(pools, size, taken)
    return (
        (found, "") if found else ("", f"no free /{size} in the address pools {', '.join(pools)}")
    )


def _local_prefix(view: View) -> str:
    """Return the cluster's unique local prefix (RFC 4193), which follows from its id."""
    seed = view.cluster.id if view.cluster is not None else ""
    return str(IPv6Network((b"\xfd" + hashlib.sha256(seed.encode()).digest()[:5] + bytes(10), 48)))


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
