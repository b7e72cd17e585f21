"""Subnets, addresses, VIPs, ports, mesh shares, quarantine."""

from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from manager.allocator.networks import addresses_of, choose
from manager.allocator.pools import AddressPool, free_subnet
from manager.allocator.ports import port_conflict
from manager.control.ports import check_ports
from manager.scheduler.schedule import explain
from manager.store import changes as c
from manager.store.ports import place_of, shown
from manager.store.snapshot import dump, restore
from manager.store.tables import mesh_ports, network_table, tables_of_node
from manager.store.view import bare
from swarmapi.errors import InvalidArgument
from swarmapi.model.defaults import VXLAN_OPTION
from swarmapi.model.objects import Network, NodeDescription, TaskState
from swarmapi.model.spec import IPAMConfig, IPAMPool, NetworkSpec
from tests.builders import World, node, port, spec


def started(*, ingress: bool = True) -> World:
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    if ingress:
        made.add_network("ingress", ingress=True)
        made.settle()
    made.add_network("net")
    made.settle()
    return made


def test_networks_get_subnet_gateway_and_vni() -> None:
    made = started()
    ingress, net = made.view.networks["ingress"], made.view.networks["net"]
    assert (ingress.subnet, ingress.gateway, ingress.vni) == ("10.0.0.0/24", "10.0.0.1", 4097)
    assert (net.subnet, net.gateway, net.vni) == ("10.0.1.0/24", "10.0.1.1", 4098)


def test_asked_subnet_is_given_or_refused() -> None:
    made = started()
    for name, subnet in (("free", "172.20.0.0/16"), ("taken", "10.0.1.128/25")):
        config = IPAMConfig(config=(IPAMPool(subnet=subnet),))
        given = NetworkSpec(name=name, driver="overlay", ipam=config)
        made.commit(c.PutNetwork(network=Network(id=name, spec=given)))
    made.settle()
    assert made.view.networks["free"].subnet == "172.20.0.0/16"
    assert made.view.networks["taken"].subnet == ""
    assert "overlaps 10.0.1.0/24" in made.view.networks["taken"].error


def asked(subnet: str = "", vni: int = 0, **more: Any) -> NetworkSpec:
    pool = IPAMPool(subnet=subnet, **more) if subnet else None
    ipam = IPAMConfig(config=(pool,)) if pool else None
    options = {VXLAN_OPTION: str(vni)} if vni else None
    return NetworkSpec(name="n", driver="overlay", ipam=ipam, options=options)


def test_addresses_come_from_the_range_and_never_the_reserved_ones() -> None:
    made = World()
    made.add_nodes(node("n1"))
    reserved = {"router": "10.9.0.1", "printer": "10.9.0.9"}
    given = asked("10.9.0.0/24", ip_range="10.9.0.8/30", auxiliary_addresses=reserved)
    made.commit(c.PutNetwork(network=Network(id="n", spec=given)))
    made.settle()
    network = made.view.networks["n"]
    assert network.gateway == "10.9.0.2"
    pool = addresses_of(made.view, network)
    assert [pool.take() for _ in range(4)] == [
        "10.9.0.10/24",
        "10.9.0.11/24",
        "10.9.0.8/24",
        None,
    ]
    assert pool.take_this("10.9.0.1") is None
    assert pool.take_this("10.9.0.77") == "10.9.0.77/24"


def test_a_vxlan_id_is_the_one_asked_for_and_nobody_elses() -> None:
    made = started()
    made.commit(c.PutNetwork(network=Network(id="n", spec=asked(vni=4099))))
    made.settle()
    assert made.view.networks["n"].vni == 4099
    assert choose(made.view, asked(vni=4098)).error.startswith("VXLAN id 4098 is network net's")
    assert choose(made.view, asked()).vni == 4100
    made.commit(c.PutNetwork(network=Network(id="top", spec=asked(vni=(1 << 24) - 1))))
    made.settle()
    assert choose(made.view, asked()).vni == 4100


def test_subnets_keep_off_the_routes_of_every_node() -> None:
    made = started()
    there = replace(node("n3"), description=NodeDescription(hostname="h3", routes=("10.0.2.0/23",)))
    made.add_nodes(there)
    assert choose(made.view, asked()).pools[0].subnet == "10.0.4.0/24"
    error = choose(made.view, asked("10.0.3.0/24")).error
    assert error == "subnet 10.0.3.0/24 overlaps the route 10.0.2.0/23 of node h3: choose another"
    made.add_nodes(replace(there, description=NodeDescription(routes=("10.0.0.0/8",))))
    assert choose(made.view, asked()).pools[0].subnet == "10.0.2.0/24"


def dual(*pools: IPAMPool) -> NetworkSpec:
    ipam = IPAMConfig(config=pools)
    return NetworkSpec(name="dual", driver="overlay", ipam=ipam, enable_ipv6=True)


def test_a_network_of_both_families_gives_an_address_of_each() -> None:
    made = started()
    small = (IPAMPool(subnet="10.7.0.0/29"), IPAMPool(subnet="10.8.0.0/24"))
    made.commit(c.PutNetwork(network=Network(id="dual", spec=dual(*small))))
    made.settle()
    network = made.view.networks["dual"]
    subnets = [pool.subnet for pool in network.pools()]
    assert subnets[:2] == ["10.7.0.0/29", "10.8.0.0/24"]
    assert subnets[2].startswith("fd")
    assert subnets[2].endswith("/64")
    made.put_service("a", spec("a", networks=("dual",), replicas=7))
    made.converge()
    (vip,) = made.view.services["a"].endpoint.vips
    table = network_table(made.view, "dual")
    assert table is not None
    assert table.further_subnets == tuple(subnets[1:])
    assert table.services["a"].ipv6_vip == bare(vip.ipv6_address)
    tasks = list(made.view.tasks.values())
    hosts = [host for task in tasks for host in task.addresses[0].hosts()]
    hosts += vip.hosts()
    assert len(set(hosts)) == 2 * (7 + 1)
    assert set(hosts) <= made.view.addresses_of.of("dual")
    # The first subnet has five addresses; the others come from the second one.
    assert sum(host.startswith("10.8.") for host in hosts) == 3
    made.commit(c.Delete(object="service", id="a"))
    for task in tasks:
        made.commit(c.Delete(object="task", id=task.id))
    assert {f"dual/{host}" for host in vip.hosts()} <= set(made.view.quarantined)
    copy = restore(list(dump(made.view)))
    assert copy.addresses_of.of("dual") == made.view.addresses_of.of("dual")


def test_nobody_is_told_of_ipv6_addresses_on_a_node_whose_kernel_has_none() -> None:
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.commit(c.PutNetwork(network=Network(id="dual", spec=dual())))
    mesh = NetworkSpec(name="mesh", ingress=True, enable_ipv6=True)
    made.commit(c.PutNetwork(network=Network(id="mesh", spec=mesh)))
    made.put_service("a", spec("a", networks=("dual",), replicas=2))
    made.converge()

    def told(node_id: str) -> tuple[set[bool], int]:
        table, way = network_table(made.view, "dual"), network_table(made.view, "mesh")
        assert table is not None
        assert way is not None
        here = {bool(e.ipv6_address) for e in table.endpoints.values() if e.node_id == node_id}
        assert here == {bool(way.nodes[node_id].ipv6_gateway)}
        return here, table.revision + way.revision

    (with_ipv6, before), (other, _) = told("n1"), told("n2")
    assert with_ipv6 == other == {True}
    old = replace(made.view.nodes["n1"].description, ipv6=False)
    made.commit(c.SetNodeDescription(node_id="n1", description=old))
    without, after = told("n1")
    assert (without, told("n2")[0]) == ({False}, {True})
    assert after > before


def test_an_ipv6_subnet_is_chosen_off_routes_and_given_or_refused() -> None:
    made = started()
    first = choose(made.view, dual()).pools[1].subnet
    there = replace(node("n3"), description=NodeDescription(hostname="h3", routes=(first,)))
    made.add_nodes(there)
    second = choose(made.view, dual()).pools[1].subnet
    assert second != first
    assert "overlaps the route" in choose(made.view, dual(IPAMPool(subnet=first))).error
    given = choose(made.view, dual(IPAMPool(subnet="FD99::/64", gateway="fd99:0::9")))
    assert [(p.subnet, p.gateway) for p in given.pools][1] == ("fd99::/64", "fd99::9")
    twice = choose(made.view, dual(IPAMPool(subnet="fd99::/64"), IPAMPool(subnet="fd99::/48")))
    assert "overlaps fd99::/64" in twice.error


def test_a_mesh_of_both_families_is_on_every_node_and_given_back() -> None:
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.commit(
        c.PutNetwork(
            network=Network(
                id="i", spec=NetworkSpec(name="ingress", ingress=True, enable_ipv6=True)
            )
        )
    )
    made.converge()
    table = network_table(made.view, "i")
    assert table is not None
    assert all(":" in entry.ipv6_gateway for entry in table.nodes.values())
    own = made.view.nodes["n1"].ingress_hosts()
    made.commit(c.Delete(object="node", id="n1"))
    assert {f"i/{host}" for host in own} <= set(made.view.quarantined)


def test_free_subnet_skips_what_is_used() -> None:
    assert free_subnet(["10.0.0.0/8"], 24, ["10.0.0.0/24", "10.0.1.64/26"]) == "10.0.2.0/24"
    assert free_subnet(["10.0.0.0/24"], 24, ["10.0.0.128/25"]) is None
    assert free_subnet(["10.0.0.0/24", "10.1.0.0/24"], 24, ["10.0.0.0/24"]) == "10.1.0.0/24"


def test_pool_gives_every_address_once() -> None:
    pool = AddressPool("10.0.0.0/29", "10.0.0.1", {"10.0.0.3"})
    given = [pool.take() for _ in range(5)]
    assert given == ["10.0.0.4/29", "10.0.0.5/29", "10.0.0.6/29", "10.0.0.2/29", None]


def test_every_node_joins_the_mesh() -> None:
    made = started()
    nodes = [made.view.nodes[i] for i in ("n1", "n2")]
    assert [n.mesh_slot for n in nodes] == [0, 1]
    assert len({n.ingress_address for n in nodes} - {""}) == 2
    table = network_table(made.view, "ingress")
    assert table is not None
    assert {n.mesh_ports for n in table.nodes.values()} == {(5536, 9285), (9286, 13035)}
    assert tables_of_node(made.view, "n1") == ("ingress",)


def test_mesh_ranges_are_disjoint() -> None:
    for shares in (16, 64):
        ranges = sorted(mesh_ports(slot, shares) for slot in range(shares))
        assert all(a[1] < b[0] for a, b in pairwise(ranges))
        assert ranges[-1][1] <= 65535


def test_b55_vips_only_in_vip_mode_and_ingress_only_with_ports() -> None:
    """An ingress VIP needs an ingress port; DNS round robin has none."""
    made = started()
    made.put_service("a", spec("a", networks=("net",)))
    made.put_service("b", spec("b", networks=("net",), mode="dnsrr"))
    made.put_service("c", spec("c", networks=("net",), ports=(port(80),)))
    made.converge()
    vips = {i: [v.network_id for v in s.endpoint.vips] for i, s in made.view.services.items()}
    assert vips == {"a": ["net"], "b": [], "c": ["net", "ingress"]}
    task = made.running("c")[0]
    assert [a.network_id for a in task.addresses] == ["net", "ingress"]


def test_table_names_services_ports_and_endpoints() -> None:
    made = started()
    made.put_service("c", spec("c", networks=("net",), ports=(port(80, 8080),)))
    made.converge()
    table = network_table(made.view, "ingress")
    assert table is not None
    entry = table.services["c"]
    assert [(p.protocol, p.published, p.target) for p in entry.ports] == [("tcp", 8080, 80)]
    task = made.running("c")[0]
    assert table.endpoints[task.id].name == f"c.1.{task.id}"
    net = network_table(made.view, "net")
    assert net is not None
    assert list(net.nodes) == [task.node_id]
    assert net.services["c"].ports == ()


def test_stickiness_goes_to_the_tables_and_replaces_no_task() -> None:
    made = started()
    wanted = spec("c", networks=("net",), ports=(port(80, 8080),))
    made.put_service("c", wanted)
    made.converge()
    tasks = [t.id for t in made.running("c")]
    before = network_table(made.view, "ingress")
    assert wanted.endpoint_spec is not None
    sticky = replace(wanted.endpoint_spec, load_balancing="sticky")
    made.put_service("c", replace(wanted, endpoint_spec=sticky))
    made.converge()
    for name in ("ingress", "net"):
        table = network_table(made.view, name)
        assert table is not None
        assert table.services["c"].sticky
    after = network_table(made.view, "ingress")
    assert before is not None
    assert after is not None
    assert after.revision > before.revision
    assert [t.id for t in made.running("c")] == tasks


def test_b55_tasks_wait_for_their_network() -> None:
    """NEW until service and networks are allocated."""
    made = started(ingress=False)
    assert made.view.cluster is not None
    made.commit(c.PutCluster(cluster=replace(made.view.cluster, address_pools=("10.0.0.0/24",))))
    made.add_network("late")
    made.put_service("s", spec(networks=("late",)))
    made.settle()
    assert made.tasks("s")[0].status.state == TaskState.NEW
    assert "no free /24" in made.view.networks["late"].error
    made.commit(c.PutCluster(cluster=replace(made.view.cluster, address_pools=("10.0.0.0/8",))))
    made.converge()
    assert len(made.running("s")) == 1


def test_b56_dynamic_port_is_kept_over_updates() -> None:
    """Published 0 keeps the number it was given."""
    made = started()
    made.put_service("a", spec("a", ports=(port(80),)))
    made.put_service("b", spec("b", ports=(port(80),)))
    made.converge()
    before = {i: s.endpoint.ports[0].published_port for i, s in made.view.services.items()}
    assert before == {"a": 30000, "b": 30001}
    made.put_service("b", spec("b", ports=(port(443), port(80)), image="image:2"))
    made.converge()
    after = {p.target_port: p.published_port for p in made.view.services["b"].endpoint.ports}
    assert after == {443: 30002, 80: 30001}


def test_b56_taken_port_is_refused_by_owner_and_given_later() -> None:
    """The second service waits, and its error names the first."""
    made = started()
    made.put_service("a", spec("a", ports=(port(80, 8080),)))
    made.converge()
    made.put_service("b", spec("b", ports=(port(80, 8080),)))
    made.settle()
    assert "8080/tcp is already published by service 'a'" in made.view.services["b"].endpoint.error
    assert made.tasks("b")[0].status.state == TaskState.NEW
    assert "'a'" in port_conflict(made.view, spec("x", ports=(port(1, 8080),)))
    udp = spec("x", ports=(port(1, 8080, protocol="udp"), port(1, 8080, "host")))
    assert port_conflict(made.view, udp) == ""
    made.commit(c.Delete(object="service", id="a"))
    made.converge()
    assert made.view.services["b"].endpoint.error == ""
    assert len(made.running("b")) == 1


def test_of_several_owners_of_a_port_the_first_by_name_is_told() -> None:
    made = started()
    made.put_service("z", spec("alpha", ports=(replace(port(80, 8080), address="10.0.0.1"),)))
    made.put_service("a", spec("beta", ports=(replace(port(80, 8080), address="10.0.0.2"),)))
    made.converge()
    everywhere = spec("x", ports=(port(80, 8080),))
    assert "'alpha' (id z)" in port_conflict(made.view, everywhere)
    with pytest.raises(
        InvalidArgument, match=r"'10\.0\.0\.1:8080' is already in use by .* 'alpha'"
    ):
        check_ports(made.view, everywhere, "")


def test_released_address_is_quarantined_until_acknowledged() -> None:
    made = started()
    made.put_service("s", spec(networks=("net",), replicas=2))
    made.converge()
    first = made.running("s")[0]
    address = bare(first.addresses[0].address)
    made.report(first.id, TaskState.FAILED)
    made.settle()
    assert f"net/{address}" in made.view.quarantined
    assert address in made.view.addresses_of.of("net")
    made.acknowledge("n1")
    made.settle()
    assert f"net/{address}" in made.view.quarantined
    made.acknowledge("n2")
    made.settle()
    assert not made.view.quarantined
    assert address not in made.view.addresses_of.of("net")


def test_removed_node_is_not_waited_for() -> None:
    made = started()
    made.put_service("s", spec(networks=("net",), replicas=2))
    made.converge()
    made.report(made.running("s")[0].id, TaskState.FAILED)
    made.acknowledge("n1")
    made.acks.pop("n2")
    made.commit(c.Delete(object="node", id="n2"))
    made.acknowledge("n1")
    made.settle()
    assert not [q for q in made.view.quarantined.values() if q.network_id == "net"]


def test_exhausted_network_lets_tasks_wait() -> None:
    made = World()
    made.add_nodes(node("n1"))
    config = IPAMConfig(config=(IPAMPool(subnet="172.20.0.0/29"),))
    given = NetworkSpec(name="tiny", driver="overlay", ipam=config)
    made.commit(c.PutNetwork(network=Network(id="tiny", spec=given)))
    made.put_service("s", spec(networks=("tiny",), replicas=6))
    made.converge()
    assert len(made.running("s")) == 4  # 6 hosts less gateway and VIP
    addresses = {a.address for t in made.running("s") for a in t.addresses}
    assert len(addresses) == 4
    waiting = next(t for t in made.tasks("s") if t.status.state == TaskState.NEW)
    assert "network tiny has no free address in 172.20.0.0/29" in explain(made.view, waiting).text()


@pytest.mark.parametrize(
    ("mine", "theirs", "collide"),
    [
        ({}, {"address": "10.0.0.5"}, True),
        ({"address": "10.0.0.5"}, {"address": "10.0.0.6"}, False),
        ({"address": "10.0.0.5"}, {"address": "10.0.0.0/24"}, True),
        ({"address": "0.0.0.0/0"}, {"address": "::/0"}, False),
        ({"address": "0.0.0.0"}, {"address": "10.0.0.5"}, True),
        ({"address": "0.0.0.0"}, {"address": "::"}, False),
        ({"address": "fd00::5"}, {"address": "0::0"}, True),
        ({"interface": "eth0"}, {"interface": "eth1"}, False),
        ({"interface": "eth0"}, {"interface": "eth0"}, True),
        ({"interface": "eth0"}, {"address": "10.0.0.5"}, True),
    ],
)
def test_a_port_is_had_at_its_place(
    mine: dict[str, str], theirs: dict[str, str], collide: bool
) -> None:
    made = started()
    made.put_service("a", spec("a", ports=(replace(port(80, 8080), **mine),)))
    made.converge()
    refusal = port_conflict(made.view, spec("x", ports=(replace(port(1, 8080), **theirs),)))
    assert ("'a'" in refusal) == collide


@pytest.mark.parametrize(
    ("address", "place", "named"),
    [
        ("0.0.0.0", "0.0.0.0/0", "0.0.0.0:"),
        ("::", "::/0", "[::]:"),
        ("0::0", "::/0", "[::]:"),
        ("10.0.0.0/10", "10.0.0.0/10", "10.0.0.0/10:"),
        ("10.0.0.5", "10.0.0.5", "10.0.0.5:"),
        ("", "", ""),
    ],
)
def test_no_address_of_a_family_is_every_one(address: str, place: str, named: str) -> None:
    found = place_of(replace(port(80, 8080), address=address))
    assert (found, shown(found)) == (place, named)


def test_ingress_ports_without_an_ingress_network_are_refused() -> None:
    made = started(ingress=False)
    made.put_service("s", spec(ports=(port(80),)))
    made.settle()
    assert "need the ingress network" in made.view.services["s"].endpoint.error
    task = made.tasks("s")[0]
    assert explain(made.view, task).refusals[0].filter == "allocator"


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_service_deletion_quarantines_its_vip(order: tuple[str, str]) -> None:
    made = started()
    for name in order:
        made.put_service(name, spec(name, networks=("net",), replicas=0))
    made.settle()
    vip = bare(made.view.services["a"].endpoint.vips[0].address)
    made.commit(c.Delete(object="service", id="a"))
    assert f"net/{vip}" in made.view.quarantined


def test_nodes_follow_a_new_ingress_network() -> None:
    """`network rm ingress` and a new one with another subnet: no address of the old one stays."""
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.commit(c.PutNetwork(network=ingress("i1", "10.76.0.0/24")))
    made.converge()
    made.commit(c.Delete(object="network", id="i1"))
    made.commit(c.PutNetwork(network=ingress("i2", "10.77.0.0/24")))
    made.converge()
    addresses = sorted(n.ingress_address for n in made.view.nodes.values())
    assert addresses == ["10.77.0.2/24", "10.77.0.3/24"]
    copy = restore(list(dump(made.view)))
    assert copy.addresses_of.of("i1") == made.view.addresses_of.of("i1") == set()
    assert copy.addresses_of.of("i2") == made.view.addresses_of.of("i2")


def ingress(network_id: str, subnet: str) -> Network:
    ipam = IPAMConfig(config=(IPAMPool(subnet=subnet),))
    return Network(id=network_id, spec=NetworkSpec(name="ingress", ingress=True, ipam=ipam))


def test_b55_a_vip_is_kept_over_updates() -> None:
    made = started()
    made.put_service("a", spec("a", networks=("net",)))
    made.converge()
    before = made.view.services["a"].endpoint.vips
    made.put_service("a", spec("a", networks=("net",), image="image:2"))
    made.converge()
    assert before
    assert made.view.services["a"].endpoint.vips == before


def test_nodes_take_no_addresses_of_a_network() -> None:
    """Upstream gives one to each node that has a task there: small networks run out."""
    made = World()
    made.add_nodes(*(node(f"n{i}") for i in range(4)))
    config = IPAMConfig(config=(IPAMPool(subnet="172.20.0.0/29"),))
    given = NetworkSpec(name="tiny", driver="overlay", ipam=config)
    made.commit(c.PutNetwork(network=Network(id="tiny", spec=given)))
    made.put_service("s", spec(networks=("tiny",), replicas=4))
    made.converge()
    assert {t.node_id for t in made.running("s")} == {"n0", "n1", "n2", "n3"}
