"""Trying out the cluster's network from this node, when the leader asks for it."""

import asyncio
from collections.abc import Callable, Mapping
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
from worker.network import icmp, vantage

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
    asked = []
    for network_id, one in vantages.items():
        table = tables.get(network_id)
        if table is None or table.ingress:
            continue
        serving: dict[str, list[TaskEndpoint]] = {}
        for endpoint in table.endpoints.values():
            if endpoint.state is EndpointState.SERVING:
                serving.setdefault(endpoint.service_id, []).append(endpoint)
        for service in list(table.services.values())[:MOST_SERVICES]:
            port = ports.get(service.service_id, _ANY_PORT)
            backends = serving.get(service.service_id, [])
            asked.append(_ask_service(table.name, one, service, backends, port))
    return tuple(await asyncio.gather(*asked))


async def _ask_service(
    network: str,
    one: Vantage,
    service: ServiceEntry,
    backends: list[TaskEndpoint],
    port: int,
) -> ServiceFinding:
    dns_error = vip_error = ""
    expected = {service.vip} if service.vip else {e.address for e in backends}
    try:
        answered = set(await vantage.resolve(one.pid, service.name))
        if answered != expected:
            got, want = (", ".join(sorted(a)) or "nothing" for a in (answered, expected))
            dns_error = f"answered {got} instead of {want}"
    except OSError as error:
        if expected or not isinstance(error, FileNotFoundError):
            dns_error = error.strerror or str(error)
    if service.vip and backends:
        vip_error = await vantage.connects(one.pid, service.vip, port)
    chosen = backends[:MOST_TASKS]
    tried = await asyncio.gather(*(vantage.connects(one.pid, e.address, port) for e in chosen))
    return ServiceFinding(
        network=network,
        container=one.name,
        service=service.name,
        dns_error=dns_error,
        vip_error=vip_error,
        silent=tuple(e.name for e, error in zip(chosen, tried, strict=True) if error),
    )
