"""`POST /swarm/v1/network/check`: every node tries out the network, and the answers are judged."""

from collections.abc import Sequence
from typing import Final, TypedDict

from aiohttp import web

from manager.api.keys import PROBES, STORE
from manager.api.responses import answer
from manager.control import netcheck
from swarmapi.model.probes import VXLAN_BYTES
from swarmapi.rest import Route


class NodeShown(TypedDict):
    """Whether a node answered; of the services its containers asked for, how many are well."""

    Node: str
    ID: str
    Answered: bool
    Services: int
    ServicesWell: int


class PairShown(TypedDict):
    """Sizes in bytes of the largest packets that came back, 0 for none, null where not asked."""

    From: str
    To: str
    Underlay: int | None
    UnderlayFull: int
    Overlay: int | None
    OverlayFull: int
    RoundTripMicros: int


class ProblemShown(TypedDict):
    """What is broken, where, and the way out."""

    Where: str
    What: str
    Remedy: str


class NetworkCheck(TypedDict):
    """All that was found; `Problems` is empty where the network is whole."""

    Nodes: list[NodeShown]
    Pairs: list[PairShown]
    Problems: list[ProblemShown]


async def check_network(request: web.Request) -> web.Response:
    """Have every node probe every other one, and VIP and DNS from inside its containers."""
    view = request.app[STORE].view
    found = await request.app[PROBES].ask(netcheck.orders(view).items())
    tried = netcheck.trial(view, found)
    counted = {node.id: (asked, well) for node, asked, well in netcheck.count_services(tried)}
    shown: NetworkCheck = {
        "Nodes": [
            {
                "Node": tried.name(node.id),
                "ID": node.id,
                "Answered": findings is not None,
                "Services": counted.get(node.id, (0, 0))[0],
                "ServicesWell": counted.get(node.id, (0, 0))[1],
            }
            for node, findings in tried.nodes
        ],
        "Pairs": [
            {
                "From": tried.name(node.id),
                "To": tried.name(pair.node_id),
                "Underlay": pair.underlay_bytes,
                "UnderlayFull": tried.mtu + VXLAN_BYTES,
                "Overlay": pair.overlay_bytes,
                "OverlayFull": tried.mtu,
                "RoundTripMicros": pair.round_trip_us,
            }
            for node, pair in tried.pairs()
        ],
        "Problems": [
            {"Where": one.where, "What": one.what, "Remedy": one.remedy}
            for one in netcheck.problems(tried)
        ],
    }
    return answer(shown)


ROUTES: Final[Sequence[Route]] = (
    Route("POST", "/swarm/v1/network/check", check_network, answer=NetworkCheck),
)
