"""Any table reached from any other: the difference gets there, and a second one is empty."""

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from swarmapi.model.tables import (
    EndpointState,
    NetworkTable,
    NodeEntry,
    PublishedPort,
    ServiceEntry,
    TaskEndpoint,
)
from tests.unit.network.fake_tables import FakeTables
from worker.network import nftexpr as nx
from worker.network.local import LocalBridge, LocalContainer
from worker.network.plan import DesiredState, Planner

NODES = ("n1", "n2", "n3")
CONTAINER = LocalContainer("c", {"net": ("eth0", "10.0.0.10", "fd00::10")})
FAMILIES = (nx.FAMILY_IPV4, nx.FAMILY_NETDEV, nx.FAMILY_IPV6, nx.FAMILY_IPV4, nx.FAMILY_IPV6)


@st.composite
def tables(draw: st.DrawFn) -> NetworkTable:
    services = draw(st.sets(st.integers(0, 4)))
    tasks = draw(
        st.dictionaries(
            st.integers(0, 15),
            st.tuples(st.integers(0, 4), st.sampled_from(NODES), st.sampled_from(EndpointState)),
        )
    )
    ingress = draw(st.booleans())
    return NetworkTable(
        network_id="net",
        name="net",
        revision=draw(st.integers(1, 9)),
        subnet="10.0.0.0/24",
        further_subnets=draw(st.sampled_from([(), ("fd00::/64",)])),
        gateway="10.0.0.1",
        vni=1,
        ingress=ingress,
        services={
            f"s{i}": ServiceEntry(
                service_id=f"s{i}",
                name=f"svc{i}",
                vip=f"10.0.0.{100 + i}",
                ipv6_vip=f"fd00::1{i:02x}",
                ports=(PublishedPort(protocol="tcp", published=8000 + i, target=80),),
            )
            for i in services
        },
        endpoints={
            f"t{k}": TaskEndpoint(
                task_id=f"t{k}",
                service_id=f"s{service}",
                node_id=node,
                name=f"svc{service}.{k}.t{k}",
                address=f"10.0.0.{10 + k}",
                ipv6_address=f"fd00::{10 + k:x}",
                state=state,
            )
            for k, (service, node, state) in tasks.items()
        },
        nodes={
            n: NodeEntry(
                node_id=n,
                data_path=f"192.168.0.{i}",
                gateway=f"10.0.0.{200 + i}",
                ipv6_gateway=f"fd00::2:{i:x}",
            )
            for i, n in enumerate(NODES)
        },
    )


@st.composite
def bridges(draw: st.DrawFn) -> dict[str, LocalBridge]:
    return {
        str(i): LocalBridge(
            f"b{i}",
            f"172.{i}.0.0/16",
            draw(st.booleans()),
            draw(st.booleans()),
            ipv6_subnet=draw(st.sampled_from(["", f"fd{i}::/64"])),
        )
        for i in draw(st.sets(st.integers(16, 19)))
    }


def kept(desired: DesiredState) -> list[nx.TableState | None]:
    return [*desired.containers["c"], desired.node, desired.ipv6_node]


@settings(max_examples=150)
@given(st.lists(st.tuples(tables(), bridges()), min_size=2, max_size=4))
def test_the_difference_reaches_the_plan(
    steps: list[tuple[NetworkTable, dict[str, LocalBridge]]],
) -> None:
    planner = Planner("n1")
    stores = [FakeTables() for _ in FAMILIES]
    present: list[nx.TableState | None] = [None for _ in FAMILIES]
    for table, local in steps:
        desired = kept(planner.plan({"net": table}, [CONTAINER], local))
        rows = zip(FAMILIES, stores, present, desired, strict=True)
        for family, store, before, wanted in rows:
            store.apply(family, "swarm", nx.difference(before, wanted))
            assert store.read(family, "swarm") == wanted
            assert nx.difference(store.read(family, "swarm"), wanted) == []
        present = desired


@settings(max_examples=100)
@given(tables(), tables(), bridges())
def test_remembering_changes_nothing(
    first: NetworkTable, second: NetworkTable, local: dict[str, LocalBridge]
) -> None:
    planner = Planner("n1")
    planner.plan({"net": first}, [CONTAINER], {})
    again = planner.plan({"net": second}, [CONTAINER], local)
    assert again == Planner("n1").plan({"net": second}, [CONTAINER], local)


@settings(max_examples=100)
@given(tables())
def test_every_vip_answer_leads_somewhere(table: NetworkTable) -> None:
    desired = Planner("n1").plan({"net": table}, [CONTAINER], {})
    known = set()
    for rules in (desired.containers["c"].ipv4, desired.containers["c"].ipv6):
        assert rules is not None
        _check_vips(rules, table)
        known |= {str(ip_address(vip)) for key in ("vips", "silent") for vip in rules.elements[key]}
    for name, addresses in desired.names["c"].forward.items():
        if name.startswith("svc") and name.count(".") < 2:
            assert {str(ip_address(a)) for a in addresses} <= known


def _check_vips(rules: nx.TableState, table: NetworkTable) -> None:
    withdrawn = {
        address
        for e in table.endpoints.values()
        if e.state == EndpointState.WITHDRAWN
        for address in e.addresses()
    }
    for vip, chain in rules.elements["vips"].items():
        slots = [k for k in rules.elements["backends"] if k.startswith(vip)]
        assert chain == f"lb-{len(slots)}"
        assert chain in rules.chains
    for value in rules.elements["backends"].values():
        assert isinstance(value, bytes)
        assert str(ip_address(value)) not in withdrawn
