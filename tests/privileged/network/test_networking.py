"""The engine's and the agent's networking on the real machine."""

import asyncio
from pathlib import Path

from swarmapi.model.tables import NetworkTable, NodeEntry
from tests.privileged.network.lab import Lab
from worker.network.network import Network
from worker.networking import MachineNetworking

NODE = "192.168.77.1"


def test_tables_that_failed_are_told_of_when_a_later_try_succeeds(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        network = Network(
            node_id="n1",
            run_dir=tmp_path / "run",
            data_path_addr="nowhere",
            upstream_dns=(),
            bridge_pool="172.16.0.0/12",
            node_netns=lab.host("n1", NODE),
        )
        networking = MachineNetworking(network, tmp_path / "run", retry_s=0.05)
        try:
            ingress = NetworkTable(
                network_id="net1",
                name="ingress",
                revision=7,
                vni=4097,
                subnet="10.0.0.0/24",
                gateway="10.0.0.1",
                ingress=True,
                nodes={"n1": NodeEntry(node_id="n1", data_path=NODE, gateway="10.0.0.2")},
            )
            assert await networking.set_tables({"net1": ingress}) == {}
            await network.identify("n1", NODE)
            assert await asyncio.wait_for(networking.caught_up(), 20) == {"net1": 7}
        finally:
            await networking.set_tables({})
            await network.stop(remove=True)

    asyncio.run(scenario())
