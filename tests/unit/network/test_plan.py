"""The planner: what a node must hold, from tables alone."""

import struct
from ipaddress import IPv4Address

import msgspec
import pytest

from swarmapi.model.tables import (
    EndpointState,
    NetworkTable,
    NodeEntry,
    PublishedPort,
    ServiceEntry,
    TaskEndpoint,
)
from worker.network import nftexpr as nx
from worker.network.attachments import PortBinding, mac_of
from worker.network.local import Ipv4Tables, LocalBridge, LocalContainer
from worker.network.plan import DesiredState, Planner


def packed(address: str) -> bytes:
    return IPv4Address(address).packed


def task(i: int, node: str = "n1", state: EndpointState = EndpointState.SERVING) -> TaskEndpoint:
    return TaskEndpoint(
        task_id=f"t{i}",
        service_id="s1",
        node_id=node,
        name=f"web.{i}.t{i}",
        address=f"10.0.1.{10 + i}",
        state=state,
    )


def overlay(*tasks: TaskEndpoint, ingress: bool = False, vip: str = "10.0.1.2") -> NetworkTable:
    ports = (PublishedPort(protocol="tcp", published=8080, target=80),) if ingress else ()
    return NetworkTable(
        network_id="net1",
        name="app",
        revision=1,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        vni=4097,
        ingress=ingress,
        services={"s1": ServiceEntry(service_id="s1", name="Web", vip=vip, ports=ports)},
        endpoints={e.task_id: e for e in tasks},
        nodes={
            n: NodeEntry(node_id=n, data_path=f"192.168.0.{i}", gateway=f"10.0.1.{200 + i}")
            if ingress
            else NodeEntry(node_id=n, data_path=f"192.168.0.{i}")
            for i, n in ((1, "n1"), (2, "n2"))
        },
    )


HERE = LocalContainer("c1", {"net1": ("eth0", "10.0.1.11")})


def planned(table: NetworkTable, *more: LocalContainer) -> DesiredState:
    return Planner("n1").plan({"net1": table}, [HERE, *more], {})


def test_only_serving_endpoints_are_behind_a_vip() -> None:
    table = overlay(task(1), task(2, "n2"), task(3, "n2", EndpointState.WITHDRAWN))
    rules = planned(table).containers["c1"][0]
    assert rules.elements["vips"] == {packed("10.0.1.2"): "lb-2"}
    assert set(rules.elements["backends"].values()) == {packed("10.0.1.11"), packed("10.0.1.12")}
    slots = {key[4:] for key in rules.elements["backends"]}
    assert slots == {struct.pack("=I", 0), struct.pack("=I", 1)}
    assert "lb-2" in rules.chains


def test_a_vip_without_a_backend_is_refused_and_not_balanced() -> None:
    rules = planned(overlay(task(1, state=EndpointState.WITHDRAWN))).containers["c1"][0]
    assert rules.elements["silent"] == {packed("10.0.1.2"): None}
    assert not rules.elements["vips"]


def test_a_sticky_service_is_chosen_by_the_clients_address() -> None:
    table, mesh = overlay(task(1), task(2, "n2")), overlay(task(1), task(2, "n2"), ingress=True)
    sticky = {"s1": msgspec.structs.replace(table.services["s1"], sticky=True)}
    rules = planned(msgspec.structs.replace(table, services=sticky)).containers["c1"][0]
    assert rules.elements["vips"] == {packed("10.0.1.2"): "sticky-2"}
    assert rules.chains["sticky-2"] != planned(table).containers["c1"][0].chains["lb-2"]
    sticky = {"s1": msgspec.structs.replace(mesh.services["s1"], sticky=True)}
    node = planned(msgspec.structs.replace(mesh, services=sticky)).node
    assert list(node.elements["mesh"].values()) == ["sticky-2"]
    assert "mesh-2" not in node.chains


def test_a_container_sees_its_own_networks_only() -> None:
    stranger = LocalContainer("c2", {"red": ("eth0", "172.16.0.2")})
    state = planned(overlay(task(1)), stranger)
    assert not state.containers["c2"][0].elements["vips"]
    assert "web" in state.names["c1"].forward
    assert "web" not in state.names["c2"].forward


def test_withdrawn_remote_endpoints_stay_reachable_and_local_ones_need_no_entry() -> None:
    state = planned(overlay(task(1), task(2, "n2", EndpointState.WITHDRAWN)))
    mac = mac_of("10.0.1.12")
    assert state.overlays["net1"].fdb == {(mac, "192.168.0.2")}
    assert state.overlays["net1"].neighbours == {("10.0.1.12", mac)}


def test_the_ingress_network_has_no_vips_and_knows_remote_gateways() -> None:
    state = planned(overlay(task(1), ingress=True))
    rules, returns, _ = state.containers["c1"]
    assert not rules.elements["vips"]
    assert len(rules.elements["gateways"]) == 2
    assert returns is not None
    assert len(returns.elements["macs"]) == 2
    assert ("10.0.1.202", mac_of("10.0.1.202")) in state.overlays["net1"].neighbours
    assert "web" not in state.names["c1"].forward
    assert list(state.node.elements["mesh"].values()) == ["mesh-1"]
    target = packed("10.0.1.11") + struct.pack(">H", 80) + b"\0\0"
    assert list(state.node.elements["targets"].values()) == [target]


def test_names_agree_with_the_vip_table() -> None:
    names = planned(overlay(task(1), task(2, state=EndpointState.WITHDRAWN))).names["c1"]
    assert names.forward["web"] == ("10.0.1.2",)
    assert names.forward["tasks.web"] == ("10.0.1.11",)
    assert names.reverse["10.0.1.2"] == "Web.app"
    without = planned(overlay(task(1), vip="")).names["c1"]
    assert without.forward["web"] == ("10.0.1.11",)


def test_a_containers_own_names_add_nothing_to_what_the_managers_say_of_them() -> None:
    own = LocalContainer("c1", {"net1": ("eth0", "10.0.1.11")}, names={"net1": ("WEB", "c1")})
    other = LocalContainer("c2", {"net1": ("eth0", "10.0.1.12")}, names={"net1": ("c1",)})
    table = overlay(task(1), task(2, "n2", EndpointState.WITHDRAWN))
    names = Planner("n1").plan({"net1": table}, [own, other], {}).names["c1"]
    assert names.forward["web"] == ("10.0.1.2",)
    assert names.forward["c1"] == ("10.0.1.11", "10.0.1.12")


def test_a_container_that_is_no_tasks_is_found_by_all_its_names() -> None:
    alone = TaskEndpoint(
        task_id="x", service_id="", node_id="n2", name="x", address="10.0.1.50", aliases=("db",)
    )
    state = planned(overlay(task(1), alone))
    names = state.names["c1"]
    for name in ("x", "x.app", "db", "db.app"):
        assert names.forward[name] == ("10.0.1.50",)
    assert names.reverse["10.0.1.50"] == "x.app"
    assert ("10.0.1.50", mac_of("10.0.1.50")) in state.overlays["net1"].neighbours


def test_containers_on_the_same_networks_share_what_is_planned_for_one() -> None:
    alike = LocalContainer("c2", {"net1": (HERE.networks["net1"][0], "10.0.1.12")})
    apart = LocalContainer("c3", {"net1": ("eth7", "10.0.1.13")})
    sixth = LocalContainer("c4", {"net1": (HERE.networks["net1"][0], "10.0.1.14", "fd00::14")})
    found = planned(overlay(task(1), task(2), ingress=True), alike, apart, sixth)
    assert found.containers["c1"] is found.containers["c2"]
    assert found.names["c1"] is found.names["c2"]
    assert found.containers["c1"].ipv6 is None
    assert found.containers["c4"].ipv6 is not None
    assert found.containers["c3"].returns != found.containers["c1"].returns
    chains = [found.containers[key].ipv4.chains["arrive"] for key in ("c1", "c3")]
    assert chains[0] != chains[1]


def test_an_overlays_endpoints_leave_the_nodes_table_alone_and_its_nodes_do_not() -> None:
    planner, table = Planner("n1"), overlay(task(1))
    node = planner.plan({"net1": table}, [HERE], {}).node
    changed = planner.plan({"net1": overlay(task(1), task(2))}, [HERE], {})
    assert changed.node is node
    moved = {**table.nodes, "n2": NodeEntry(node_id="n2", data_path="192.168.0.9")}
    changed = planner.plan({"net1": msgspec.structs.replace(table, nodes=moved)}, [HERE], {})
    assert packed("192.168.0.9") in changed.node.elements["peers"]
    mesh = overlay(task(1), ingress=True)
    assert planner.plan({"net1": mesh}, [HERE], {}).node.elements["targets"]


def test_host_ports_with_an_address_are_kept_apart() -> None:
    container = LocalContainer(
        "c2",
        {"red": ("eth0", "172.16.0.2")},
        ports=(PortBinding("tcp", 80, 8080), PortBinding("tcp", 80, 8081, "127.0.0.1")),
        port_address="172.16.0.2",
    )
    node = planned(overlay(), container).node
    assert len(node.elements["ports"]) == 1
    assert next(iter(node.elements["address-ports"])).startswith(packed("127.0.0.1"))


def test_a_vip_of_a_family_that_no_task_has_is_not_named() -> None:
    def named(*tasks: TaskEndpoint) -> tuple[str, ...]:
        table = overlay(*tasks)
        service = msgspec.structs.replace(table.services["s1"], ipv6_vip="fd01::2")
        subnets = ("fd01::/64",)
        table = msgspec.structs.replace(table, services={"s1": service}, further_subnets=subnets)
        return planned(table).names["c1"].forward["web"]

    both = msgspec.structs.replace(task(2), ipv6_address="fd01::12")
    assert named(task(1)) == ("10.0.1.2",)
    assert named(task(1), both) == ("10.0.1.2", "fd01::2")
    withdrawn = msgspec.structs.replace(both, state=EndpointState.WITHDRAWN)
    assert named(task(1), withdrawn) == ("10.0.1.2",)
    # Nobody serves at all: both are known, and refuse at once.
    assert named() == ("10.0.1.2", "fd01::2")


def test_what_a_node_without_ipv6_makes_of_an_unchanged_table_is_unchanged() -> None:
    dual = msgspec.structs.replace(task(1), ipv6_address="fd01::11")
    tables, own = {"net1": overlay(dual), "net2": overlay(dual)}, Ipv4Tables()
    first = own.of(tables)
    assert not first["net1"].endpoints["t1"].ipv6_address
    second = own.of({**tables, "net2": overlay(dual, task(2))})
    assert second["net1"] is first["net1"]
    assert set(second["net2"].endpoints) == {"t1", "t2"}
    assert set(own.of({"net2": tables["net2"]})) == {"net2"}


def test_an_unchanged_table_costs_nothing() -> None:
    planner, table = Planner("n1"), overlay(task(1))
    bridges = {"red": LocalBridge("red0", "172.16.0.0/16", internal=False, masquerade=True)}
    first = planner.plan({"net1": table}, [HERE], bridges)
    other = LocalContainer("c2", {"red": ("eth0", "172.16.0.2")})
    second = planner.plan({"net1": table}, [HERE, other], bridges)
    assert second.containers["c1"][0] is first.containers["c1"][0]
    assert second.overlays["net1"] is first.overlays["net1"]
    changed = msgspec.structs.replace(table, revision=2, endpoints={})
    third = planner.plan({"net1": changed}, [HERE, other], bridges)
    assert third.containers["c1"][0] != first.containers["c1"][0]
    assert nx.difference(first.containers["c1"][0], third.containers["c1"][0])


def test_a_link_is_a_name_for_its_container_alone() -> None:
    db = LocalContainer("db", {"red": ("eth0", "172.16.0.2")}, names={"red": ("db",)})
    links = {"red": (("db", "Data"), ("nobody", "ghost"))}
    web = LocalContainer("web", {"red": ("eth0", "172.16.0.3")}, links=links)
    names = Planner("n1").plan({}, [db, web], {}).names
    assert names["web"].forward == {"db": ("172.16.0.2",), "data": ("172.16.0.2",)}
    assert names["db"].forward == {"db": ("172.16.0.2",)}


def at_places(*ports: PublishedPort) -> DesiredState:
    table = overlay(task(1), ingress=True)
    services = {"s1": ServiceEntry(service_id="s1", name="Web", ports=ports)}
    links = {"eth0": ("10.9.0.5/24", "10.9.1.5/24"), "lo": ("127.0.0.1/8",)}
    table = msgspec.structs.replace(table, services=services)
    return Planner("n1").plan({"net1": table}, [HERE], {}, links)


@pytest.mark.parametrize(
    ("place", "addresses"),
    [
        ("%eth0", ("10.9.0.5", "10.9.1.5")),
        ("%eth1", ()),
        ("10.9.0.0/24", ("10.9.0.5",)),
        ("127.0.0.0/8", ("127.0.0.1",)),
        ("10.9.0.77", ("10.9.0.77",)),
        ("fd00::1", ()),
    ],
)
def test_a_port_of_the_mesh_is_at_its_place(place: str, addresses: tuple[str, ...]) -> None:
    port = PublishedPort(protocol="tcp", published=8080, target=80, place=place)
    node = at_places(port).node.elements
    assert {key[:4] for key in node["address-mesh"]} == {packed(a) for a in addresses}
    assert not node["mesh"]
    assert not node["snat"]


def test_one_number_leads_elsewhere_at_another_address() -> None:
    low, high = (
        PublishedPort(protocol="tcp", published=80, target=t, place=f"10.9.0.{t}") for t in (1, 2)
    )
    targets = at_places(low, high).node.elements["address-targets"]
    assert {key[3]: value[4:6] for key, value in targets.items() if isinstance(value, bytes)} == {
        1: b"\0\1",
        2: b"\0\2",
    }


def test_the_prefix_of_all_addresses_is_everywhere_in_its_family() -> None:
    port = PublishedPort(protocol="udp", published=53, target=53, place="0.0.0.0/0", source="snat")
    node = at_places(port).node.elements
    assert len(node["mesh"]) == len(node["snat"]) == 1
    assert not node["address-mesh"]


def test_only_vxlan_of_our_overlays_is_untracked() -> None:
    chains = planned(overlay(task(1))).node.chains
    # Behind 8 bytes of UDP and 4 of VXLAN's flags.
    ours = nx.load_payload(nx.REG_1, 2, 12, 3) + nx.lookup("numbers", nx.REG_1)
    (foreign,) = chains["input"].rules
    head = foreign.expressions[: foreign.expressions.index(ours) + len(ours)]
    for name in ("arriving", "leaving"):
        (rule,) = chains[name].rules
        assert rule.expressions == head + nx.untracked()
