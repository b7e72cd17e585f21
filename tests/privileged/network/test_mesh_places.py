"""Ports of the mesh at chosen addresses and links, and with the node's address as source."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmapi.model.tables import NetworkTable, PublishedPort
from tests.privileged.network.lab import Lab, Server, ask, start_nodes
from tests.privileged.network.test_mesh import CLIENT, NODES, at, ingress, join
from worker.network.network import Network

FEW = dict(itertools.islice(NODES.items(), 2))


def publishing(*ports: PublishedPort) -> NetworkTable:
    """Return the ingress table of two nodes with a task each."""
    table = ingress()
    return replace(
        table,
        services={"s1": replace(table.services["s1"], ports=ports)},
        endpoints={i: e for i, e in table.endpoints.items() if e.node_id in FEW},
        nodes={i: n for i, n in table.nodes.items() if i in FEW},
    )


def tcp(published: int, **ours: str) -> PublishedPort:
    return PublishedPort(protocol="tcp", published=published, target=80, **ours)


def run(
    lab: Lab,
    base: Path,
    table: NetworkTable,
    story: Callable[[dict[str, Network]], Coroutine[None, None, None]],
    *,
    udp: bool = False,
) -> None:
    """Start two nodes with a task each, and tell the story."""

    async def scenario() -> None:
        async with start_nodes(lab, base, FEW) as made:
            for network in made.values():
                await network.set_tables({"ingress1": table})
            with contextlib.ExitStack() as stack:
                for i in (1, 2):
                    fd = (await join(made[f"n{i}"], i)).netns_fd
                    server = Server(fd, f"r{i}", 53 if udp else 80, udp=udp)
                    stack.callback(server.close)
                await story(made)
                for network in made.values():
                    assert await network.verify() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("udp", [False, True])
def test_tasks_see_the_node_where_snat_is_asked(
    lab: Lab, tmp_path: Path, version: int, udp: bool
) -> None:
    client = lab.fd(lab.host("client", CLIENT))
    protocol, target = ("udp", 53) if udp else ("tcp", 80)
    here = at(NODES["n1"], version)
    table = publishing(
        PublishedPort(protocol=protocol, published=81, target=target, source="snat"),
        PublishedPort(protocol=protocol, published=82, target=target, source="snat", place=here),
        PublishedPort(protocol=protocol, published=83, target=target),
    )

    def asked(published: int) -> list[str]:
        """Return who answers and whom it sees; as any client of UDP, ask again in silence."""
        with contextlib.suppress(TimeoutError):
            return ask(client, here, published, udp=udp, timeout_s=2)[:2]
        return ask(client, here, published, udp=udp)[:2]

    async def story(made: dict[str, Network]) -> None:
        node = "fd00::2" if version == 6 else "10.0.0.2"
        for published, seen in ((81, node), (82, node), (83, at(CLIENT, version))):
            answers = [asked(published) for _ in range(20)]
            assert {address for _, address in answers} == {seen}
            assert {name for name, _ in answers} == {"r1", "r2"}

    run(lab, tmp_path, table, story, udp=udp)


@pytest.mark.parametrize("version", [4, 6])
def test_a_port_is_at_its_address_alone(lab: Lab, tmp_path: Path, version: int) -> None:
    client = lab.fd(lab.host("client", CLIENT))
    here, there = (at(NODES[node], version) for node in FEW)
    table = publishing(tcp(80, place=here), tcp(81, place="%eth0"), tcp(82, place="%eth7"))

    async def story(made: dict[str, Network]) -> None:
        for address, published in ((here, 80), (here, 81), (there, 81)):
            assert ask(client, address, published)[1] == at(CLIENT, version)
        for address, published in ((there, 80), (here, 82)):
            with pytest.raises(ConnectionRefusedError):
                ask(client, address, published)
        assert ask(lab.fd(tmp_path / "swt-n1"), here, 80)[0] in ("r1", "r2")

    run(lab, tmp_path, table, story)


def test_a_port_follows_the_addresses_of_its_link(lab: Lab, tmp_path: Path) -> None:
    client = lab.fd(lab.host("client", CLIENT))
    new = "192.168.77.201"

    async def story(made: dict[str, Network]) -> None:
        lab.address(tmp_path / "swt-n1", new)
        for published in (80, 81):
            with pytest.raises(ConnectionRefusedError):
                ask(client, new, published)
        await made["n1"].verify()
        for published in (80, 81):
            assert ask(client, new, published)[1] == CLIENT

    table = publishing(tcp(80, place="192.168.77.192/26"), tcp(81, place="%eth0"))
    run(lab, tmp_path, table, story)
