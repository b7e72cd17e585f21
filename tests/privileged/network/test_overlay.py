"""Overlay networks between two nodes, and the VIP in front of their tasks."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from swarmapi.model.tables import (
    EndpointState,
    NetworkTable,
    NodeEntry,
    ServiceEntry,
    TaskEndpoint,
)
from tests.privileged.network.lab import Lab, Server, ask, run_in, start_nodes
from worker.network.attachments import Attached, Attachment
from worker.network.conntrack import ConntrackSocket
from worker.network.network import Network

NODES = {"n1": "192.168.77.1", "n2": "192.168.77.2"}
VIP = {4: "10.0.1.2", 6: "fd01::2"}


def overlay(*endpoints: TaskEndpoint, revision: int = 1) -> NetworkTable:
    return NetworkTable(
        network_id="net1",
        name="app",
        revision=revision,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        further_subnets=("10.9.0.0/24", "fd01::/64"),
        vni=4097,
        services={"s1": ServiceEntry(service_id="s1", name="web", vip=VIP[4], ipv6_vip=VIP[6])},
        endpoints={e.task_id: e for e in endpoints},
        nodes={n: NodeEntry(node_id=n, data_path=a) for n, a in NODES.items()},
    )


def task(number: int, node: str, state: EndpointState = EndpointState.SERVING) -> TaskEndpoint:
    return TaskEndpoint(
        task_id=f"t{number}",
        service_id="s1",
        node_id=node,
        name=f"web.{number}.t{number}",
        address=place(number, 4),
        ipv6_address=place(number, 6),
        state=state,
    )


def place(number: int, version: int) -> str:
    """The second task is in the second subnet of IPv4, which is on the same link."""
    if version == 6:
        return f"fd01::{10 + number:x}"
    return f"10.9.0.{10 + number}" if number == 2 else f"10.0.1.{10 + number}"


async def join(network: Network, number: int) -> Attached:
    return await network.attach(
        f"c{number}",
        [Attachment("net1", "overlay", place(number, 4), ipv6_address=place(number, 6))],
        host_ports=[],
    )


def test_an_overlay_that_went_comes_again_at_once(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, {"n1": NODES["n1"]}) as made:
            for _ in range(20):
                await made["n1"].set_tables({"net1": overlay(task(1, "n1"))})
                await join(made["n1"], 1)
                await made["n1"].detach("c1")
                await made["n1"].set_tables({})

    asyncio.run(scenario())


def tracked() -> list[object]:
    with ConntrackSocket() as conntrack:
        return [entry for node in NODES.values() for entry in conntrack.of_backend(node)]


@pytest.mark.parametrize("version", [4, 6])
def test_vip_reaches_tasks_on_both_nodes(lab: Lab, tmp_path: Path, version: int) -> None:
    vip, own, other = VIP[version], place(1, version), place(2, version)

    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODES) as made:
            table = overlay(task(1, "n1"), task(2, "n2"))
            for network in made.values():
                assert await network.set_tables({"net1": table}) == {"net1": 1}
            first, second = await join(made["n1"], 1), await join(made["n2"], 2)
            servers = [Server(first.netns_fd, "one", 80), Server(second.netns_fd, "two", 80)]
            try:
                assert ask(first.netns_fd, other, 80)[:2] == ["two", own]
                seen = Counter(ask(first.netns_fd, vip, 80)[0] for _ in range(100))
                assert set(seen) == {"one", "two"}
                assert min(seen.values()) > 20
                for name in NODES:  # which see it as VXLAN alone
                    assert run_in(lab.fd(tmp_path / f"swt-{name}"), tracked) == []
                for network in made.values():
                    assert await network.verify() == 0
                alone = {"net1": overlay(task(1, "n1"))}
                await made["n1"].set_tables(alone)
                hairpin = ask(first.netns_fd, vip, 80)
                assert hairpin[:2] == ["one", own]
                await made["n1"].set_tables(
                    {"net1": overlay(task(1, "n1", EndpointState.WITHDRAWN), task(2, "n2"))}
                )
                assert {ask(first.netns_fd, vip, 80)[0] for _ in range(30)} == {"two"}
                await made["n1"].set_tables({"net1": overlay()})
                with pytest.raises(ConnectionRefusedError):
                    ask(first.netns_fd, vip, 80)
            finally:
                for server in servers:
                    server.close()

    asyncio.run(scenario())
