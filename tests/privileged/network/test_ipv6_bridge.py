"""Bridge networks with IPv6: published ports, isolation, egress, names, takeover."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from swarmapi.model.tables import NetworkTable, NodeEntry
from tests.privileged.network.lab import (
    Lab,
    Server,
    ask,
    ipv6_of,
    run_in,
    start_nodes,
    started_anew,
)
from worker.network import netns
from worker.network import nftexpr as nx
from worker.network.attachments import (
    Attached,
    Attachment,
    BridgeNetwork,
    NetworkError,
    PortBinding,
    PortTaken,
)
from worker.network.network import Network
from worker.network.nft import NftSocket

NODE = {"n1": "192.168.77.1"}
NODE6 = ipv6_of(NODE["n1"])
CLIENT = "192.168.77.100"
CLIENT6 = ipv6_of(CLIENT)


async def bridge(
    network: Network, name: str, *, internal: bool = False, ipv4: bool = True
) -> BridgeNetwork:
    return await network.create_bridge_network(
        BridgeNetwork(name, name, bridge=f"swt-{name}", internal=internal, ipv4=ipv4, ipv6=True)
    )


async def join(network: Network, container: str, name: str, *ports: PortBinding) -> Attached:
    wish = Attachment(name, "bridge", aliases=(container,))
    return await network.attach(container, [wish], host_ports=list(ports))


def test_a_port_is_published_in_both_families(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        client = lab.fd(lab.host("client", CLIENT))
        async with start_nodes(lab, tmp_path, NODE) as made:
            network = made["n1"]
            await bridge(network, "red")
            ports = (
                PortBinding("tcp", 80, 8080),
                PortBinding("udp", 53, 5353),
                PortBinding("tcp", 80, 8081, "::1"),
                PortBinding("tcp", 80, 8082, "::"),
                PortBinding("tcp", 80),
            )
            web = await join(network, "web", "red", *ports)
            other = await join(network, "other", "red")
            node = lab.fd(tmp_path / "swt-n1")
            assert [(p.host_ip, p.host_port) for p in web.ports[:2]] == [
                ("0.0.0.0", 8080),
                ("::", 8080),
            ]
            assert web.ports[-1].host_port == web.ports[-2].host_port > 1024
            with contextlib.ExitStack() as stack:
                stack.callback(Server(web.netns_fd, "web", 80).close)
                stack.callback(Server(web.netns_fd, "web", 53, udp=True).close)
                for place, seen in ((NODE["n1"], CLIENT), (NODE6, CLIENT6)):
                    assert ask(client, place, 8080)[:2] == ["web", seen]
                    assert ask(client, place, 5353, udp=True)[:2] == ["web", seen]
                    assert ask(client, place, web.ports[-1].host_port)[0] == "web"
                    # A neighbour, and the container itself, through the node's address.
                    assert ask(other.netns_fd, place, 8080)[0] == "web"
                    assert ask(web.netns_fd, place, 8080)[0] == "web"
                assert ask(node, "127.0.0.1", 8080)[0] == "web"
                for port in (8080, 8081, 8082):
                    assert (await asyncio.to_thread(ask, node, "::1", port))[0] == "web"
                assert (await asyncio.to_thread(ask, node, "::1", 5353, udp=True))[0] == "web"
                assert ask(client, NODE6, 8082)[0] == "web"
                for place, port in ((NODE6, 8081), (NODE["n1"], 8082)):
                    with pytest.raises(ConnectionRefusedError):
                        ask(client, place, port)
            with pytest.raises(PortTaken, match=r"\[::\]:8082 failed"):
                await join(network, "again", "red", PortBinding("tcp", 80, 8082))
            assert await network.verify() == 0
            await network.detach("web")
            await join(network, "again", "red", PortBinding("tcp", 80, 8082))

    asyncio.run(scenario())


def test_a_family_the_container_lacks_is_not_listened_on(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODE) as made:
            network = made["n1"]
            await network.create_bridge_network(BridgeNetwork("old", "old", bridge="swt-old"))
            await bridge(network, "new", ipv4=False)
            old = await join(network, "a", "old", PortBinding("tcp", 80, 8080))
            new = await join(network, "b", "new", PortBinding("tcp", 80, 8080))
            assert [p.host_ip for p in old.ports] == ["0.0.0.0"]
            assert [p.host_ip for p in new.ports] == ["::"]
            assert not old.endpoints[0].ipv6_address
            assert not new.endpoints[0].address
            for name, address in (("old", "::1"), ("new", "127.0.0.1")):
                with pytest.raises(NetworkError, match="has no IPv"):
                    await join(network, "c", name, PortBinding("tcp", 80, 8081, address))

            def links_with_ipv6() -> set[str]:
                lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
                return {line.split()[-1] for line in lines}

            assert run_in(old.netns_fd, links_with_ipv6) == {"lo"}
            assert run_in(new.netns_fd, links_with_ipv6) == {"lo", "eth0"}

    asyncio.run(scenario())


def test_networks_are_isolated_and_egress_is_masqueraded(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        client = lab.fd(lab.host("client", CLIENT))
        async with start_nodes(lab, tmp_path, NODE) as made:
            network = made["n1"]
            await bridge(network, "red")
            await bridge(network, "blue")
            await bridge(network, "inner", internal=True)
            red, red2 = await join(network, "r", "red"), await join(network, "r2", "red")
            blue, inner = await join(network, "b", "blue"), await join(network, "i", "inner")
            address = red.endpoints[0].ipv6_address
            with contextlib.ExitStack() as stack:
                for fd, name in ((red.netns_fd, "red"), (client, "outside"), (inner.netns_fd, "i")):
                    stack.callback(Server(fd, name, 80).close)
                assert ask(red2.netns_fd, address, 80)[0] == "red"
                with pytest.raises(TimeoutError):
                    ask(blue.netns_fd, address, 80, timeout_s=0.3)
                assert ask(blue.netns_fd, CLIENT6, 80)[:2] == ["outside", NODE6]
                with pytest.raises(OSError):
                    ask(inner.netns_fd, CLIENT6, 80, timeout_s=0.3)
                with pytest.raises(TimeoutError):
                    ask(red.netns_fd, inner.endpoints[0].ipv6_address, 80, timeout_s=0.3)

            def found(name: str) -> set[str]:
                answers = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
                return {str(one[4][0]) for one in answers}

            names = network._desired.names["r2"] if network._desired else None
            assert names is not None
            assert set(names.forward["r"]) == {red.endpoints[0].address, address}
            assert names.reverse[address] == "r.red"

    asyncio.run(scenario())


def test_addresses_are_chosen_given_back_and_taken_over(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODE) as made:
            network = made["n1"]
            red, blue = await bridge(network, "red"), await bridge(network, "blue")
            assert red.ipv6_subnet.startswith("fd")
            assert red.ipv6_subnet != blue.ipv6_subnet
            with pytest.raises(NetworkError, match="overlaps"):
                await network.create_bridge_network(
                    BridgeNetwork("x", "x", bridge="swt-x", ipv6=True, ipv6_subnet=red.ipv6_subnet)
                )
            given = red.ipv6_subnet.replace("::/64", "::77")
            wish = Attachment("red", "bridge", ipv6_address=given)
            made_so = await network.attach("a", [wish], host_ports=[])
            assert made_so.endpoints[0].ipv6_address == given
            with pytest.raises(NetworkError, match="in use"):
                await network.attach("b", [wish], host_ports=[])
            await network.detach("a")
            kept = await network.attach("b", [wish], host_ports=[])
            path = tmp_path / "pin-b"
            netns.pin(kept.netns_fd, path)
            lab.pins.append(path)
            await network.stop(remove=False)
            later = Network(
                node_id="",
                run_dir=tmp_path / "run-n1",
                data_path_addr="",
                upstream_dns=(),
                bridge_pool="172.16.0.0/12",
                node_netns=tmp_path / "swt-n1",
            )
            made["n1"] = later
            await later.start()
            await later.create_bridge_network(red)
            again = await later.readopt(
                "b", path, list(kept.endpoints), attachments=[wish], host_ports=[]
            )
            assert again.endpoints == kept.endpoints
            with pytest.raises(NetworkError, match="in use"):
                await later.attach("c", [wish], host_ports=[])

    asyncio.run(scenario())


def test_the_ipv6_table_is_repaired(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        client = lab.fd(lab.host("client", CLIENT))
        async with start_nodes(lab, tmp_path, NODE) as made:
            network = made["n1"]
            await bridge(network, "red")
            web = await join(network, "web", "red", PortBinding("tcp", 80, 8080))

            def remove_table() -> None:
                nft = NftSocket()
                nft.apply(nx.FAMILY_IPV6, "swarm", [nx.RemoveTable()])
                nft.close()

            run_in(lab.fd(tmp_path / "swt-n1"), remove_table)
            assert await network.verify() > 0
            with contextlib.closing(Server(web.netns_fd, "web", 80)):
                assert ask(client, NODE6, 8080)[:2] == ["web", CLIENT6]

    asyncio.run(scenario())


def test_ipv6_that_was_turned_off_on_purpose_stays_off(lab: Lab, tmp_path: Path) -> None:
    """A restart turns it on again for nobody, and what cannot be mended is no drift."""

    def turn_off() -> None:
        netns.write_sysctl("ipv6/conf/swt-red/disable_ipv6", 1)

    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODE) as made:
            spec = await bridge(made["n1"], "red")
            node = lab.fd(tmp_path / "swt-n1")
            run_in(node, turn_off)
            assert await made["n1"].verify() == 0
            await made["n1"].stop(remove=False)
            made["n1"] = again = await started_anew(tmp_path, "n1", NODE["n1"])
            await again.create_bridge_network(spec)
            assert run_in(node, lambda: netns.ipv6_is_off("swt-red"))
            assert await again.verify() == 0
            # A bridge that is made anew is given it anew.
            await again.remove_bridge_network("red")
            await again.create_bridge_network(spec)
            assert not run_in(node, lambda: netns.ipv6_is_off("swt-red"))

    asyncio.run(scenario())


def test_the_mesh_gives_a_node_no_ipv6_that_is_to_have_none(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODE) as made:
            node = lab.fd(tmp_path / "swt-n1")
            run_in(node, lambda: netns.write_sysctl("ipv6/conf/all/disable_ipv6", 1))
            entry = NodeEntry(
                node_id="n1",
                data_path=NODE["n1"],
                gateway="10.255.0.2",
                ipv6_gateway="fd0f::2",
            )
            mesh = NetworkTable(
                network_id="mesh",
                name="ingress",
                revision=1,
                subnet="10.255.0.0/24",
                gateway="10.255.0.1",
                further_subnets=("fd0f::/64",),
                vni=4096,
                ingress=True,
                nodes={"n1": entry},
            )
            await made["n1"].set_tables({"mesh": mesh})
            assert run_in(node, lambda: netns.ipv6_is_off("swarm-ingress"))
            assert await made["n1"].verify() == 0

    asyncio.run(scenario())
