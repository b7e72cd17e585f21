"""`swarmd check`: what this machine has of what we use, and what each thing missing costs.

Kernel features are tried, not looked up: links and nftables in a network namespace made for it.
"""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pyroute2 import IPRoute  # type: ignore[attr-defined]
from pyroute2.netlink.exceptions import NetlinkError

from runtime.errors import RuntimeFailure
from runtime.supervisor.cgroups import read
from swarmapi.errors import InvalidArgument
from worker.config import Config
from worker.engine import storagedriver
from worker.network import netns, nft
from worker.network import nftexpr as nx

Level = Literal["ok", "note", "missing"]
_KERNEL = (5, 11)
_CLUSTER_PORT, _VXLAN_PORT = 2377, 4789
_MEMORY_MIB, _DISK_MIB = 512, 1024
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_HOOK_OUTPUT, _NAT_PRIORITY = 3, -100
_STA_UNSYNC = 0x40
"""adjtimex(2)"""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `missing` stops swarmd from working, a `note` costs what it says."""

    name: str
    level: Level
    detail: str
    cost: str = ""


def check(config: Config) -> list[Finding]:
    """Look at everything; needs root. The machine is as before."""
    found = [_root(), _kernel(os.uname().release), *_namespaces(), _seccomp()]
    found += cgroup_findings(Path("/sys/fs/cgroup"))
    found += [_storage(config), *_room(config.data_root)]
    if os.geteuid() == 0:
        found += _network()
    found += [_port(socket.SOCK_STREAM, _CLUSTER_PORT), _port(socket.SOCK_DGRAM, _VXLAN_PORT)]
    found += [_clock(), *_neighbours()]
    return found


def main(config: Config, *, as_json: bool) -> int:
    """Print what was found; 1 where something is missing."""
    found = check(config)
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines(found)))
    return int(any(one.level == "missing" for one in found))


def lines(found: list[Finding]) -> Iterator[str]:
    """Yield what is told of findings, and a summary."""
    width = max(len(one.name) for one in found)
    for one in found:
        cost = f": {one.cost}" if one.cost and one.level != "ok" else ""
        yield f"{one.level:8}{one.name:{width}}  {one.detail}{cost}"
    missing = sum(one.level == "missing" for one in found)
    notes = sum(one.level == "note" for one in found)
    yield f"{missing} missing, {notes} to note, {len(found) - missing - notes} as they should be"


def _root() -> Finding:
    if os.geteuid() == 0:
        return Finding("root", "ok", "running as root")
    return Finding("root", "missing", "not root", "swarmd runs as root alone; run this as root too")


def _kernel(release: str) -> Finding:
    numbers = tuple(int(word) for word in release.split("-")[0].split(".")[:2] if word.isdigit())
    wanted = ".".join(map(str, _KERNEL))
    level: Level = "ok" if numbers >= _KERNEL else "missing"
    return Finding("kernel", level, f"Linux {release}", f"Linux {wanted} is the oldest that works")


def _namespaces() -> Iterator[Finding]:
    absent = [name for name in _NAMESPACES if not Path("/proc/self/ns", name).exists()]
    needed = [name for name in absent if name != "user"]
    if needed:
        yield Finding("namespaces", "missing", f"no {', '.join(needed)}", "containers need them")
    else:
        yield Finding("namespaces", "ok", ", ".join(n for n in _NAMESPACES if n not in absent))
    most = read("/proc/sys/user/max_user_namespaces").strip()
    usable = "user" not in absent and most not in ("", "0")
    yield Finding(
        "user namespaces", "ok" if usable else "note", f"at most {most or 'none'}",
        "containers cannot have ids of their own",
    )  # fmt: skip


def _seccomp() -> Finding:
    known = read("/proc/sys/kernel/seccomp/actions_avail").split()
    usable = "errno" in known
    return Finding(
        "seccomp", "ok" if usable else "note", "filters" if usable else "not in this kernel",
        "containers start with --security-opt seccomp=unconfined only",
    )  # fmt: skip


def cgroup_findings(root: Path) -> list[Finding]:
    """Return what limits can be set, by the controllers of v2 at `root` or of v1 below it."""
    unified = root / "cgroup.controllers"
    if unified.exists():
        have, version = set(read(str(unified)).split()), "v2"
    else:
        have = {name for one in root.iterdir() for name in one.name.split(",")}
        have |= {"io"} if "blkio" in have else set()
        version = "v1"
    costs = {
        "memory": "-m is refused",
        "pids": "--pids-limit is refused",
        "cpu": "--cpus and --cpu-shares are refused",
        "cpuset": "--cpuset-cpus is refused",
        "io": "--blkio-weight is refused",
    }
    absent = [name for name in costs if name not in have]
    if len(absent) == len(costs):
        return [Finding("cgroups", "missing", f"no controllers at {root}", "mount cgroup2 there")]
    found = [Finding("cgroups", "ok", f"{version}: {' '.join(n for n in costs if n in have)}")]
    return found + [Finding(f"cgroup {name}", "note", "absent", costs[name]) for name in absent]


def _storage(config: Config) -> Finding:
    driver, name = config.storage_driver, f"storage {config.storage_driver}"
    place = next(one for one in (config.data_root, *config.data_root.parents) if one.is_dir())
    try:
        storagedriver.check(driver, place)
    except (InvalidArgument, RuntimeFailure, OSError) as error:
        return Finding(name, "missing", f"does not work on {place}", str(error))
    return Finding(name, "ok", f"works on {place}")


def _room(data_root: Path) -> Iterator[Finding]:
    disk = os.statvfs(data_root if data_root.exists() else "/")
    free = disk.f_bavail * disk.f_frsize >> 20
    level: Level = "ok" if free >= _DISK_MIB else "note"
    yield Finding("disk", level, f"{free} MiB free", f"images need room: {_DISK_MIB} MiB at least")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    level = "ok" if memory >= _MEMORY_MIB * 0.9 else "note"
    yield Finding("memory", level, f"{memory} MiB", f"a manager and swarmd want {_MEMORY_MIB} MiB")


# ---- network ---------------------------------------------------------------------------------


def _network() -> list[Finding]:
    fd = netns.create()
    try:  # in a thread of its own: a namespace is entered by the whole thread
        with ThreadPoolExecutor(1) as alone:
            return alone.submit(netns.inside, fd, _probe_network).result()
    finally:
        os.close(fd)


def _probe_network() -> list[Finding]:
    needed: list[tuple[str, Callable[[], object], Level, str]] = [
        ("veth", lambda: _add_link("veth", peer="probe1"), "missing", "containers have no network"),
        ("bridge", lambda: _add_link("bridge"), "missing", "containers have no network"),
        ("nftables", _add_table, "missing", "no published port and no service is reached"),
        (
            "vxlan",
            lambda: _add_link("vxlan", vxlan_id=7, vxlan_port=_VXLAN_PORT),
            "note",
            "overlay networks do not leave this node",
        ),
        ("IPv6", lambda: _bind6(), "note", "published ports are reached by IPv4 alone"),
        ("wireguard", lambda: _add_link("wireguard"), "note", "--opt encrypted is refused"),
    ]
    return [_tried(*one) for one in needed]


def _tried(name: str, probe: Callable[[], object], level: Level, cost: str) -> Finding:
    try:
        probe()
    except NetlinkError as error:
        return Finding(name, level, os.strerror(error.code).lower(), cost)
    except OSError as error:
        return Finding(name, level, str(error), cost)
    return Finding(name, "ok", "works")


def _add_link(kind: str, **settings: object) -> None:
    with IPRoute() as route:  # type: ignore[no-untyped-call]
        route.link("add", ifname="probe0", kind=kind, **settings)
        route.link("del", index=route.link_lookup(ifname="probe0")[0])


def _bind6() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::", 0))


def _add_table() -> None:
    """Balance to a map of addresses, as services are: numgen, a map, destination NAT."""
    spread = nx.rule(
        nx.random_slot(nx.REG_1, 2),
        nx.lookup("backends", nx.REG_1, nx.REG_1),
        nx.dnat(nx.FAMILY_IPV4, nx.REG_1),
    )
    state = nx.table(
        nx.FAMILY_IPV4,
        "swarm-check",
        {"output": nx.Chain((spread,), "nat", _HOOK_OUTPUT, _NAT_PRIORITY)},
        {"backends": nx.SetShape((4,), 4)},
        {"backends": {}},
    )
    with nft.NftSocket() as sock:
        sock.apply(state.family, state.name, nx.difference(None, state))


def _port(kind: socket.SocketKind, number: int) -> Finding:
    word = "tcp" if kind == socket.SOCK_STREAM else "udp"
    name = f"port {number}/{word}"
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", number))
        except OSError as error:
            cost = "right if that is swarm's own; else a cluster cannot be joined"
            return Finding(name, "note", error.strerror or str(error), cost)
    return Finding(name, "ok", "free")


# ---- surroundings ----------------------------------------------------------------------------


def _clock() -> Finding:
    raw = ctypes.create_string_buffer(256)  # struct timex, which is smaller
    state = ctypes.CDLL(None, use_errno=True).adjtimex(raw)
    status = int.from_bytes(raw.raw[40:44], sys.byteorder)
    synced = state >= 0 and not status & _STA_UNSYNC
    return Finding(
        "clock", "ok" if synced else "note",
        "synchronised" if synced else "not synchronised",
        "certificates have a beginning and an end: run an NTP client",
    )  # fmt: skip


def _neighbours() -> Iterator[Finding]:
    if Path("/sys/class/net/docker0").exists():
        yield Finding(
            "docker", "note", "Docker runs here too",
            "it drops what it does not know in the FORWARD chain: accept swarm's bridges there",
        )  # fmt: skip
    if "ENABLED=yes" in read("/etc/ufw/ufw.conf"):
        yield Finding(
            "ufw", "note", "the firewall is on",
            f"other nodes need {_CLUSTER_PORT}/tcp and {_VXLAN_PORT}/udp here",
        )  # fmt: skip
