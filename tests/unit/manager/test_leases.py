"""Addresses of containers that are no task's: given by the allocator, kept, and given back."""

from msgspec.structs import replace

from manager.dispatcher.leases import kept
from manager.store import changes as c
from manager.store.expect import find_conflict
from manager.store.snapshot import dump, restore
from manager.store.tables import network_table, tables_of_node
from swarmapi.model.objects import NetworkLease, NodeState
from swarmapi.model.tables import NetworkTable
from swarmapi.v1 import leases_pb2 as pb
from tests.builders import World, node, spec


def started() -> World:
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.add_network("net")
    made.settle()
    return made


def lease(container: str, node_id: str = "n1", wanted: str = "") -> NetworkLease:
    return NetworkLease(
        id=f"net/{container}",
        network_id="net",
        node_id=node_id,
        container_id=container,
        wanted=wanted,
        names=(container.upper(), "alias"),
    )


def given(made: World, *leases: NetworkLease) -> list[str]:
    made.commit(*(c.PutLease(lease=one) for one in leases))
    made.settle()
    return [made.view.leases[one.id].address for one in leases]


def table(made: World) -> NetworkTable:
    found = network_table(made.view, "net")
    assert found is not None
    return found


def test_every_container_has_an_address_of_its_own_and_a_row_in_the_table() -> None:
    made = started()
    made.put_service("s1", spec("s1", networks=("net",), replicas=2))
    made.converge()
    assert len(set(given(made, lease("a"), lease("b", "n2")))) == 2
    rows = table(made).endpoints
    assert len({e.address for e in rows.values()} | {table(made).services["s1"].vip}) == 5
    assert (rows["a"].node_id, rows["a"].name, rows["a"].aliases) == ("n1", "A", ("alias",))
    assert rows["a"].service_id == ""
    assert tables_of_node(made.view, "n2") == ("net",)


def test_an_address_that_is_asked_for_is_given_once() -> None:
    made = started()
    first, again, outside, gateway = given(
        made,
        lease("a", wanted="10.0.0.77"),
        lease("b", wanted="10.0.0.77"),
        lease("c", wanted="10.9.0.7"),
        lease("d", wanted="10.0.0.1"),
    )
    assert (first, again, outside, gateway) == ("10.0.0.77/24", "", "", "")
    errors = [made.view.leases[f"net/{one}"].error for one in "bcd"]
    assert errors == [
        "address 10.0.0.77 is in use or reserved on network net",
        "address 10.9.0.7 is not in subnet 10.0.0.0/24 of network net",
        "address 10.0.0.1 is in use or reserved on network net",
    ]


def test_a_container_that_is_down_keeps_its_address_and_is_found_by_nobody() -> None:
    made = started()
    (address,) = given(made, lease("a"))
    assert given(made, replace(lease("a"), is_up=False)) == [address]
    assert not table(made).endpoints
    assert tables_of_node(made.view, "n1") == ()
    assert find_conflict(made.view, (c.Delete(object="network", id="net"),)) is None
    assert given(made, lease("a"), lease("b")) != [address, address]
    assert made.view.leases["net/a"].address == address
    conflict = find_conflict(made.view, (c.Delete(object="network", id="net"),))
    assert conflict is not None
    assert "in use by container A on node n1" in conflict.message


def test_an_address_rests_until_no_table_names_it() -> None:
    made = started()
    given(made, lease("a", wanted="10.0.0.9"), lease("b", "n2"))
    made.acks = {"n2": {"net": table(made).revision}}
    made.commit(c.Delete(object="lease", id="net/a"))
    made.settle()
    assert given(made, lease("c", "n2", wanted="10.0.0.9")) == [""]
    made.acks = {"n2": {"net": table(made).revision}}
    made.commit(c.Delete(object="lease", id="net/c"))
    made.settle()
    assert given(made, lease("c", "n2", wanted="10.0.0.9")) == ["10.0.0.9/24"]


def test_leases_go_with_their_node_and_with_their_network() -> None:
    made = started()
    given(made, lease("a"), lease("b", "n2"))
    made.commit(c.Delete(object="node", id="n1"))
    assert list(made.view.leases) == ["net/b"]
    assert list(table(made).endpoints) == ["b"]
    given(made, replace(lease("b", "n2"), is_up=False))
    made.commit(c.Delete(object="network", id="net"))
    assert not made.view.leases
    made.settle()


def test_nobody_finds_the_containers_of_a_node_that_is_down() -> None:
    made = started()
    given(made, lease("a"), lease("b", "n2"))
    before = table(made).revision
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.DOWN))
    assert list(table(made).endpoints) == ["b"]
    assert table(made).revision > before
    made.commit(c.SetNodeStatus(node_id="n1", state=NodeState.READY))
    assert sorted(table(made).endpoints) == ["a", "b"]


def test_what_a_node_does_not_name_is_given_back() -> None:
    made = started()
    given(made, lease("a"), lease("b"), lease("x", "n2"))
    held = [
        pb.HeldLease(network_id="net", container_id="b", names=["renamed"], up=True),
        pb.HeldLease(network_id="net", container_id="stranger", up=True),
        pb.HeldLease(network_id="net", container_id="x", up=False),
    ]
    made.commit(*kept(made.view, "n1", held))
    assert sorted(made.view.leases) == ["net/b", "net/x"]
    assert table(made).endpoints["b"].name == "renamed"
    assert made.view.leases["net/x"].is_up
    assert kept(made.view, "n1", held) == ()


def test_leases_outlive_a_snapshot() -> None:
    made = started()
    given(made, lease("a"), lease("b", "n2"))
    again = restore(dump(made.view))
    assert again.leases == made.view.leases
    assert network_table(again, "net") == table(made)
    assert again.addresses_of.of("net") == made.view.addresses_of.of("net")
