"""Containers, images and networks in Docker's JSON."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from runtime.image.errors import ImageNotFound
from runtime.image.model import Image
from runtime.oci import MASKED_PATHS, READONLY_PATHS
from worker.engine.endpoints import EndpointSpec, parse_link
from worker.engine.engine import Engine
from worker.engine.launcher import parse_port
from worker.engine.record import EndpointState, Health, MountPoint, Record
from worker.engine.rfc3339 import format_ns
from worker.engine.spec import RUNTIMES

_HOST_DEFAULTS: dict[str, Any] = {
    "VolumeDriver": "", "Cgroup": "", "Isolation": "",
    "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0,
    "DeviceRequests": None, "CpuCount": 0,
    "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
}  # fmt: skip
_LEFT_OUT_EMPTY = ("Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs")


def container_details(engine: Engine, record: Record, exec_ids: Sequence[str]) -> dict[str, Any]:
    """Render `GET /containers/{id}/json`."""
    directory = engine.places.directory(record.id)
    host = msgspec.to_builtins(record.host)
    host["CgroupnsMode"] = record.host.cgroupns_mode or "private"
    host["IpcMode"] = record.host.ipc_mode or "private"
    host["MemorySwap"] = record.host.memory_swap or record.host.memory * 2
    for key, own, usual in (
        ("MaskedPaths", record.host.masked_paths, MASKED_PATHS),
        ("ReadonlyPaths", record.host.readonly_paths, READONLY_PATHS),
    ):
        host[key] = None if record.host.privileged else list(usual if own is None else own)
    host["Runtime"] = record.host.runtime or RUNTIMES[0]
    host["VolumesFrom"] = record.host.volumes_from or None
    host["Links"] = _links(engine, record)
    host["DeviceCgroupRules"] = record.host.device_cgroup_rules or None
    _leave_unsaid(host)
    return {
        "Id": record.id,
        "Created": format_ns(record.created_ns),
        "Path": record.path,
        "Args": record.args,
        "State": _state(record),
        "Image": record.image_id,
        "ResolvConfPath": str(directory / "resolv.conf"),
        "HostnamePath": str(directory / "hostname"),
        "HostsPath": str(directory / "hosts"),
        "LogPath": str(engine.places.log(record.id)),
        "Name": f"/{record.name}",
        "RestartCount": record.restart_count,
        "Driver": engine.parts.storage_driver,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": exec_ids or None,
        "HostConfig": {**_HOST_DEFAULTS, **host},
        "GraphDriver": {
            "Name": engine.parts.storage_driver,
            "Data": {
                "MergedDir": str(directory / "merged"),
                "UpperDir": str(directory / "upper"),
                "WorkDir": str(directory / "work"),
            },
        },
        "Mounts": [_mount(mount) for mount in record.mounts],
        "Config": _config(record),
        "NetworkSettings": _network_settings(record),
    }


def _leave_unsaid(host: dict[str, Any]) -> None:
    """Show what nobody asked for as moby does: left out, or null."""
    host["Mounts"] = [_without_empty(mount) for mount in host["Mounts"]]
    for key in _LEFT_OUT_EMPTY:
        if not host[key]:
            del host[key]
    for key in ("Binds", "CapAdd", "CapDrop", "GroupAdd"):
        host[key] = host[key] or None
    host["MemorySwappiness"] = None if host["MemorySwappiness"] == -1 else host["MemorySwappiness"]
    host["PidsLimit"] = None if (host["PidsLimit"] or 0) <= 0 else host["PidsLimit"]


def _without_empty(mount: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mount.items() if value}


def _links(engine: Engine, record: Record) -> list[str] | None:
    shown = []
    for target, alias in map(parse_link, record.host.links):
        if (other := engine.find(target)) is not None:
            shown.append(f"/{other.record.name}:/{record.name}/{alias}")
    return shown or None


def image_ids(engine: Engine) -> Callable[[str], str]:
    """Return what tells the id of an image by its name, once asked for each; empty without one."""

    @cache
    def identify(name: str) -> str:
        try:
            return engine.images.resolve(name).id
        except ImageNotFound:
            return ""

    return identify


def container_summary(
    record: Record, links: Sequence[str], image_id: Callable[[str], str]
) -> dict[str, Any]:
    """Render one entry of `GET /containers/json`.

    `links` are its names as others link to it. Its image goes by its id where the name has become
    another's or nobody's, which `image_id` tells.
    """
    name = record.config.image
    return {
        "Id": record.id,
        "Names": sorted(f"/{name}" for name in (record.name, *links)),
        "Image": name if image_id(name) == record.image_id else record.image_id,
        "ImageID": record.image_id,
        "Command": command_line(record),
        "Created": record.created_ns // 1_000_000_000,
        "Ports": _port_list(record),
        "Labels": record.config.labels,
        "State": record.status,
        "Status": status_text(record, time.time_ns()),
        "HostConfig": {"NetworkMode": record.host.network_mode},
        "NetworkSettings": {"Networks": _networks(record)},
        "Mounts": [_mount(mount) for mount in record.mounts],
    }


def command_line(record: Record) -> str:
    """Render the command as `docker ps` shows it."""
    return " ".join([record.path, *(shlex.quote(word) for word in record.args)])


def status_text(record: Record, now_ns: int) -> str:
    """Render `Up 3 minutes`, `Exited (0) 2 hours ago` and their kin."""
    if record.status == "created":
        return "Created"
    if record.status == "removing":
        return "Removal In Progress"
    if record.running:
        up = f"Up {human_duration(now_ns - record.started_ns)}"
        if record.status == "paused":
            return f"{up} (Paused)"
        if record.health is None:
            return up
        health = record.health.status
        return f"{up} ({'health: starting' if health == 'starting' else health})"
    ago = human_duration(now_ns - record.finished_ns)
    if record.status == "restarting":
        return f"Restarting ({record.exit_code}) {ago} ago"
    return f"Exited ({record.exit_code}) {ago} ago"


def human_duration(span_ns: int) -> str:
    """Render a span in go-units' words."""
    seconds = span_ns // 1_000_000_000
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    for limit, unit, name in (
        (60, 1, "second"), (120, 0, "About a minute"), (3600, 60, "minute"),
        (5400, 0, "About an hour"), (172_800, 3600, "hour"), (1_209_600, 86_400, "day"),
        (5_184_000, 604_800, "week"), (63_072_000, 2_592_000, "month"),
    ):  # fmt: skip
        if seconds < limit:
            return name if unit == 0 else f"{seconds // unit} {name}s"
    return f"{seconds // 31_536_000} years"


def image_summary(
    image: Image, containers: int, names: Sequence[str] | None = None, shared_bytes: int = -1
) -> dict[str, Any]:
    """Render one entry of `GET /images/json`; `names` are those to show, all without it.

    `shared_bytes` are those of layers that other images have too, -1 when nobody asked.
    """
    return {
        "Containers": containers,
        "Created": image.created_ns // 1_000_000_000,
        "Id": image.id,
        "Labels": (image.config.get("config") or {}).get("Labels"),
        "ParentId": image.parent,
        "RepoDigests": [name for name in image.repo_digests if names is None or name in names],
        "RepoTags": [name for name in image.repo_tags if names is None or name in names],
        "SharedSize": shared_bytes,
        "Size": image.size_bytes,
    }


def image_details(image: Image, driver: str) -> dict[str, Any]:
    """Render `GET /images/{name}/json`."""
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Parent": image.parent,
        "Comment": next((h.get("comment", "") for h in reversed(config.get("history") or [])), ""),
        "Created": format_ns(image.created_ns),
        "DockerVersion": "",
        "Author": config.get("author", ""),
        "Config": config.get("config") or {},
        "Architecture": image.architecture,
        "Os": config.get("os", "linux"),
        "Size": image.size_bytes,
        "GraphDriver": {"Name": driver, "Data": {}},
        "RootFS": {"Type": "layers", "Layers": [layer.diff_id for layer in image.layers]},
        "Metadata": {"LastTagTime": format_ns(0)},
    }


def _state(record: Record) -> dict[str, Any]:
    state = {
        "Status": record.status,
        "Running": record.running or record.status == "restarting",
        "Paused": record.status == "paused",
        "Restarting": record.status == "restarting",
        "OOMKilled": record.oom_killed,
        "Dead": record.status == "dead",
        "Pid": record.pid,
        "ExitCode": record.exit_code,
        "Error": record.error,
        "StartedAt": format_ns(record.started_ns),
        "FinishedAt": format_ns(record.finished_ns),
    }
    return state if record.health is None else state | {"Health": _health(record, record.health)}


def _health(record: Record, health: Health) -> dict[str, Any]:
    return {
        # Docker's word for one that nobody asks any more
        "Status": health.status if record.alive else "unhealthy",
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": format_ns(probe.start_ns),
                "End": format_ns(probe.end_ns),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            }
            for probe in health.log
        ],
    }


def _config(record: Record) -> dict[str, Any]:
    image = record.image_config
    rendered: dict[str, Any] = msgspec.to_builtins(record.config)
    entrypoint = record.config.entrypoint
    rendered |= {
        "Hostname": record.config.hostname or record.id[:12],
        "Env": record.env,
        "Cmd": record.args if entrypoint is None and not image.get("Entrypoint") else None,
        "Entrypoint": image.get("Entrypoint") if entrypoint is None else entrypoint,
        "User": record.config.user or image.get("User") or "",
        "WorkingDir": record.config.working_dir or image.get("WorkingDir") or "",
        "ExposedPorts": {**(image.get("ExposedPorts") or {}), **record.config.exposed_ports},
        "Volumes": {**(image.get("Volumes") or {}), **record.config.volumes} or None,
        "StopSignal": record.config.stop_signal or image.get("StopSignal"),
        "OnBuild": None,
    }
    if rendered["Cmd"] is None:
        rendered["Cmd"] = record.config.cmd or (image.get("Cmd") if entrypoint is None else None)
    else:
        rendered["Cmd"] = [record.path, *record.args]
    for key in ("StopTimeout", "Healthcheck"):
        if rendered.get(key) is None:
            rendered.pop(key, None)
    for key in ("StopSignal", "MacAddress", "ExposedPorts"):
        if not rendered.get(key):
            rendered.pop(key, None)
    return rendered


def _mount(mount: MountPoint) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "Type": mount.kind,
        "Source": "" if mount.kind == "tmpfs" else mount.source,
        "Destination": mount.target,
        "Mode": mount.mode,
        "RW": not mount.read_only,
        "Propagation": mount.propagation,
    }
    if mount.kind == "volume":
        rendered |= {"Name": mount.name, "Driver": "local"}
    return rendered


def _networks(record: Record) -> dict[str, Any]:
    names = dict.fromkeys((*record.joined, *record.endpoints))
    mode = record.host.network_mode
    if not names and mode in ("none", "host"):
        names = {mode: None}
    return {name: _endpoint(record.joined.get(name), record, name) for name in names}


EMPTY_ENDPOINT = EndpointState(
    network_id="", endpoint_id="", address="", prefix_length=0, gateway="", mac=""
)


def _endpoint(found: EndpointState | None, record: Record, name: str) -> dict[str, Any]:
    asked = record.endpoints.get(name) or EndpointSpec()
    state = found or EMPTY_ENDPOINT
    names = [record.name, *asked.aliases, record.id[:12]]
    names += [record.config.hostname] if record.config.hostname else []
    named = record.owns_network and name != "bridge"
    return {
        "IPAMConfig": _asked_addresses(asked) or None,
        "Links": asked.links or None,
        "Aliases": asked.aliases or None,
        "MacAddress": state.mac or asked.mac_address,
        "DriverOpts": None,
        "GwPriority": asked.gateway_priority,
        "NetworkID": state.network_id or asked.network_id,
        "EndpointID": state.endpoint_id,
        "Gateway": state.gateway,
        "IPAddress": state.address,
        "IPPrefixLen": state.prefix_length,
        "IPv6Gateway": state.ipv6_gateway,
        "GlobalIPv6Address": state.ipv6_address,
        "GlobalIPv6PrefixLen": state.ipv6_prefix_length,
        "DNSNames": list(dict.fromkeys(names)) if named else None,
    }


def _asked_addresses(asked: EndpointSpec) -> dict[str, str]:
    pairs = (("IPv4Address", asked.ipv4_address), ("IPv6Address", asked.ipv6_address))
    return {key: address for key, address in pairs if address}


def _network_settings(record: Record) -> dict[str, Any]:
    networks = _networks(record)
    bridge: Mapping[str, Any] = networks.get("bridge") or {}
    ports: dict[str, Any] = {}
    if record.running:
        exposed = [*record.config.exposed_ports, *(record.image_config.get("ExposedPorts") or {})]
        ports = dict.fromkeys(exposed)
        for port, protocol, address, host_port in record.ports:
            bound = ports.setdefault(f"{port}/{protocol}", None) or []
            bound.append({"HostIp": address, "HostPort": str(host_port)})
            ports[f"{port}/{protocol}"] = bound
    return {
        "Bridge": "",
        "SandboxID": record.id if record.running else "",
        "SandboxKey": f"/proc/{record.pid}/ns/net" if record.pid else "",
        "Ports": ports,
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": bridge.get("EndpointID", ""),
        "Gateway": bridge.get("Gateway", ""),
        "GlobalIPv6Address": bridge.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": bridge.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": bridge.get("IPAddress", ""),
        "IPPrefixLen": bridge.get("IPPrefixLen", 0),
        "IPv6Gateway": bridge.get("IPv6Gateway", ""),
        "MacAddress": bridge.get("MacAddress", ""),
        "Networks": networks,
    }


def _port_list(record: Record) -> list[dict[str, Any]]:
    if not record.running:
        return []
    rendered: list[dict[str, Any]] = [
        {"IP": address, "PrivatePort": port, "PublicPort": host_port, "Type": protocol}
        for port, protocol, address, host_port in record.ports
    ]
    bound = {(port, protocol) for port, protocol, _, _ in record.ports}
    exposed = {*record.config.exposed_ports, *(record.image_config.get("ExposedPorts") or {})}
    for port in sorted(exposed):
        number, protocol = parse_port(port)
        if (number, protocol) not in bound:
            rendered.append({"PrivatePort": number, "Type": protocol})
    return rendered
