"""`service inspect --pretty`: a service for people, in Docker's lay-out."""

from collections.abc import Iterator
from typing import Any

from swarmctl import table
from swarmctl.http import Client, segment
from swarmctl.table import bytes_binary

_SECOND_NS = 10**9


def show(client: Client, name: str) -> None:
    """Print one service; raises DaemonError when there is none."""
    service = client.get(f"/services/{segment(name)}", insertDefaults="true")
    attached = service["Spec"]["TaskTemplate"].get("Networks") or []
    names = [
        client.get(f"/networks/{segment(one['Target'])}", scope="swarm")["Name"] for one in attached
    ]
    print("\n".join(["", *lines(service, names), ""]))


def lines(service: Any, networks: list[str]) -> Iterator[str]:
    """Yield the lines of a service whose networks have these names."""
    spec = service["Spec"]
    template = spec["TaskTemplate"]
    container = template.get("ContainerSpec") or {}
    yield f"ID:\t\t{service['ID']}"
    yield f"Name:\t\t{spec['Name']}"
    if spec.get("Labels"):
        yield "Labels:"
        yield from (f" {key}={value}" for key, value in sorted(spec["Labels"].items()))
    yield from _mode(spec.get("Mode") or {})
    yield from _status(service.get("UpdateStatus") or {})
    yield from _placement(template.get("Placement") or {})
    for heading, word in (("UpdateConfig", "Update"), ("RollbackConfig", "Rollback")):
        if spec.get(heading):
            yield from _update(heading, word, spec[heading])
    yield from _container(container)
    yield from _mounts(container.get("Mounts") or [])
    for heading, kind in (("Configs", "Config"), ("Secrets", "Secret")):
        if container.get(heading):
            yield f"{heading}:"
            yield from _references(kind, container[heading])
    yield from _resources(template.get("Resources") or {})
    if networks:
        yield "Networks: " + " ".join(networks) + " "
    if balancing := (spec.get("EndpointSpec") or {}).get("LoadBalancing"):
        yield f"Load Balancing:\t{balancing}"
    yield f"Endpoint Mode:\t{(spec.get('EndpointSpec') or {}).get('Mode') or 'vip'}"
    yield from _ports((service.get("Endpoint") or {}).get("Ports") or [])


def _mode(mode: Any) -> Iterator[str]:
    kind = next(iter(mode), "Replicated")
    options = mode.get(kind) or {}
    yield f"Service Mode:\t{kind}"
    if kind == "Replicated":
        yield f" Replicas:\t{options.get('Replicas', 1)}"
    if kind == "ReplicatedJob":
        yield f" Max Concurrent:\t{options.get('MaxConcurrent', 1)}"
        yield f" Total Completions:\t{options.get('TotalCompletions', 1)}"


def _status(status: Any) -> Iterator[str]:
    if not status:
        return
    yield "UpdateStatus:"
    yield f" State:\t\t{status['State']}"
    for heading, moment in (
        (" Started:\t", "StartedAt"),
        (" Completed:\t", "CompletedAt"),
    ):
        if status.get(moment):
            yield f"{heading}{table.age(table.since(status[moment])).lower()} ago"
    yield f" Message:\t{status.get('Message', '')}"


def _placement(placement: Any) -> Iterator[str]:
    yield "Placement:"
    if placement.get("Constraints"):
        yield f" Constraints:\t[{' '.join(placement['Constraints'])}]"
    spread = [one["Spread"]["SpreadDescriptor"] for one in placement.get("Preferences") or []]
    if spread:
        yield f" Preferences:\t[{' '.join(f'spread={one}' for one in spread)}]"
    if placement.get("MaxReplicas"):
        yield f" Max Replicas Per Node:\t{placement['MaxReplicas']}"


def _update(heading: str, word: str, config: Any) -> Iterator[str]:
    yield f"{heading}:"
    yield f" Parallelism:\t{config.get('Parallelism', 0)}"
    if config.get("Delay"):
        yield f" Delay:\t\t{_duration(config['Delay'])}"
    yield f" On failure:\t{config.get('FailureAction') or 'pause'}"
    yield f" Monitoring Period: {_duration(config.get('Monitor') or 5 * _SECOND_NS)}"
    yield f" Max failure ratio: {config.get('MaxFailureRatio', 0):g}"
    yield f" {word} order:{' ' * (12 - len(word))}{config.get('Order') or 'stop-first'}"


def _container(container: Any) -> Iterator[str]:
    yield "ContainerSpec:"
    yield f" Image:\t\t{container.get('Image', '')}"
    for heading, key in ((" Command:\t", "Command"), (" Args:\t\t", "Args"), (" Env:\t\t", "Env")):
        if container.get(key):
            yield heading + " ".join(container[key]) + " "
    for heading, key in (
        (" Dir:\t\t", "Dir"),
        (" User:\t\t", "User"),
        (" Hostname:\t", "Hostname"),
    ):
        if container.get(key):
            yield f"{heading}{container[key]}"
    if container.get("Init") is not None:
        yield f" Init:\t\t{str(container['Init']).lower()}"


def _mounts(mounts: list[Any]) -> Iterator[str]:
    if mounts:
        yield "Mounts:"
    for mount in mounts:
        yield f" Target:\t{mount['Target']}"
        yield f"  Source:\t{mount.get('Source', '')}"
        yield f"  ReadOnly:\t{str(mount.get('ReadOnly', False)).lower()}"
        yield f"  Type:\t\t{mount['Type']}"


def _references(kind: str, references: list[Any]) -> Iterator[str]:
    for one in references:
        yield f" Target:\t{(one.get('File') or {}).get('Name', '')}"
        followed = " (followed)" if one.get("Follow") else ""
        yield f"  Source:\t{one[f'{kind}Name']}{followed}"


def _resources(resources: Any) -> Iterator[str]:
    yield "Resources:"
    for heading in ("Reservations", "Limits"):
        found = resources.get(heading) or {}
        if found.get("NanoCPUs") or found.get("MemoryBytes"):
            yield f" {heading}:"
        if found.get("NanoCPUs"):
            yield f"  CPU:\t\t{found['NanoCPUs'] / 1e9:g}"
        if found.get("MemoryBytes"):
            yield f"  Memory:\t{bytes_binary(found['MemoryBytes'])}"


def _ports(ports: list[Any]) -> Iterator[str]:
    if ports:
        yield "Ports:"
    for port in ports:
        yield f" PublishedPort = {port.get('PublishedPort', 0)}"
        yield f"  Protocol = {port.get('Protocol') or 'tcp'}"
        yield f"  TargetPort = {port['TargetPort']}"
        yield f"  PublishMode = {port.get('PublishMode') or 'ingress'}"
        for key in ("Source", "Address", "Interface"):
            if port.get(key):
                yield f"  {key} = {port[key]}"


def _duration(nanos: int) -> str:
    """Return a span as Go writes it: `1m30s`, `500ms`."""
    if nanos % _SECOND_NS or nanos < _SECOND_NS:
        return f"{nanos / _SECOND_NS:g}s" if nanos >= _SECOND_NS else f"{nanos / 10**6:g}ms"
    minutes, seconds = divmod(nanos // _SECOND_NS, 60)
    hours, minutes = divmod(minutes, 60)
    return (
        (f"{hours}h" if hours else "")
        + (f"{minutes}m" if hours or minutes else "")
        + (f"{seconds}s")
    )
