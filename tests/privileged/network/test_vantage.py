"""What `cluster check network` asks from inside a container, and what it makes of the answers."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from swarmapi.model.probes import ServiceFinding
from swarmapi.model.tables import NetworkTable, NodeEntry, ServiceEntry, TaskEndpoint
from tests.privileged.network.lab import Lab, start_nodes
from worker.agent.ports import Vantage
from worker.agent.probes import ask_services
from worker.network import netns
from worker.network.attachments import Attachment

NODE = {"n1": "192.168.77.1"}
MANY = 60
"""More than a datagram has room for, of either family."""


@contextmanager
def inhabited(fd: int) -> Iterator[int]:
    """Yield the number of a thread in a namespace; afterwards nobody has it."""
    inside, over = threading.Event(), threading.Event()

    def live() -> None:
        netns.enter(fd)
        inside.set()
        over.wait()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert inside.wait(5)
        assert thread.native_id is not None
        yield thread.native_id
    finally:
        over.set()
        thread.join(5)


def table() -> NetworkTable:
    """Return a network of both families; all tasks but one serve in dnsrr mode."""
    return NetworkTable(
        network_id="net1",
        name="app",
        revision=1,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        further_subnets=("fd01::/64",),
        vni=4097,
        services={
            "s1": ServiceEntry(service_id="s1", name="web", vip="10.0.1.2", ipv6_vip="fd01::2"),
            "s2": ServiceEntry(service_id="s2", name="rr"),
        },
        endpoints={
            f"t{i}": TaskEndpoint(
                task_id=f"t{i}",
                service_id="s1" if i == 1 else "s2",
                node_id="n1",
                name=f"task{i}",
                address=f"10.0.1.{10 + i}",
                ipv6_address=f"fd01::{10 + i}",
            )
            for i in range(1, MANY + 2)
        },
        nodes={"n1": NodeEntry(node_id="n1", data_path=NODE["n1"])},
    )


def told(found: tuple[ServiceFinding, ...]) -> dict[str, str]:
    return {one.service: one.dns_error for one in found}


def test_names_and_vips_of_both_families_are_asked_for(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODE) as made:
            await made["n1"].set_tables({"net1": table()})
            wish = Attachment("net1", "overlay", "10.0.1.11", ipv6_address="fd01::11")
            attached = await made["n1"].attach("c1", [wish], host_ports=[])
            with inhabited(attached.netns_fd) as pid:
                here = {"net1": Vantage("c1", pid)}
                found = await ask_services({"net1": table()}, here)
                assert told(found) == {"web": "", "rr": ""}
                assert [one.vip_error for one in found] == ["", ""]
                assert not found[0].silent
                # None of these has a container.
                assert {"task2 at 10.0.1.12", "task2 at fd01::12"} <= set(found[1].silent)

                other = replace(table().services["s1"], ipv6_vip="fd01::3")
                stale = replace(table(), services={"s1": other}, endpoints={})
                assert told(await ask_services({"net1": stale}, here)) == {
                    "web": "answered fd01::2 instead of fd01::3"
                }

    asyncio.run(scenario())


def test_a_container_that_has_ended_hides_no_other(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODE) as made:
            small = replace(table(), endpoints={"t1": table().endpoints["t1"]})
            await made["n1"].set_tables({"net1": small})
            wish = Attachment("net1", "overlay", "10.0.1.11", ipv6_address="fd01::11")
            attached = await made["n1"].attach("c1", [wish], host_ports=[])
            tables = {"net1": small, "net2": replace(small, network_id="net2", name="late")}
            with inhabited(attached.netns_fd) as ended:
                pass
            with inhabited(attached.netns_fd) as pid:
                both = {"net1": Vantage("c1", pid), "net2": Vantage("c2", ended)}
                found = await ask_services(tables, both)
            assert {one.network for one in found} == {"app"}
            with inhabited(attached.netns_fd) as pid:
                asking = asyncio.ensure_future(
                    ask_services({"net2": tables["net2"]}, {"net2": Vantage("c2", pid)})
                )
                await asyncio.sleep(0)  # it has entered, and is answered only below
            # Nobody knows the names of `late` there, and nobody is left to miss them.
            assert await asking == ()

    asyncio.run(scenario())
