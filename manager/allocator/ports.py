"""Published ports: cluster-wide in ingress mode, dynamic when none is named."""

from msgspec.structs import replace

from manager.store.ports import (
    PortKey,
    collides,
    is_ingress,
    key_of,
    place_of,
    ports_of,
    shown,
)
from manager.store.view import View
from swarmapi.model import defaults
from swarmapi.model.objects import Service
from swarmapi.model.spec import PortConfig, ServiceSpec


def needs_ingress(spec: ServiceSpec) -> bool:
    """Tell whether tasks of a spec need the ingress network."""
    return any(is_ingress(p) for p in ports_of(spec))


def port_conflict(view: View, spec: ServiceSpec, service_id: str = "") -> str:
    """Return why a spec's ports cannot be published, naming the owner; empty when they can."""
    seen: list[PortConfig] = []
    for port in ports_of(spec):
        if not is_ingress(port) or not port.published_port:
            continue
        protocol, number = key_of(port)
        named = f"port {shown(place_of(port))}{number}/{protocol}"
        for service in view.others_at((protocol, number), service_id):
            if any(is_ingress(p) and collides(p, port) for p in service.endpoint.ports):
                owner = f"service {service.spec.name!r} (id {service.id})"
                return (
                    f"{named} is already published by {owner}: "
                    "choose another port or remove it there"
                )
        if any(collides(port, other) for other in seen):
            return f"{named} is published twice by the service"
        seen.append(port)
    return ""


def allocate_ports(view: View, service: Service) -> tuple[tuple[PortConfig, ...], str]:
    """Return the effective ports, or the ports so far and why not.

    A dynamic port given before to the same target is kept over updates.
    """
    error = port_conflict(view, service.spec, service.id)
    if error:
        return (), error
    wanted = ports_of(service.spec)
    mine = {key_of(p) for p in wanted if is_ingress(p) and p.published_port}
    kept = _kept(service, wanted, mine)
    mine.update(kept.values())
    ports: list[PortConfig] = []
    for position, port in enumerate(wanted):
        protocol = port.protocol or "tcp"
        if port.published_port or not is_ingress(port):
            ports.append(replace(port, protocol=protocol))
            continue
        number = kept[position][1] if position in kept else 0
        number = number or _dynamic(view, service.id, protocol, mine)
        if not number:
            return (), f"no free {protocol} port in 30000-32767: publish a port by number"
        mine.add((protocol, number))
        ports.append(replace(port, protocol=protocol, published_port=number))
    return tuple(ports), ""


def _kept(
    service: Service, wanted: tuple[PortConfig, ...], mine: set[PortKey]
) -> dict[int, PortKey]:
    """Return, by position in `wanted`, the port that the same target had before."""
    left = [p for p in service.endpoint.ports if is_ingress(p)]
    kept: dict[int, PortKey] = {}
    for position, port in enumerate(wanted):
        if port.published_port or not is_ingress(port):
            continue
        protocol = port.protocol or "tcp"
        for old in left:
            key = key_of(old)
            same = key[0] == protocol and old.target_port == port.target_port
            if same and key not in mine:
                kept[position] = key
                left.remove(old)
                break
    return kept


def _dynamic(view: View, service_id: str, protocol: str, mine: set[PortKey]) -> int:
    first, last = defaults.DYNAMIC_PORTS
    for number in range(first, last + 1):
        key = (protocol, number)
        if key not in mine and not view.publishers.of(key) - {service_id}:
            return number
    return 0
