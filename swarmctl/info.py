"""system: info, version."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser, warn
from swarmctl.errors import ClientError
from swarmctl.http import API_VERSION, Client

_Lines = Iterator[tuple[int, str, Any]]
"""Depth, name and value of each line."""


def add_format(parser: Parser, *, short: bool = True) -> None:
    """Add --format of a command that shows objects as they are; `short`: also as -f."""
    names = ("-f", "--format") if short else ("--format",)
    parser.add_argument(*names, help="json, or a Go template")


def templated(value: Any, style: str) -> None:
    """Print an object as JSON or through a template, at once: a stream's reader waits for it."""
    from swarmctl.template import Template

    text = "{{json .}}" if style == "json" else style
    print(Template(text, strict=False).render(value), flush=True)


def _info(client: Client, args: Namespace) -> int:
    info = client.get("/info")
    if args.format:
        templated(info, args.format)
        return 0
    print("Server:")
    for lines in (_counts(info), _plugins(info), _swarm(info), _machine(info), _settings(info)):
        for depth, name, value in lines:
            text = str(value).lower() if isinstance(value, bool) else value
            print(f"{' ' * depth}{name}: {text}".rstrip() if name else " " * depth + str(value))
    for warning in info.get("Warnings") or []:
        warn(warning)
    return 0


def _counts(info: Any) -> _Lines:
    yield 1, "Containers", info.get("Containers", 0)
    for name in ("Running", "Paused", "Stopped"):
        yield 2, name, info.get(f"Containers{name}", 0)
    yield 1, "Images", info.get("Images", 0)
    yield 1, "Server Version", info.get("ServerVersion", "")
    yield 1, "Storage Driver", info.get("Driver", "")
    for name, value in info.get("DriverStatus") or []:
        yield 2, name, value
    yield 1, "Logging Driver", info.get("LoggingDriver", "")
    yield 1, "Cgroup Driver", info.get("CgroupDriver", "")
    yield 1, "Cgroup Version", info.get("CgroupVersion", "")


def _plugins(info: Any) -> _Lines:
    yield 1, "Plugins", ""
    for kind in ("Volume", "Network", "Log"):
        yield 2, kind, " ".join((info.get("Plugins") or {}).get(kind) or [])


def _swarm(info: Any) -> _Lines:
    swarm = info.get("Swarm") or {}
    yield 1, "Swarm", swarm.get("LocalNodeState") or "inactive"
    if not swarm.get("NodeID"):
        return
    yield 2, "NodeID", swarm["NodeID"]
    if swarm.get("Error"):
        yield 2, "Error", swarm["Error"]
    yield 2, "Is Manager", bool(swarm.get("ControlAvailable"))
    if swarm.get("ControlAvailable"):
        yield 2, "ClusterID", (swarm.get("Cluster") or {}).get("ID", "")
        yield 2, "Managers", swarm.get("Managers", 0)
        yield 2, "Nodes", swarm.get("Nodes", 0)
        yield from _cluster_settings((swarm.get("Cluster") or {}).get("Spec") or {})
    yield 2, "Node Address", swarm.get("NodeAddr", "")
    managers = [manager["Addr"] for manager in swarm.get("RemoteManagers") or []]
    if managers:
        yield 2, "Manager Addresses", " ".join(sorted(managers))


def _cluster_settings(spec: Any) -> _Lines:
    if not spec:
        return
    yield 2, "Orchestration", ""
    limit = (spec.get("Orchestration") or {}).get("TaskHistoryRetentionLimit", "")
    yield 3, "Task History Retention Limit", limit
    raft = spec.get("Raft") or {}
    yield 2, "Raft", ""
    yield 3, "Snapshot Interval", raft.get("SnapshotInterval", 0)
    yield 3, "Number of Old Snapshots to Retain", raft.get("KeepOldSnapshots") or 0
    yield 3, "Heartbeat Tick", raft.get("HeartbeatTick", 0)
    yield 3, "Election Tick", raft.get("ElectionTick", 0)
    for part, name, key in (
        ("Dispatcher", "Heartbeat Period", "HeartbeatPeriod"),
        ("CAConfig", "Expiry Duration", "NodeCertExpiry"),
    ):
        yield 2, "CA Configuration" if part == "CAConfig" else part, ""
        yield 3, name, table.age((spec.get(part) or {}).get(key, 0) / 1e9)
    autolock = (spec.get("EncryptionConfig") or {}).get("AutoLockManagers", False)
    yield 2, "Autolock Managers", bool(autolock)


def _machine(info: Any) -> _Lines:
    yield 1, "Runtimes", " ".join(sorted(info.get("Runtimes") or {}))
    yield 1, "Default Runtime", info.get("DefaultRuntime", "")
    yield 1, "Security Options", ""
    for option in info.get("SecurityOptions") or []:
        fields = dict(part.partition("=")[::2] for part in option.split(","))
        yield 2, "", fields.pop("name", option)
        for name, value in fields.items():
            yield 3, name.capitalize(), value
    yield 1, "Kernel Version", info.get("KernelVersion", "")
    yield 1, "Operating System", info.get("OperatingSystem", "")
    yield 1, "OSType", info.get("OSType", "")
    yield 1, "Architecture", info.get("Architecture", "")
    yield 1, "CPUs", info.get("NCPU", 0)
    yield 1, "Total Memory", table.bytes_binary(info.get("MemTotal", 0))
    yield 1, "Name", info.get("Name", "")
    yield 1, "ID", info.get("ID", "")


def _settings(info: Any) -> _Lines:
    yield 1, "Data Root Dir", info.get("DockerRootDir", "")
    yield 1, "Debug Mode", bool(info.get("Debug"))
    yield 1, "Experimental", bool(info.get("ExperimentalBuild"))
    registries = info.get("RegistryConfig") or {}
    for title, values in (
        ("Labels", info.get("Labels")),
        ("Insecure Registries", registries.get("InsecureRegistryCIDRs")),
        ("Registry Mirrors", registries.get("Mirrors")),
    ):
        if values:
            yield 1, title, ""
            yield from ((2, "", value) for value in values)
    yield 1, "Live Restore Enabled", bool(info.get("LiveRestoreEnabled"))


def _version(client: Client, args: Namespace) -> int:
    """Print both versions; the client's also where there is no daemon, with exit code 1."""
    found: dict[str, Any] = {"Client": _own(), "Server": None}
    failure: ClientError | None = None
    try:
        found["Server"] = client.get("/version")
    except ClientError as error:
        failure = error
    if args.format:
        templated(found, args.format)
    else:
        own, server = found["Client"], found["Server"]
        print(
            f"Client:\n Version:     {own['Version']}\n API version: {own['ApiVersion']}\n"
            f" Python:      {own['Python']}\n OS/Arch:     {own['Os']}/{own['Arch']}"
        )
        if server:
            minimum = server.get("MinAPIVersion", "")
            print(
                f"\nServer: {(server.get('Platform') or {}).get('Name', '')}\n"
                f" Version:     {server.get('Version', '')}\n"
                f" API version: {server.get('ApiVersion', '')} (minimum version {minimum})\n"
                f" OS/Arch:     {server.get('Os', '')}/{server.get('Arch', '')}"
            )
    if failure:
        raise failure
    return 0


def _own() -> dict[str, str]:
    import os
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("swarm-orchestrator")
    except PackageNotFoundError:
        own = "unknown"
    machine = os.uname().machine
    return {
        "Version": own,
        "ApiVersion": API_VERSION,
        "DefaultAPIVersion": API_VERSION,
        "Python": ".".join(map(str, sys.version_info[:3])),
        "Os": sys.platform,
        "Arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
    }


COMMANDS = {
    "info": Command("show the daemon and its machine", add_format, _info),
    "version": Command("show versions", add_format, _version),
}
