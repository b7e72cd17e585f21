"""Connections through a service's VIP, against direct ones between namespaces without rules."""

from swarmapi.model.tables import NetworkTable, NodeEntry, ServiceEntry, TaskEndpoint
from tests.bench.contest import Benchmark, Contender
from tests.bench.nodes import Nodes

NODE = {"n1": "192.168.77.1"}
PLAIN = {"p1": "192.168.77.11", "p2": "192.168.77.12"}
RATE = 0.85
"""Of direct connections, to be reached through the VIP."""


def table(number: int, services: int) -> NetworkTable:
    """Return a network with so many services, of ten tasks each; the first has one, which is here.

    Its VIP is 10.NUMBER.0.2, its task's address 10.NUMBER.0.3.
    """
    entries = {"s0": ServiceEntry(service_id="s0", name="s0", vip=f"10.{number}.0.2")}
    tasks = {"t0": _task("t0", "s0", f"10.{number}.0.3")}
    for i in range(1, services):
        high, low = divmod(i, 20)
        key, prefix = f"s{i}", f"10.{number}.{high % 250 + 1}"
        # Nothing ever goes there: what many addresses are is all the same.
        vip = f"{10 + high // 250 + 100}.{number}.{high % 250}.{low + 1}"
        entries[key] = ServiceEntry(service_id=key, name=key, vip=vip)
        for j in range(10):
            tasks[f"{key}.{j}"] = _task(f"{key}.{j}", key, f"{prefix}.{low * 10 + j + 1}")
    return NetworkTable(
        network_id=f"net{number}",
        name=f"net{number}",
        revision=1,
        subnet=f"10.{number}.0.0/16",
        gateway=f"10.{number}.0.1",
        vni=4096 + number,
        services=entries,
        endpoints=tasks,
        nodes={"n1": NodeEntry(node_id="n1", data_path=NODE["n1"])},
    )


def _task(key: str, service: str, address: str) -> TaskEndpoint:
    return TaskEndpoint(task_id=key, service_id=service, node_id="n1", name=key, address=address)


def client_of(nodes: Nodes, number: int) -> int:
    """Attach a client and the first service's task to a network; return the client's namespace."""
    network = f"net{number}"
    nodes.serve(nodes.attach("n1", f"task{number}", network, f"10.{number}.0.3"))
    return nodes.attach("n1", f"client{number}", network, f"10.{number}.0.4")


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's, as a ratio of times."""
    nodes = Nodes(NODE)
    try:
        nodes.set_tables(table(1, 10))
        client = client_of(nodes, 1)
        plain, server = (nodes.host(name, address) for name, address in PLAIN.items())
        nodes.serve(server)
    except BaseException:
        nodes.close()
        raise
    return Benchmark(
        title="connect, ask, close through a VIP, against a direct way without rules",
        unit="us",
        contenders=(
            Contender("VIP", lambda: nodes.ask(client, "10.1.0.2")),
            Contender("direct", lambda: nodes.ask(plain, PLAIN["p2"])),
            Contender("the task itself", lambda: nodes.ask(client, "10.1.0.3")),
        ),
        budget=1 / RATE,
        rounds=20,
        peer="direct",
        close=nodes.close,
    )
