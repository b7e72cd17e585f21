"""Trying out the cluster's network from this node, when the leader asks for it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from swarmapi.model.probes import (
    VXLAN_BYTES,
    PairFinding,
    ProbeFindings,
    ProbeOrder,
    ServiceFinding,
)
from swarmapi.model.tables import EndpointState, NetworkTable, ServiceEntry, TaskEndpoint
from swarmapi.v1 import dispatcher_pb2 as pb
from worker.agent.ports import Vantage
from worker.network import icmp, netns, vantage
from worker.network.family import IPV4, IPV6, Family
from worker.network.local import ipv4_only
from worker.network.plan import network_names

RUNGS: Final = (100, 576, 1280)
"""Sizes below the full one; what passes tells the size of the hole."""
MOST_SERVICES: Final = 50
"""Asked about in each network; and of each so many tasks."""
MOST_TASKS: Final = 10
_ANY_PORT: Final = 9
"""Where no published port tells what the tasks listen on: a refusal will do."""


async def answer(
    request: pb.ProbeRequest,
    tables: Mapping[str, NetworkTable],
    vantages: Callable[[], Mapping[str, Vantage]],
) -> pb.Probed:
    """Try out what is asked for; what goes wrong is told instead of raised."""
    try:
        order = msgspec.msgpack.decode(request.order, type=ProbeOrder)
        pairs, services = await asyncio.gather(ask_peers(order), ask_services(tables, vantages()))
        findings = ProbeFindings(pairs=pairs, services=services)
    except (OSError, msgspec.MsgspecError) as error:
        findings = ProbeFindings(error=str(error))
    return pb.Probed(request_id=request.request_id, findings=msgspec.msgpack.encode(findings))


async def ask_peers(order: ProbeOrder) -> tuple[PairFinding, ...]:
    """Climb both ladders to every peer; raises OSError as `icmp.ladder`."""
    below = [peer.data_path for peer in order.peers if ":" not in peer.data_path]
    above = [peer.gateway for peer in order.peers if peer.gateway]
    underlay, overlay = await asyncio.gather(
        icmp.ladder(below, (*RUNGS, order.mtu + VXLAN_BYTES)),
        icmp.ladder(above, (*RUNGS, order.mtu)),
    )
    found = []
    for peer in order.peers:
        low, high = underlay.get(peer.data_path), overlay.get(peer.gateway)
        found.append(
            PairFinding(
                node_id=peer.node_id,
                underlay_bytes=low.largest_bytes if low is not None else None,
                overlay_bytes=high.largest_bytes if high is not None else None,
                round_trip_us=round((low or high or icmp.Echoed()).round_trip_s * 1e6),
            )
        )
    return tuple(found)


async def ask_services(
    tables: Mapping[str, NetworkTable], vantages: Mapping[str, Vantage]
) -> tuple[ServiceFinding, ...]:
    """Ask for every service of every network that one of this node's tasks is on."""
    ports = {
        service.service_id: service.ports[0].target
        for table in tables.values()
        if table.ingress
        for service in table.services.values()
        if service.ports
    }
    asked = [
        _ask_network(table, one, ports)
        for network_id, one in vantages.items()
        if (table := tables.get(network_id)) is not None and not table.ingress
    ]
    return tuple(one for found in await asyncio.gather(*asked) for one in found)


async def _ask_network(
    table: NetworkTable, one: Vantage, ports: Mapping[str, int]
) -> Sequence[ServiceFinding]:
    """Ask for the services of one network; a container that ends meanwhile has found nothing."""
    table = table if netns.has_ipv6() else ipv4_only(table)
    try:
        with vantage.entered(one.pid) as inside:
            inquiry = Inquiry(table, one.name, inside)
            services = list(table.services.values())[:MOST_SERVICES]
            asked = [inquiry.ask(s, ports.get(s.service_id, _ANY_PORT)) for s in services]
            found = await asyncio.gather(*asked)
            return found if inside.is_there() else ()
    except (FileNotFoundError, ProcessLookupError):
        return ()


class Inquiry:
    """What one container learns of its network's services, compared with the network's table."""

    def __init__(self, table: NetworkTable, container: str, inside: vantage.Inside) -> None:
        self._table = table
        self._container = container
        self._inside = inside
        self._names = network_names(table, table.network_id, ()).forward
        self._families = [f for f in (IPV4, IPV6) if f is IPV4 or f.of(table.subnets())]
        self._serving: dict[str, list[TaskEndpoint]] = {}
        for endpoint in table.endpoints.values():
            if endpoint.state is EndpointState.SERVING:
                self._serving.setdefault(endpoint.service_id, []).append(endpoint)

    async def ask(self, service: ServiceEntry, port: int) -> ServiceFinding:
        """Ask for a service's name, its VIPs and some of its tasks."""
        # The name that is this network's alone: the container may be on several.
        name = f"{service.name}.{self._table.name}".lower()
        expected = self._names.get(name, ())
        backends = self._serving.get(service.service_id, [])
        names = [await self._ask_name(name, f, f.of(expected)) for f in self._families]
        vips = [v for v in service.vips() if v in expected] if backends else []
        silent = [await self._inside.connects(vip, port) for vip in vips]
        places = [(e.name, a) for e in backends[:MOST_TASKS] for a in e.addresses()]
        tried = await asyncio.gather(*(self._inside.connects(a, port) for _, a in places))
        return ServiceFinding(
            network=self._table.name,
            container=self._container,
            service=service.name,
            dns_error="; ".join(filter(None, names)),
            vip_error="; ".join(filter(None, silent)),
            silent=tuple(
                f"{task} at {address}"
                for (task, address), error in zip(places, tried, strict=True)
                if error
            ),
        )

    async def _ask_name(self, name: str, family: Family, expected: Sequence[str]) -> str:
        """Return what is wrong with a name's addresses of a family; empty where nothing is."""
        try:
            answered = await self._inside.resolve(name, family)
        except OSError as error:
            unknown = isinstance(error, FileNotFoundError)
            return "" if unknown and not expected else error.strerror or str(error)
        if set(answered) == set(expected):
            return ""
        got, want = (", ".join(sorted(a)) or "nothing" for a in (answered, expected))
        return f"answered {got} instead of {want}"
