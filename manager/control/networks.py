"""Networks of the cluster (overlay): create, list, remove."""

from typing import Final

from msgspec.structs import replace

from manager.allocator.networks import choose
from manager.control.lookup import (
    Filters,
    find_network,
    matches_labels,
    matches_one,
    matches_prefix,
)
from manager.control.validate import check_network
from manager.replica import Store
from manager.store.changes import Delete, PutNetwork
from manager.store.expect import lease_on, service_on
from manager.store.view import View
from swarmapi.errors import AlreadyExists, FailedPrecondition
from swarmapi.model.objects import Network
from swarmapi.model.spec import NetworkSpec

STOPPING_LIMIT_S: Final = 60.0
"""How long a removal waits for tasks; most stop within their grace period of 10 s."""
FILTERS: Final = ("id", "name", "label", "driver", "scope", "type", "dangling")


async def create_network(store: Store, spec: NetworkSpec, request_id: str = "") -> Network:
    """Create a network and return it; its subnet is allocated afterwards.

    Raises:
        SwarmError: invalid, the name is taken, or there is no such subnet or VXLAN id to give.
    """
    spec = replace(spec, driver=spec.driver or "overlay")
    check_network(spec)
    network_id = store.object_id(request_id)
    ingress = store.view.ingress_network()
    if spec.ingress and ingress is not None and ingress.id != network_id:
        raise AlreadyExists(f"the cluster already has the ingress network {ingress.spec.name}")
    if store.view.by_name("network", spec.name) not in (None, network_id):
        raise AlreadyExists(f"network with name {spec.name} already exists")
    if network_id not in store.view.networks and (error := choose(store.view, spec).error):
        raise FailedPrecondition(error)
    network = Network(id=network_id, spec=spec)
    change = PutNetwork(network=network, expect_version=0, reason="network created")
    await store.propose((change,), request_id)
    return store.made(store.view.networks.get(network.id), spec.name)


async def remove_network(store: Store, key: str, request_id: str = "") -> None:
    """Remove a network that neither a service nor a task uses.

    Tasks that are stopping are waited for: what removes a stack asks for all of it at once.

    Raises:
        SwarmError: there is none, or it is in use.
    """
    if store.knows(request_id):
        return
    network = find_network(store.view, key)
    if service_on(store.view, network.id) is None and lease_on(store.view, network.id) is None:
        await store.until(lambda view: not view.members_of.of(network.id), STOPPING_LIMIT_S)
    change = Delete(object="network", id=network.id, reason="network removed")
    await store.propose((change,), request_id)


def list_networks(view: View, filters: Filters) -> list[Network]:
    """Return the networks that match, by id."""
    return [
        n
        for _, n in sorted(view.networks.items())
        if matches_prefix(filters, "id", n.id)
        and _has_name(filters, n.spec.name)
        and matches_labels(filters, "label", n.spec.labels)
        and matches_one(filters, "driver", "overlay")
        and matches_one(filters, "scope", "swarm")
        and matches_one(filters, "type", "custom")
        and matches_one(filters, "dangling", str(not view.members_of.of(n.id)).lower())
    ]


def _has_name(filters: Filters, name: str) -> bool:
    wanted = filters.get("name")
    return wanted is None or any(w in name for w in wanted)
