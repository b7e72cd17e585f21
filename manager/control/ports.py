"""Published ports of a service: what is kept of those before, and what others have."""

from collections import defaultdict

from msgspec.structs import replace

from manager.store.ports import (
    collides,
    has_place_or_source,
    is_ingress,
    key_of,
    place_of,
    ports_of,
    shown,
)
from manager.store.view import View
from swarmapi.errors import InvalidArgument
from swarmapi.model.spec import PortConfig, ServiceSpec


def with_ports(spec: ServiceSpec, old: ServiceSpec | None) -> ServiceSpec:
    """Keep source and place of ports that a client which does not know them wrote back.

    One that does says `client`, which is what a blank source means once it is stored.
    """
    if spec.endpoint_spec is None or not spec.endpoint_spec.ports:
        return spec
    named = [port for port in spec.endpoint_spec.ports if has_place_or_source(port)]
    before: defaultdict[PortConfig, list[PortConfig]] = defaultdict(list)
    for port in ports_of(old) if old is not None else ():
        if port not in named:
            before[_plain(port)].append(port)
    ports = tuple(_stored(port, before[_plain(port)]) for port in spec.endpoint_spec.ports)
    return replace(spec, endpoint_spec=replace(spec.endpoint_spec, ports=ports))


def _plain(port: PortConfig) -> PortConfig:
    """Return a port as Docker's clients know it, with what they may leave out."""
    return replace(
        port,
        protocol=port.protocol or "tcp",
        publish_mode=port.publish_mode or "ingress",
        source="",
        address="",
        interface="",
    )


def _stored(port: PortConfig, before: list[PortConfig]) -> PortConfig:
    """Return a port as it is kept: one that names nothing is the next of those `before`."""
    if before and not has_place_or_source(port):
        return before.pop(0)
    return replace(port, source="") if port.source == "client" else port


def check_ports(view: View, spec: ServiceSpec, service_id: str) -> None:
    """Refuse a port of the mesh that another service has, allocated or not, or that hosts give."""
    for port in ports_of(spec):
        if not port.published_port:
            continue
        for service in view.others_at(key_of(port), service_id):
            theirs = [*filter(is_ingress, service.endpoint.ports), *ports_of(service.spec)]
            for other in theirs:
                if not collides(port, other) or not (is_ingress(port) or is_ingress(other)):
                    continue
                what = "an ingress" if is_ingress(other) else "a host-published"
                raise InvalidArgument(
                    f"port '{shown(place_of(other))}{other.published_port}' is already in use by"
                    f" service '{service.spec.name}' ({service.id}) as {what} port"
                )
