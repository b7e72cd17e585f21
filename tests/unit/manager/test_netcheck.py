"""What the answers of `cluster check network` mean, and where they say something is broken."""

from manager.control import netcheck
from manager.store import changes as c
from swarmapi.model.objects import NodeState
from swarmapi.model.probes import PairFinding, ProbeFindings, ServiceFinding
from tests.builders import World, node

FULL, WHOLE = 1450, 1500


def world(*names: str) -> World:
    made = World()
    made.add_network("ingress", ingress=True)
    made.add_nodes(*(node(name) for name in names))
    made.converge()
    return made


def pairs(made: World, faults: dict[tuple[str, str], PairFinding]) -> dict[str, ProbeFindings]:
    """Return what all nodes find where only these pairs are not whole."""
    names = list(made.view.nodes)

    def found(one: str, other: str) -> PairFinding:
        whole = PairFinding(node_id=other, underlay_bytes=WHOLE, overlay_bytes=FULL)
        return faults.get((one, other), whole)

    return {
        one: ProbeFindings(pairs=tuple(found(one, other) for other in names if other != one))
        for one in names
    }


def judged(made: World, found: dict[str, ProbeFindings]) -> list[tuple[str, str]]:
    tried = netcheck.trial(made.view, found)
    return [(one.where, one.what) for one in netcheck.problems(tried)]


def fault(other: str, underlay: int | None, overlay: int | None) -> PairFinding:
    return PairFinding(node_id=other, underlay_bytes=underlay, overlay_bytes=overlay)


def test_every_node_is_to_ask_every_other_one_that_is_up() -> None:
    made = world("a", "b", "c")
    orders = netcheck.orders(made.view)
    assert {k: {p.node_id for p in o.peers} for k, o in orders.items()} == {
        "a": {"b", "c"},
        "b": {"a", "c"},
        "c": {"a", "b"},
    }
    assert all(p.gateway and p.data_path for o in orders.values() for p in o.peers)
    made.commit(c.SetNodeStatus(node_id="c", state=NodeState.DOWN))
    assert {k: [p.node_id for p in o.peers] for k, o in netcheck.orders(made.view).items()} == {
        "a": ["b"],
        "b": ["a"],
    }


def test_a_whole_network_has_no_problem() -> None:
    made = world("a", "b", "c")
    assert judged(made, pairs(made, {})) == []


def test_icmp_refused_by_the_underlay_alone_is_no_problem() -> None:
    made = world("a", "b")
    assert judged(made, pairs(made, {("a", "b"): fault("b", 0, FULL)})) == []


def test_blocked_vxlan_names_the_node_that_all_pairs_have_in_common() -> None:
    made = world("a", "b", "c")
    faults = {("a", "c"): fault("c", WHOLE, 0), ("c", "a"): fault("a", WHOLE, 0)}
    what = "VXLAN does not pass, while the underlay does"
    host = {n.id: n.description.hostname or n.id for n in made.view.nodes.values()}
    assert judged(made, pairs(made, faults)) == [(f"nodes {host['a']} and {host['c']}", what)]
    faults |= {("b", "c"): fault("c", WHOLE, 0), ("c", "b"): fault("b", WHOLE, 0)}
    assert judged(made, pairs(made, faults)) == [(f"node {host['c']} and every other", what)]


def test_a_small_mtu_is_told_with_the_size_that_passes() -> None:
    made = world("a", "b")
    found = judged(made, pairs(made, {("a", "b"): fault("b", 1280, 1280)}))
    told = "full-size frames do not pass: at most 1280 bytes of 1450, by the underlay 1280 of 1500"
    assert [what for _, what in found] == [told]


def test_an_unreachable_peer_and_a_node_without_an_answer() -> None:
    made = world("a", "b")
    found = pairs(made, {("a", "b"): fault("b", 0, 0)})
    del found["b"]
    assert [what for _, what in judged(made, found)] == [
        "does not answer: it is without an answer",
        "nothing comes back, by the underlay or by VXLAN",
    ]
    made.commit(c.SetNodeStatus(node_id="b", state=NodeState.DOWN))
    assert "does not answer: it is down" in [what for _, what in judged(made, found)]
    found["a"] = ProbeFindings(error="no raw sockets")
    assert "cannot look: no raw sockets" in [what for _, what in judged(made, found)]


def test_names_and_vips_are_told_with_container_and_network() -> None:
    made = world("a")
    bad = ServiceFinding(
        network="net", container="c1", service="web", dns_error="x", vip_error="y", silent=("t",)
    )
    good = ServiceFinding(network="net", container="c1", service="db")
    tried = netcheck.trial(made.view, {"a": ProbeFindings(services=(bad, good))})
    found = netcheck.problems(tried)
    assert [one.what for one in found] == ["name web: x", "VIP of web: y", "task t does not answer"]
    assert all("container c1, network net" in one.where for one in found)
    assert [(asked, well) for _, asked, well in netcheck.count_services(tried)] == [(2, 1)]
