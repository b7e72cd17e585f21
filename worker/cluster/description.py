"""What this machine says of itself to the cluster."""

import os
import platform
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

from swarmapi import release
from swarmapi.model.objects import GenericShare, NodeDescription
from swarmapi.model.spec import Platform
from worker.network import netns
from worker.network.local import INGRESS_LINK

_NANOS_PER_CPU = 1_000_000_000
_ON_NODE = 0x80000000 | 0x00100000
"""RTF_LOCAL and RTF_ANYCAST: the node's own addresses."""


def describe(labels: Mapping[str, str], generic: tuple[GenericShare, ...] = ()) -> NodeDescription:
    """Return what the machine is and offers; CPUs are those this process may use."""
    return NodeDescription(
        hostname=platform.node(),
        platform=Platform(architecture=platform.machine(), os="linux"),
        cpu_nanos=len(os.sched_getaffinity(0)) * _NANOS_PER_CPU,
        memory_bytes=memory_bytes(),
        engine_version=release.version(),
        labels=dict(labels),
        generic=generic,
        routes=(
            *routes_in(Path("/proc/net/route").read_text()),
            *ipv6_routes_in(_read(Path("/proc/net/ipv6_route"))),
        ),
        ipv6=netns.has_ipv6(),
    )


def routes_in(table: str) -> tuple[str, ...]:
    """Return the prefixes of the kernel's IPv4 routes that overlays must keep off."""
    found = set()
    for line in table.splitlines()[1:]:
        link, destination, *_, mask = line.split()[:8]
        if link != INGRESS_LINK and mask != "00000000":
            network, netmask = (IPv4Address(bytes.fromhex(h)[::-1]) for h in (destination, mask))
            found.add(str(IPv4Network(f"{network}/{netmask}", strict=False)))
    return tuple(sorted(found))


def ipv6_routes_in(table: str) -> tuple[str, ...]:
    """Return the same of IPv6, without what every link has: its own and multicast addresses."""
    found = set()
    for line in table.splitlines():
        destination, length, *_, flags, link = line.split()
        network = IPv6Network((int(destination, 16), int(length, 16)))
        everywhere = network.prefixlen == 0 or network.is_link_local or network.is_multicast
        if link not in (INGRESS_LINK, "lo") and not everywhere and not int(flags, 16) & _ON_NODE:
            found.add(str(network))
    return tuple(sorted(found))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:  # a kernel without IPv6
        return ""


def memory_bytes() -> int:
    """Return the machine's memory, or less where a cgroup of this process limits it."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
    """Return the memory limits at the roots that this process sees of its cgroups."""
    found = []
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return found
