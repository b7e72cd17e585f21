"""Drift, connections of removed backends, restarts, and what is left at the end."""

import asyncio
import contextlib
import os
import socket
import struct
from pathlib import Path

import pytest

from swarmapi.model.tables import (
    EndpointState,
    NetworkTable,
    NodeEntry,
    ServiceEntry,
    TaskEndpoint,
)
from tests.privileged.network.lab import Lab, Server, ask, run_in, start_nodes, started_anew
from worker.network import netlink as nl
from worker.network import netns
from worker.network import nftexpr as nx
from worker.network.attachments import (
    Attached,
    Attachment,
    BridgeNetwork,
    PortBinding,
    mac_of,
)
from worker.network.conntrack import ConntrackSocket
from worker.network.network import EGRESS_NETWORK, Network
from worker.network.nft import NftSocket

NODES = {"n1": "192.168.77.1", "n2": "192.168.77.2"}
VIP = "10.0.1.2"


def overlay(*numbers: int, withdrawn: int = 0) -> NetworkTable:
    return NetworkTable(
        network_id="net1",
        name="app",
        revision=1,
        subnet="10.0.1.0/24",
        gateway="10.0.1.1",
        vni=4097,
        services={"s1": ServiceEntry(service_id="s1", name="web", vip=VIP)},
        endpoints={
            f"t{i}": TaskEndpoint(
                task_id=f"t{i}",
                service_id="s1",
                node_id=f"n{i}",
                name=f"web.{i}.t{i}",
                address=f"10.0.1.{10 + i}",
                state=EndpointState.WITHDRAWN if i == withdrawn else EndpointState.SERVING,
            )
            for i in numbers
        },
        nodes={n: NodeEntry(node_id=n, data_path=a) for n, a in NODES.items()},
    )


async def join(network: Network, number: int) -> Attached:
    return await network.attach(
        f"c{number}",
        [Attachment("net1", "overlay", f"10.0.1.{10 + number}")],
        host_ports=[],
    )


def delete_elements(fd: int, set_name: str, keys: tuple[bytes, ...]) -> None:
    def body() -> None:
        with NftSocket() as nft:
            nft.apply(nx.FAMILY_IPV4, "swarm", [nx.RemoveElements(set_name, keys)])

    run_in(fd, body)


def test_drift_is_repaired_and_counted(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODES) as made:
            network = made["n1"]
            for each in made.values():
                await each.set_tables({"net1": overlay(1, 2)})
            attached = await join(network, 1)
            assert await network.verify() == 0
            delete_elements(attached.netns_fd, "vips", (socket.inet_aton(VIP),))
            assert await network.verify() == 1
            pin = os.open(tmp_path / "run-n1" / "netns" / "net1", os.O_RDONLY)
            try:
                run_in(pin, delete_forwarding)
            finally:
                os.close(pin)
            assert await network.verify() == 2
            run_in(attached.netns_fd, flush_rules)
            assert await network.verify() > 0
            assert await network.verify() == 0
            assert network.drift_repaired_total() >= 4
            # Its links gone.
            pin = os.open(tmp_path / "run-n1" / "netns" / "net1", os.O_RDONLY)
            try:
                run_in(pin, delete_links)
            finally:
                os.close(pin)
            assert await network.verify() == 6
            assert await network.verify() == 0
            second = await join(made["n2"], 2)
            with contextlib.closing(Server(second.netns_fd, "two", 80)):
                assert ask(attached.netns_fd, "10.0.1.12", 80)[0] == "two"
            # A whole table gone.
            run_in(attached.netns_fd, drop_table)
            assert await network.verify() > 0
            assert await network.verify() == 0

    def delete_forwarding() -> None:
        with nl.RouteSocket() as route:
            index = route.index("vxlan4097")
            mac = mac_of("10.0.1.12")
            route.batch(
                [
                    nl.fdb_entry(index, mac, NODES["n2"], remove=True),
                    nl.neighbour(index, "10.0.1.12", mac, remove=True),
                ]
            )

    def delete_links() -> None:
        with nl.RouteSocket() as route:
            route.batch([nl.remove_link(route.index(name)) for name in ("br0", "vxlan4097")])

    def flush_rules() -> None:
        with NftSocket() as nft:
            empty = nx.Chain((), "nat", nx.HOOK_OUTPUT, -100)
            nft.apply(nx.FAMILY_IPV4, "swarm", [nx.RewriteChain("output", empty)])

    def drop_table() -> None:
        with NftSocket() as nft:
            nft.apply(nx.FAMILY_IPV4, "swarm", [nx.RemoveTable()])

    asyncio.run(scenario())


def entries(fd: int, address: str) -> int:
    def body() -> int:
        with ConntrackSocket() as conntrack:
            return len(conntrack.of_backend(address))

    return run_in(fd, body)


def test_connections_of_a_removed_backend_are_reset(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODES) as made:
            for network in made.values():
                await network.set_tables({"net1": overlay(1, 2, withdrawn=1)})
            first, second = await join(made["n1"], 1), await join(made["n2"], 2)
            listener = run_in(second.netns_fd, listen)
            with (
                contextlib.closing(listener),
                contextlib.closing(
                    run_in(first.netns_fd, lambda: socket.create_connection((VIP, 80), 5))
                ) as flow,
            ):
                peer, _ = listener.accept()
                with contextlib.closing(peer):
                    assert await made["n2"].connections("c2", ["10.0.1.12"]) == 1
                    assert await made["n2"].connections("c2", ["10.0.1.11"]) == 0
                    assert await made["n1"].connections("c1", ["10.0.1.11"]) == 0
                    await made["n1"].set_tables({"net1": overlay(1, 2, withdrawn=2)})
                    flow.sendall(b"still")
                    assert peer.recv(10) == b"still"
                    assert entries(first.netns_fd, "10.0.1.12") == 1
                    await made["n1"].set_tables({"net1": overlay(1)})
                    await made["n1"].settled()
                    assert entries(first.netns_fd, "10.0.1.12") == 0

    def listen() -> socket.socket:
        made = socket.create_server(("0.0.0.0", 80))
        made.settimeout(5)
        return made

    asyncio.run(scenario())


def test_a_udp_flow_leaves_a_withdrawn_backend(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODES) as made:
            for network in made.values():
                await network.set_tables({"net1": overlay(1, 2, withdrawn=1)})
            first, second = await join(made["n1"], 1), await join(made["n2"], 2)
            with contextlib.ExitStack() as stack:
                stack.callback(Server(first.netns_fd, "one", 53, udp=True).close)
                stack.callback(Server(second.netns_fd, "two", 53, udp=True).close)
                link = run_in(
                    first.netns_fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                )
                stack.callback(link.close)
                link.settimeout(5)
                link.connect((VIP, 53))
                link.send(b"?")
                assert link.recv(100).startswith(b"two")
                await made["n1"].set_tables({"net1": overlay(1, 2, withdrawn=2)})
                await made["n1"].settled()
                link.send(b"?")
                assert link.recv(100).startswith(b"one")

    asyncio.run(scenario())


def test_a_restarted_network_adopts_what_runs(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODES) as made:
            for network in made.values():
                await network.set_tables({"net1": overlay(1, 2)})
            spec = await made["n1"].create_bridge_network(
                BridgeNetwork("red", "red", bridge="swt-red")
            )
            second = await join(made["n2"], 2)
            attachments = [
                Attachment("red", "bridge", aliases=("web",)),
                Attachment("net1", "overlay", "10.0.1.11"),
            ]
            first = await made["n1"].attach(
                "c1",
                attachments,
                host_ports=[PortBinding("tcp", 80)],
            )
            pin = tmp_path / "swt-c1"
            run_in(first.netns_fd, lambda: netns.pin(first.netns_fd, pin))
            lab.pins.append(pin)
            await made["n1"].stop(remove=False)
            made["n1"] = again = await started_anew(tmp_path, "n1", NODES["n1"])
            await again.create_bridge_network(spec)
            await again.set_tables({"net1": overlay(1, 2)})
            adopted = await again.readopt(
                "c1",
                pin,
                list(first.endpoints),
                attachments=attachments,
                host_ports=list(first.ports),
            )
            assert adopted.endpoints == first.endpoints
            assert adopted.ports == first.ports
            with contextlib.ExitStack() as stack:
                stack.callback(Server(adopted.netns_fd, "one", 80).close)
                stack.callback(Server(second.netns_fd, "two", 80).close)
                assert ask(adopted.netns_fd, "10.0.1.12", 80)[0] == "two"
                node = lab.fd(tmp_path / "swt-n1")
                assert ask(node, "127.0.0.1", first.ports[0].host_port)[0] == "one"
            assert await again.verify() == 0

    asyncio.run(scenario())


def test_the_way_out_of_an_overlay_outlives_a_restart(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, {"n1": NODES["n1"]}) as made:
            made["n1"].spoken_for = ("172.16.0.0/16",)
            await made["n1"].set_tables({"net1": overlay(1, 2)})
            attachments = [Attachment("net1", "overlay", "10.0.1.11")]
            first = await made["n1"].attach("c1", attachments, host_ports=[])
            out = {e.network_id: e.address for e in first.endpoints}[EGRESS_NETWORK]
            assert out.startswith("172.17.")
            pin = tmp_path / "swt-c1"
            run_in(first.netns_fd, lambda: netns.pin(first.netns_fd, pin))
            lab.pins.append(pin)
            await made["n1"].stop(remove=False)
            made["n1"] = again = await started_anew(tmp_path, "n1", NODES["n1"])
            await again.set_tables({"net1": overlay(1, 2)})
            kept = list(first.endpoints)
            adopted = await again.readopt("c1", pin, kept, attachments=attachments, host_ports=[])
            second = await again.attach(
                "c2", [Attachment("net1", "overlay", "10.0.1.20")], host_ports=[]
            )
            addresses = {e.network_id: e.address for e in second.endpoints}
            assert addresses[EGRESS_NETWORK].startswith("172.17.")
            assert addresses[EGRESS_NETWORK] != out
            with contextlib.closing(Server(second.netns_fd, "two", 80)):
                assert ask(adopted.netns_fd, "10.0.1.20", 80)[0] == "two"

    asyncio.run(scenario())


def test_nothing_is_left_after_stop_with_remove(lab: Lab, tmp_path: Path) -> None:
    node = lab.host("n1", NODES["n1"])
    fd = lab.fd(node)

    def facts() -> tuple[set[str], bool]:
        with nl.RouteSocket() as route, NftSocket() as nft:
            return set(route.links()), nft.read(nx.FAMILY_IPV4, "swarm") is None

    async def scenario() -> None:
        network = Network(
            node_id="n1",
            run_dir=tmp_path / "run",
            data_path_addr=NODES["n1"],
            upstream_dns=(),
            bridge_pool="172.16.0.0/12",
            node_netns=node,
        )
        await network.start()
        await network.set_tables({"net1": overlay(1, 2)})
        await join(network, 1)
        assert await network.verify() == 0  # which also makes namespaces for others to come
        assert (await join(network, 2)).netns_fd >= 0
        assert run_in(fd, facts)[0] > before[0]
        await network.stop(remove=True)

    before = run_in(fd, facts)
    descriptors = len(os.listdir("/proc/self/fd"))
    asyncio.run(scenario())
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not list((tmp_path / "run" / "netns").iterdir())
    after = run_in(fd, facts)
    assert after[1]
    assert not {name for name in after[0] - before[0] if not name.startswith("sv")}


def test_a_refused_transaction_changes_nothing(lab: Lab) -> None:
    node = lab.host("n1", NODES["n1"])
    table = nx.table(
        nx.FAMILY_IPV4, "swt", {}, {"m": nx.SetShape((4,), data_size=4)}, {"m": {b"abcd": b"1234"}}
    )

    def body() -> nx.TableState | None:
        with NftSocket() as nft:
            nft.apply(nx.FAMILY_IPV4, "swt", nx.difference(None, table))
            with pytest.raises(OSError, match="message 1 of 2"):
                nft.apply(
                    nx.FAMILY_IPV4,
                    "swt",
                    [
                        nx.AddElements("m", {b"efgh": b"5678"}),
                        nx.RemoveElements("m", (struct.pack("=I", 9),)),
                    ],
                )
            return nft.read(nx.FAMILY_IPV4, "swt")

    assert run_in(lab.fd(node), body) == table
