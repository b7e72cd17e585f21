"""Ping, version, info and disk usage."""

import asyncio
import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from runtime.image.model import shared_bytes
from swarmapi import query, rest
from swarmapi.rest import Route
from worker.api import answers, older
from worker.api.keys import SWARM_STATE, engine_of
from worker.api.render import container_summary, image_ids, image_summary
from worker.api.responses import answer
from worker.api.version import (
    API_VERSION,
    MIN_API_VERSION,
    PRODUCT_VERSION,
    SWARM_VERSION,
    minor_of,
    spoken_with,
)
from worker.engine.engine import Engine
from worker.engine.rfc3339 import format_ns
from worker.engine.spec import RUNTIMES

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


async def ping(request: web.Request) -> web.StreamResponse:
    """Tell the API version and that the daemon lives."""
    return web.Response(
        body=b"" if request.method == "HEAD" else b"OK",
        headers={
            "Content-Type": "text/plain; charset=utf-8",
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
            "Builder-Version": "1",
            "Swarm": request.app[SWARM_STATE](),
        },
    )


async def version(request: web.Request) -> web.StreamResponse:
    """Tell the versions of what runs here."""
    arch = architecture()
    details = {
        "ApiVersion": API_VERSION,
        "Arch": arch,
        "Experimental": "true",
        "KernelVersion": platform.release(),
        "MinAPIVersion": MIN_API_VERSION,
        "Os": "linux",
    }
    return answer(
        {
            "Platform": {"Name": f"swarm {SWARM_VERSION}"},
            "Components": [
                {"Name": "Engine", "Version": PRODUCT_VERSION, "Details": details},
                {
                    "Name": "swarmd",
                    "Version": SWARM_VERSION,
                    "Details": {"Python": platform.python_version()},
                },
            ],
            "Version": PRODUCT_VERSION,
            "ApiVersion": spoken_with(request),
            "MinAPIVersion": MIN_API_VERSION,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": arch,
            "KernelVersion": platform.release(),
            "BuildTime": "",
        }
    )


async def info(request: web.Request) -> web.StreamResponse:
    """Describe the machine, its engine and its place in a cluster."""
    engine = engine_of(request)
    return answer(await asyncio.to_thread(describe, engine))


def describe(engine: Engine) -> dict[str, Any]:
    """Collect the document of `GET /info`; blocking."""
    records = [container.record for container in engine.list(everything=True)]
    states = Counter(record.status for record in records)
    version_two = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return {
        "ID": _machine_id(),
        "Containers": len(records),
        "ContainersRunning": states["running"],
        "ContainersPaused": states["paused"],
        "ContainersStopped": len(records) - states["running"] - states["paused"],
        "Images": sum(1 for image in engine.images.list() if image.repo_tags),
        "Driver": engine.parts.storage_driver,
        "DriverStatus": [["Backing Filesystem", _filesystem(engine.parts.data_root)]],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "none", "overlay"],
            "Authorization": None,
            "Log": ["json-file", "none"],
        },
        "MemoryLimit": True,
        "SwapLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "IPv4Forwarding": _forwarding(),
        "OomKillDisable": False,
        "Debug": engine.parts.debug,
        "NFd": len(os.listdir("/proc/self/fd")),
        "NGoroutines": 0,
        "SystemTime": format_ns(engine.parts.clock.now_ns()),
        "LoggingDriver": engine.parts.defaults.log_driver,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if version_two else "1",
        "NEventsListener": engine.events.listeners,
        "KernelVersion": platform.release(),
        "OperatingSystem": _os_release().get("PRETTY_NAME", "Linux"),
        "OSVersion": _os_release().get("VERSION_ID", ""),
        "OSType": "linux",
        "Architecture": platform.machine(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": engine.registries.info(),
        "NCPU": os.cpu_count() or 1,
        "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "GenericResources": None,
        "DockerRootDir": str(engine.parts.data_root),
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": platform.node(),
        "Labels": [f"{key}={value}" for key, value in engine.parts.labels.items()],
        "ExperimentalBuild": True,
        "ServerVersion": PRODUCT_VERSION,
        "Runtimes": {name: {"path": "swarm-supervisor"} for name in RUNTIMES},
        "DefaultRuntime": RUNTIMES[0],
        "Swarm": dict(engine.swarm_info()),
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": {"ID": "", "Expected": ""},
        "RuncCommit": {"ID": "", "Expected": ""},
        "InitCommit": {"ID": "", "Expected": ""},
        "SecurityOptions": [
            "name=seccomp,profile=builtin",
            *(["name=userns"] if engine.parts.ids is not None else []),
        ],
        "Warnings": list(engine.swarm_warnings()) or None,
    }


async def disk_usage(request: web.Request) -> web.StreamResponse:
    """Sum up what images, containers and volumes take."""
    engine = engine_of(request)
    kinds = set(query.texts(request, "type")) or {"image", "container", "volume"}
    usage = await asyncio.to_thread(engine.images.usage)
    body: dict[str, Any] = {"LayersSize": usage.unpacked_bytes, "BuildCache": []}
    if "image" in kinds:
        found = await asyncio.to_thread(engine.images.list)
        shared = shared_bytes(found)
        body["Images"] = [
            older.image_summary(
                image_summary(
                    image, len(engine.users_of_image(image.id)), shared_bytes=shared[image.id]
                ),
                minor_of(request),
            )
            for image in found
        ]
    if "container" in kinds:
        links, ids = engine.link_names(), image_ids(engine)
        body["Containers"] = [
            {
                **older.container(
                    container_summary(container.record, links.get(container.record.id, ()), ids),
                    minor_of(request),
                ),
                "SizeRw": await asyncio.to_thread(
                    tree_bytes, engine.places.directory(container.record.id) / "upper"
                ),
            }
            for container in engine.list(everything=True)
        ]
    if "volume" in kinds:
        body["Volumes"] = [
            {
                **engine.volumes.to_json(volume),
                "UsageData": {
                    "Size": await asyncio.to_thread(
                        tree_bytes, Path(engine.volumes.path(volume.name))
                    ),
                    "RefCount": len(engine.storage.users(volume.name)),
                },
            }
            for volume in engine.volumes.list()
        ]
    return answer(body)


def tree_bytes(root: Path) -> int:
    """Sum the sizes of the regular files below a directory; blocking."""
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except FileNotFoundError:
                continue
    return total


def architecture() -> str:
    """Return the machine's architecture in Go's words."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _machine_id() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return platform.node()


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _forwarding() -> bool:
    try:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    except OSError:
        return False


def _filesystem(path: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        point, found = line.split()[1:3]
        inside = str(path).startswith(point.rstrip("/") + "/") or str(path) == point
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


async def check(request: web.Request) -> web.StreamResponse:
    """Compare records, containers, networks and images, and repair what can be repaired."""
    found = await engine_of(request).check(repair=query.flag(request, "repair"))
    shown = [
        {"Kind": f.kind, "Name": f.name, "Problem": f.problem, "Repaired": f.repaired}
        for f in found
    ]
    return answer({"Findings": shown})


ROUTES = (
    Route("GET", "/_ping", ping, answer=str, content="text"),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/version", version, answer=answers.Version),
    Route("GET", "/info", info, answer=answers.Object),
    Route(
        "POST",
        "/swarm/v1/system/check",
        check,
        (rest.flag("repair", "repair what can be", default=True),),
        answer=answers.Checked,
    ),
    Route("GET", "/system/df", disk_usage, (rest.texts("type"),), answer=answers.DiskUsage),
)
