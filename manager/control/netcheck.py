"""`cluster check network`: what every node is asked, and what its answers mean. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from manager.store.tables import network_table
from manager.store.view import View
from swarmapi.model.objects import Node, NodeState
from swarmapi.model.probes import VXLAN_BYTES, PairFinding, ProbeFindings, ProbeOrder, ProbePeer
from swarmapi.model.tables import NetworkTable

_NO_INGRESS_MTU: Final = 1450
_MTU_REMEDY: Final = (
    "give every link on the way an MTU of {whole}, or the networks a smaller one: "
    "network create --opt com.docker.network.driver.mtu=N"
)


class Problem(NamedTuple):
    """Where something is broken, what, and the way out."""

    where: str
    what: str
    remedy: str


class Trial(NamedTuple):
    """All that was found: a node that did not answer has None."""

    mtu: int
    nodes: tuple[tuple[Node, ProbeFindings | None], ...]

    def name(self, node_id: str) -> str:
        """Return a node's hostname, its id where there is none."""
        found = next((n for n, _ in self.nodes if n.id == node_id), None)
        return (found.description.hostname if found is not None else "") or node_id

    def pairs(self) -> Iterator[tuple[Node, PairFinding]]:
        """Yield what each node found of each other one."""
        for node, findings in self.nodes:
            for pair in findings.pairs if findings is not None else ():
                yield node, pair


def mtu(view: View) -> int:
    """Return the size of a full packet on the ingress network."""
    table = _ingress(view)
    return table.mtu if table is not None else _NO_INGRESS_MTU


def orders(view: View) -> dict[str, ProbeOrder]:
    """Return what each node is to try, by id: every other node that is not down."""
    table = _ingress(view)
    entries = table.nodes if table is not None else {}
    up = [n for n in view.nodes.values() if n.state != NodeState.DOWN and n.data_path]
    peers = [
        ProbePeer(
            node_id=node.id,
            data_path=node.data_path,
            gateway=entries[node.id].gateway if node.id in entries else "",
        )
        for node in up
    ]
    return {
        node.id: ProbeOrder(peers=tuple(p for p in peers if p.node_id != node.id), mtu=mtu(view))
        for node in up
    }


def trial(view: View, found: Mapping[str, ProbeFindings]) -> Trial:
    """Put the answers beside their nodes."""
    nodes = sorted(view.nodes.values(), key=lambda n: (n.description.hostname, n.id))
    return Trial(mtu(view), tuple((node, found.get(node.id)) for node in nodes))


def problems(tried: Trial) -> list[Problem]:
    """Return what is broken; a node in all pairs of a kind is named alone."""
    return [*_of_nodes(tried), *_of_pairs(tried), *_of_services(tried)]


def _of_nodes(tried: Trial) -> Iterator[Problem]:
    for node, findings in tried.nodes:
        where = f"node {tried.name(node.id)}"
        if findings is None:
            state = node.state.value if node.state is NodeState.DOWN else "without an answer"
            yield Problem(where, f"does not answer: it is {state}", "see the log of its swarmd")
        elif findings.error:
            yield Problem(where, f"cannot look: {findings.error}", "see the log of its swarmd")


def _of_pairs(tried: Trial) -> Iterator[Problem]:
    whole = tried.mtu + VXLAN_BYTES
    kinds: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for node, pair in tried.pairs():
        kind = _kind(pair, tried.mtu)
        if kind is not None:
            kinds.setdefault(kind, []).append((node.id, pair.node_id))
    answering = sum(findings is not None for _, findings in tried.nodes)
    for (what, remedy), pairs in kinds.items():
        for where in _places(tried, pairs, answering):
            yield Problem(where, what, remedy.format(whole=whole))


def _kind(pair: PairFinding, full: int) -> tuple[str, str] | None:
    """Return what is wrong between two nodes and the way out; None where nothing is."""
    below, above = pair.underlay_bytes, pair.overlay_bytes
    whole = full + VXLAN_BYTES
    if above == 0 and below == 0:
        return (
            "nothing comes back, by the underlay or by VXLAN",
            "see to routes and firewalls between these nodes",
        )
    if above == 0:
        return (
            "VXLAN does not pass, while the underlay does",
            "let 4789/udp through in both directions, to the addresses `node inspect` shows",
        )
    if (above is not None and above < full) or (above is None and below not in (None, 0, whole)):
        largest = f"{above or below} bytes of {full if above is not None else whole}"
        under = "" if below is None else f", by the underlay {below} of {whole}"
        return (
            f"full-size frames do not pass: at most {largest}{under}",
            _MTU_REMEDY,
        )
    if above is None and below == 0:
        return (
            "nothing comes back by the underlay",
            "see to routes and firewalls between these nodes",
        )
    return None  # without ICMP on the underlay VXLAN may be whole nevertheless


def _places(tried: Trial, pairs: list[tuple[str, str]], answering: int) -> Iterator[str]:
    """Name the one node that is in all pairs there can be with it, else each pair."""
    links = {frozenset(pair) for pair in pairs}
    seen = Counter(node_id for link in links for node_id in link)
    for node_id, count in sorted(seen.items()):
        if answering > 2 and count == len(links) == answering - 1:
            yield f"node {tried.name(node_id)} and every other"
            return
    for one, other in sorted(tuple(sorted(map(tried.name, link))) for link in links):
        yield f"nodes {one} and {other}"


def _of_services(tried: Trial) -> Iterator[Problem]:
    for node, findings in tried.nodes:
        for one in findings.services if findings is not None else ():
            where = f"node {tried.name(node.id)}, container {one.container}, network {one.network}"
            if one.dns_error:
                remedy = "restart swarmd there if it persists; see its log"
                yield Problem(where, f"name {one.service}: {one.dns_error}", remedy)
            if one.vip_error:
                remedy = "see whether its tasks answer, and the pairs above"
                yield Problem(where, f"VIP of {one.service}: {one.vip_error}", remedy)
            for task in one.silent:
                yield Problem(where, f"task {task} does not answer", "see the pairs above")


def _ingress(view: View) -> NetworkTable | None:
    network = view.ingress_network()
    return network_table(view, network.id) if network is not None else None


def count_services(tried: Trial) -> Iterable[tuple[Node, int, int]]:
    """Yield for each node that answered how many services it asked for, and how many well."""
    for node, findings in tried.nodes:
        if findings is not None:
            well = sum(not (s.dns_error or s.vip_error or s.silent) for s in findings.services)
            yield node, len(findings.services), well
