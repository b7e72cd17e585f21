"""Connections through the mesh to a replica on another node, against plain routing over VXLAN."""

from collections.abc import Callable

from swarmapi.model.tables import (
    NetworkTable,
    NodeEntry,
    PublishedPort,
    ServiceEntry,
    TaskEndpoint,
)
from tests.bench.contest import Benchmark, Contender
from tests.bench.nodes import Nodes, PlainWay

NODES = {"n1": "192.168.77.1", "n2": "192.168.77.2"}
CLIENT = "192.168.77.100"
PUBLISHED = 8080
RATE = 0.95
"""Of plain VXLAN, to be reached through the mesh."""


def ingress() -> NetworkTable:
    """Return the mesh of two nodes, the second of which has the only replica."""
    port = PublishedPort(protocol="tcp", published=PUBLISHED, target=80)
    return NetworkTable(
        network_id="mesh",
        name="ingress",
        revision=1,
        subnet="10.0.0.0/24",
        gateway="10.0.0.1",
        vni=4096,
        ingress=True,
        services={"s": ServiceEntry(service_id="s", name="s", vip="10.0.0.50", ports=(port,))},
        endpoints={
            "t": TaskEndpoint(
                task_id="t", service_id="s", node_id="n2", name="t", address="10.0.0.20"
            )
        },
        nodes={
            f"n{i}": NodeEntry(
                node_id=f"n{i}",
                data_path=NODES[f"n{i}"],
                gateway=f"10.0.0.{1 + i}",
                mesh_ports=(20_000 * i, 20_000 * i + 19_999),
            )
            for i in (1, 2)
        },
    )


def contest(
    title: str, unit: str, sample: Callable[[Nodes, int, str, int], float], *, tracked: bool
) -> Benchmark:
    """Return the benchmark of one thing done by a client outside: all ways have the same hops.

    The peer tracks connections, or does not; the other one is shown beside it.
    """
    nodes = Nodes(NODES)
    try:
        nodes.set_tables(ingress())
        nodes.serve(nodes.attach("n2", "replica", "mesh", "10.0.0.20", "ingress"))
        client = nodes.host("client", CLIENT)
        plain = {
            "plain VXLAN": PlainWay(nodes, client, 3, tracked=False),
            "tracked VXLAN": PlainWay(nodes, client, 4, tracked=True),
        }
    except BaseException:
        nodes.close()
        raise

    def asked(way: PlainWay) -> Callable[[], float]:
        return lambda: sample(nodes, client, way.choose(), 80)

    return Benchmark(
        title=title,
        unit=unit,
        contenders=(
            Contender("mesh", lambda: sample(nodes, client, NODES["n1"], PUBLISHED)),
            *(Contender(name, asked(way)) for name, way in plain.items()),
        ),
        budget=1 / RATE,
        rounds=20,
        peer="tracked VXLAN" if tracked else "plain VXLAN",
        close=nodes.close,
    )


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's, as a ratio of times.

    Keeping track of a new connection is what the mesh cannot do without: so does the peer.
    """
    title = "connect, ask, close through the mesh, against routing over VXLAN, tracked as well"
    return contest(title, "us", Nodes.ask, tracked=True)
