"""Nodes as namespaces of the benchmark's own, with our network on them, and what is asked there."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from swarmapi.model.tables import NetworkTable
from tests.privileged.network.lab import Lab, run_in, start_nodes
from worker.network import netlink as nl
from worker.network import netns
from worker.network import nftexpr as nx
from worker.network.attachments import Attachment, NetworkKind, mac_of
from worker.network.network import Network
from worker.network.nft import NftSocket

SCRIPT = Path(__file__).with_name("ping.py")
PORT = 80
CONNECTIONS = 1000
"""In each sample."""
MTU = 1450


class Nodes:
    """Machines on one underlay; those of `addresses` have our network on them."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._stack = ExitStack()
        try:
            self.runner = self._stack.enter_context(asyncio.Runner())
            place = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="swarm-bench-"))
            self.lab = Lab(Path(place))
            self._stack.callback(self.lab.close)
            started = start_nodes(self.lab, Path(place), addresses)
            self.networks: dict[str, Network] = self.runner.run(started.__aenter__())
            self._stack.callback(lambda: self.runner.run(started.__aexit__(None, None, None)))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End and remove everything."""
        self._stack.close()

    def set_tables(self, *tables: NetworkTable) -> None:
        """Give every node the same tables."""
        for network in self.networks.values():
            self.runner.run(network.set_tables({t.network_id: t for t in tables}))

    def attach(
        self, node: str, container: str, network: str, address: str, kind: NetworkKind = "overlay"
    ) -> int:
        """Return the namespace of a new container on an overlay."""
        wish = Attachment(network, kind, address)
        made = self.networks[node].attach(container, [wish], host_ports=[])
        return self.runner.run(made).netns_fd

    def host(self, name: str, address: str) -> int:
        """Return the namespace of one more machine, which has nothing of ours."""
        return self.lab.fd(self.lab.host(name, address))

    def keep(self, fd: int) -> None:
        """Close a descriptor at the end."""
        self._stack.callback(os.close, fd)

    def serve(self, fd: int) -> None:
        """Have `ping.py` answer in a namespace, until the end."""
        server = subprocess.Popen(
            _command(fd, "serve", PORT), pass_fds=(fd,), stdout=subprocess.PIPE
        )
        self._stack.callback(server.wait)
        self._stack.callback(server.kill)
        assert server.stdout is not None
        with server.stdout as told:
            if not told.readline():
                raise RuntimeError("the server did not start")

    def ask(self, fd: int, address: str, port: int = PORT) -> float:
        """Return microseconds of a short connection from a namespace."""
        return _asked(fd, "ask", address, port, CONNECTIONS)

    def pull(self, fd: int, address: str, port: int = PORT) -> float:
        """Return milliseconds of a long connection into a namespace."""
        return _asked(fd, "pull", address, port)


class PlainWay:
    """A VXLAN without rules, and `ping.py` behind it, to which a client comes by routing.

    That is the mesh's own way: client, node, VXLAN, other node, replica. With `tracked`, node and
    replica track connections, as they do where anything has a stateful firewall.
    """

    def __init__(self, nodes: Nodes, client: int, number: int, *, tracked: bool) -> None:
        prefix, machines = f"10.25{number}.0", (f"192.168.77.{number}1", f"192.168.77.{number}2")
        way, self.address = f"{prefix}.1", f"{prefix}.20"
        first, second = (nodes.host(f"plain{number}{i}", m) for i, m in enumerate(machines))
        replica = run_in(first, netns.create)
        nodes.keep(replica)
        _vxlan(first, machines[0], self.address, machines[1], mac_of(way))
        _vxlan(second, machines[1], way, machines[0])
        run_in(first, lambda: netns.write_sysctl("ipv4/ip_forward", 1))
        _on(first, lambda r: [nl.add_address(r.index("br0"), f"{way}/24")])
        mac = mac_of(self.address)
        _on(
            second,
            lambda r: [
                nl.add_veth("v0", "eth0", replica, mtu=MTU, master=r.index("br0"), peer_mac=mac)
            ],
        )
        _configure(replica, "eth0", f"{self.address}/24")
        _on(replica, lambda r: [nl.default_route(way, r.index("eth0"))])
        self._client, self._by = client, machines[0]
        for fd in (first, replica) if tracked else ():
            run_in(fd, _track)
        nodes.serve(replica)

    def choose(self) -> str:
        """Have the client come this way from now on; return whom to ask."""
        _on(self._client, lambda r: [nl.default_route(self._by, r.index("eth0"))])
        return self.address


def _configure(fd: int, interface: str, place: str) -> None:
    _on(fd, lambda r: [nl.set_link(r.index(interface), up=True)])
    _on(fd, lambda r: [nl.add_address(r.index(interface), place)])


def _track() -> None:
    """Have the calling thread's namespace track connections: any chain that may rewrite does."""
    chains = {"output": nx.Chain((), "nat", nx.HOOK_OUTPUT, -100)}
    with NftSocket() as nft:
        wanted = nx.table(nx.FAMILY_IPV4, "tracked", chains, {}, {})
        nft.apply(nx.FAMILY_IPV4, "tracked", nx.difference(None, wanted))


def _vxlan(fd: int, own: str, far: str, peer: str, mac: str = "") -> None:
    """Make a bridge with a VXLAN, by which the address `far` is behind the machine `peer`."""
    _on(fd, lambda _: [nl.add_bridge("br0", MTU, mac), nl.add_vxlan("vx0", 99, own, 4790, MTU)])

    def entries(route: nl.RouteSocket) -> Sequence[nl.Message]:
        vxlan = route.index("vx0")
        return [
            nl.set_link(vxlan, up=True, master=route.index("br0")),
            nl.fdb_entry(vxlan, mac_of(far), peer),
            nl.neighbour(vxlan, far, mac_of(far)),
        ]

    _on(fd, entries)


def _on(fd: int, messages: Callable[[nl.RouteSocket], Sequence[nl.Message]]) -> None:
    def body() -> None:
        with nl.RouteSocket() as route:
            route.batch(messages(route))

    run_in(fd, body)


def _asked(fd: int, *words: object) -> float:
    command = _command(fd, *words)
    return float(subprocess.run(command, pass_fds=(fd,), check=True, stdout=subprocess.PIPE).stdout)


def _command(fd: int, *words: object) -> list[str]:
    inside = ["nsenter", f"--net=/proc/self/fd/{fd}", "--"]
    return [*inside, sys.executable, "-S", "-E", str(SCRIPT), *map(str, words)]
