"""Bridge networks of one machine: published ports, isolation, egress."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from tests.privileged.network.lab import Lab, Server, ask, run_in, start_nodes, started_anew
from worker.network import netns
from worker.network.attachments import (
    Attached,
    Attachment,
    BridgeNetwork,
    NetworkBusy,
    NetworkError,
    PortBinding,
    PortTaken,
)
from worker.network.network import Network

NODE = {"n1": "192.168.77.1"}
CLIENT = "192.168.77.100"


async def bridge(network: Network, name: str, *, internal: bool = False) -> BridgeNetwork:
    return await network.create_bridge_network(
        BridgeNetwork(name, name, bridge=f"swt-{name}", internal=internal)
    )


async def join(network: Network, container: str, name: str, *ports: PortBinding) -> Attached:
    return await network.attach(
        container,
        [Attachment(name, "bridge", aliases=(container,))],
        host_ports=list(ports),
    )


def test_published_ports_answer_outside_and_on_loopback(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        client = lab.fd(lab.host("client", CLIENT))
        async with start_nodes(lab, tmp_path, NODE) as made:
            network = made["n1"]
            await bridge(network, "red")
            web = await join(
                network,
                "web",
                "red",
                PortBinding("tcp", 80, 8080),
                PortBinding("udp", 53, 5353),
                PortBinding("tcp", 80, 8081, "127.0.0.1"),
                PortBinding("tcp", 80),
            )
            other = await join(network, "other", "red")
            node = lab.fd(tmp_path / "swt-n1")
            free = web.ports[3].host_port
            assert free > 1024
            with contextlib.ExitStack() as stack:
                stack.callback(Server(web.netns_fd, "web", 80).close)
                stack.callback(Server(web.netns_fd, "web", 53, udp=True).close)
                assert ask(client, NODE["n1"], 8080)[:2] == ["web", CLIENT]
                assert ask(client, NODE["n1"], free)[:2] == ["web", CLIENT]
                assert ask(client, NODE["n1"], 5353, udp=True)[:2] == ["web", CLIENT]
                assert ask(node, "127.0.0.1", 8080)[0] == "web"
                assert ask(node, "127.0.0.1", 8081)[0] == "web"
                with pytest.raises(ConnectionRefusedError):
                    ask(client, NODE["n1"], 8081)
                # A neighbour, and the container itself, through the node's address.
                assert ask(other.netns_fd, NODE["n1"], 8080)[0] == "web"
                assert ask(web.netns_fd, NODE["n1"], 8080)[0] == "web"
            with pytest.raises(PortTaken, match=r"0:8080 failed: port is already allocated"):
                await join(network, "again", "red", PortBinding("tcp", 80, 8080))
            # The first free port of a range; when there is none, all of it is named.
            ranged = PortBinding("tcp", 80, 8080, host_port_last=8082)
            chosen = await join(network, "ranged", "red", ranged)
            assert chosen.ports == (PortBinding("tcp", 80, 8082, "0.0.0.0"),)
            with pytest.raises(PortTaken, match=r"0\.0\.0\.0:8080-8082"):
                await join(network, "again", "red", ranged)
            with pytest.raises(NetworkError, match="on no network"):
                await network.attach(
                    "alone",
                    [],
                    host_ports=[PortBinding("tcp", 80, 9090)],
                )
            await network.detach("web")
            await join(network, "again", "red", PortBinding("tcp", 80, 8080))
            assert await network.verify() == 0

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
            with contextlib.ExitStack() as stack:
                for fd, name in [
                    (red.netns_fd, "red"),
                    (client, "outside"),
                    (inner.netns_fd, "in"),
                ]:
                    stack.callback(Server(fd, name, 80).close)
                address = red.endpoints[0].address
                assert ask(red2.netns_fd, address, 80)[0] == "red"
                with pytest.raises(TimeoutError):
                    ask(blue.netns_fd, address, 80, timeout_s=0.3)
                assert ask(blue.netns_fd, CLIENT, 80)[:2] == ["outside", NODE["n1"]]
                with pytest.raises(OSError):
                    ask(inner.netns_fd, CLIENT, 80, timeout_s=0.3)
                with pytest.raises(TimeoutError):
                    ask(red.netns_fd, inner.endpoints[0].address, 80, timeout_s=0.3)
            # A second network opens the way.
            await network.connect("b", Attachment("red", "bridge"))
            with contextlib.closing(Server(red.netns_fd, "red", 81)):
                assert ask(blue.netns_fd, address, 81)[0] == "red"
            await network.disconnect("b", "blue")
            with contextlib.closing(Server(client, "outside", 82)):
                assert ask(blue.netns_fd, CLIENT, 82)[0] == "outside"
            await network.connect("b", Attachment("blue", "bridge"))
            await network.disconnect("b", "red")
            names = [name for _, name in run_in(blue.netns_fd, socket.if_nameindex)]
            assert "eth2" in names
            assert not {"eth0", "eth1"} & set(names)
            with pytest.raises(NetworkBusy, match="has containers"):
                await network.remove_bridge_network("red")
            for container in ("r", "r2"):
                await network.detach(container)
            await network.remove_bridge_network("red")

    asyncio.run(scenario())


def test_members_of_a_silent_network_reach_the_node_only(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        client = lab.fd(lab.host("client", CLIENT))
        async with start_nodes(lab, tmp_path, NODE) as made:
            network = made["n1"]
            await network.create_bridge_network(
                BridgeNetwork("quiet", "quiet", bridge="swt-quiet", talkative=False)
            )
            one, two = await join(network, "one", "quiet"), await join(network, "two", "quiet")
            with contextlib.closing(Server(one.netns_fd, "one", 80)):
                with pytest.raises(OSError):
                    ask(two.netns_fd, one.endpoints[0].address, 80, timeout_s=0.3)
                node = lab.fd(tmp_path / "swt-n1")
                assert ask(node, one.endpoints[0].address, 80)[0] == "one"
            with contextlib.closing(Server(client, "outside", 80)):
                assert ask(two.netns_fd, CLIENT, 80)[:2] == ["outside", NODE["n1"]]

    asyncio.run(scenario())


def test_the_way_out_follows_priority_then_name(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODE) as made:
            network = made["n1"]
            for name in ("b", "c"):
                await network.create_bridge_network(
                    BridgeNetwork(name, name, bridge=f"swt-{name}", masquerade=False)
                )
            await bridge(network, "a", internal=True)
            wishes = [Attachment(name, "bridge", mac="02:00:00:00:00:0" + name) for name in "abc"]
            made_on = await network.attach("one", wishes, host_ports=[])
            sources = {e.network_id: e.address for e in made_on.endpoints}
            assert [e.mac for e in made_on.endpoints] == [wish.mac for wish in wishes]

            def source() -> str:
                def chosen() -> str:
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
                        link.connect((CLIENT, 9))
                        return str(link.getsockname()[0])

                return run_in(made_on.netns_fd, chosen)

            assert source() == sources["b"]
            await network.disconnect("one", "c")
            grown = await network.connect("one", Attachment("c", "bridge", priority=1))
            assert source() == grown.endpoints[-1].address
            await network.disconnect("one", "c")
            assert source() == sources["b"]

    asyncio.run(scenario())


def test_a_chosen_subnet_avoids_those_of_the_node(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, {"n1": "172.17.0.9"}) as made:
            found = await bridge(made["n1"], "red")
            assert found.subnet == "172.16.0.0/16"
            assert (await bridge(made["n1"], "blue")).subnet == "172.18.0.0/16"
            with pytest.raises(NetworkError, match="bridge swt-red is another network's"):
                await made["n1"].create_bridge_network(
                    BridgeNetwork("other", "other", bridge="swt-red")
                )

    asyncio.run(scenario())


def test_a_port_taken_while_nobody_held_it_stays_published(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with start_nodes(lab, tmp_path, NODE) as made:
            spec = await bridge(made["n1"], "red")
            web = await join(made["n1"], "web", "red", PortBinding("tcp", 80, 8080))
            pin = tmp_path / "swt-web"
            run_in(web.netns_fd, lambda: netns.pin(web.netns_fd, pin))
            lab.pins.append(pin)
            await made["n1"].stop(remove=False)
            node = tmp_path / "swt-n1"
            with contextlib.closing(run_in(lab.fd(node), lambda: socket.create_server(("", 8080)))):
                made["n1"] = again = await started_anew(tmp_path, "n1", NODE["n1"])
                await again.create_bridge_network(spec)
                adopted = await again.readopt(
                    "web",
                    pin,
                    list(web.endpoints),
                    attachments=[Attachment("red", "bridge", aliases=("web",))],
                    host_ports=list(web.ports),
                )
                assert adopted.ports == web.ports
                with contextlib.closing(Server(adopted.netns_fd, "web", 80)):
                    assert ask(lab.fd(node), NODE["n1"], 8080)[0] == "web"

    asyncio.run(scenario())
