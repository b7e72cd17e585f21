"""The engine's and the agent's networking on the real machine."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import structs

from swarmapi.model.tables import NetworkTable, NodeEntry
from tests.privileged.network.lab import Lab, run_in
from worker.network.attachments import Attachment
from worker.network.network import Network
from worker.networking import MachineNetworking

NODE = "192.168.77.1"


def ingress() -> NetworkTable:
    return NetworkTable(
        network_id="net1",
        name="ingress",
        revision=7,
        vni=4097,
        subnet="10.0.0.0/24",
        gateway="10.0.0.1",
        ingress=True,
        nodes={"n1": NodeEntry(node_id="n1", data_path=NODE, gateway="10.0.0.2")},
    )


@asynccontextmanager
async def started(
    lab: Lab, base: Path, data_path_addr: str
) -> AsyncIterator[tuple[Network, MachineNetworking]]:
    """Open a machine's networking and take it down at the end."""
    network = Network(
        node_id="n1",
        run_dir=base / "run",
        data_path_addr=data_path_addr,
        upstream_dns=(),
        bridge_pool="172.16.0.0/12",
        node_netns=lab.host("n1", NODE),
    )
    networking = MachineNetworking(network, base / "run", retry_s=0.05)
    try:
        yield network, networking
    finally:
        await networking.set_tables({})
        await network.stop(remove=True)


def links(lab: Lab, base: Path) -> set[str]:
    return {name for _, name in run_in(lab.fd(base / "swt-n1"), socket.if_nameindex)}


def test_tables_that_failed_are_told_of_when_a_later_try_succeeds(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(lab, tmp_path, "nowhere") as (network, networking):
            assert await networking.set_tables({"net1": ingress()}) == {}
            await network.identify("n1", NODE)
            assert await asyncio.wait_for(networking.caught_up(), 20) == {"net1": 7}

    asyncio.run(scenario())


def test_nothing_of_the_cluster_stays_when_its_tables_go(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(lab, tmp_path, NODE) as (network, networking):
            before = links(lab, tmp_path)
            overlay = structs.replace(ingress(), network_id="net2", vni=4098, ingress=False)
            await networking.set_tables({"net1": ingress(), "net2": overlay})
            await network.attach("c1", [Attachment("net2", "overlay", "10.0.0.9")], host_ports=[])
            assert {"swarm-ingress", "swarm-egress"} <= links(lab, tmp_path)
            await network.detach("c1")
            await networking.set_tables({})
            after = {name for name in links(lab, tmp_path) if not name.startswith("sv")}
            assert after == before  # a container's own veth goes with its namespace, later

    asyncio.run(scenario())


def test_what_a_daemon_that_died_had_begun_to_write_goes(lab: Lab, tmp_path: Path) -> None:
    begun = tmp_path / "run/endpoints/c1.new"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"half")

    async def scenario() -> None:
        async with started(lab, tmp_path, NODE) as (_, networking):
            await networking.open([])

    asyncio.run(scenario())
    assert not begun.exists()
