"""The lab's wires: a bridge in a namespace of the lab's own, one link per node and the client.

A partition is a second bridge: the ports moved to it see one another and nobody else.
"""

from __future__ import annotations

import os
import subprocess

import kernel
from layout import CLIENT, Lab, LabError

MAIN_BRIDGE = "br0"


def build(lab: Lab) -> None:
    """Create the bridge's namespace and the outside client."""
    kernel.create_netns(lab.bridge_netns)
    _add_bridge(lab, MAIN_BRIDGE)
    plug(lab, CLIENT)


def plug(lab: Lab, node: str) -> None:
    """Create the node's network namespace and its link to the bridge the node belongs to."""
    netns = lab.netns(node)
    kernel.create_netns(netns)
    peer = f"peer name eth0 address {mac(lab, node)} netns {netns}"
    kernel.ip([f"link add {node} type veth {peer}"], lab.bridge_netns)
    own = [f"{lab.address(node)}/24", f"{lab.ipv6_address(node)}/64 nodad"]
    kernel.ip([f"addr add {one} dev eth0" for one in own] + ["link set eth0 up"], netns)
    bridge = lab.groups.get(node, MAIN_BRIDGE)
    kernel.ip([f"link set {node} master {bridge} up"], lab.bridge_netns)


def mac(lab: Lab, node: str) -> str:
    """Return the node's hardware address: it stays over a reboot, as a real card's does."""
    return "02:0a:{:02x}:{:02x}:{:02x}:{:02x}".format(*map(int, lab.address(node).split(".")))


def unplug(lab: Lab, node: str) -> None:
    """Take the node's link down and remove it; no effect where there is none."""
    if not (kernel.NETNS_DIR / lab.bridge_netns).exists() or node not in links(lab):
        return
    kernel.ip([f"link set {node} down", f"link del {node}"], lab.bridge_netns)


def links(lab: Lab) -> set[str]:
    """Return the names of the links in the bridge's namespace."""
    shown = subprocess.run(
        ["ip", "-n", lab.bridge_netns, "-br", "link"], capture_output=True, text=True, check=True
    )
    return {line.split()[0].partition("@")[0] for line in shown.stdout.splitlines()}


def partition(lab: Lab, names: list[str]) -> None:
    """Move the named nodes (and `client` where named) together onto a bridge of their own."""
    for name in names:
        if name != CLIENT:
            lab.require(name)
    if len(set(names)) > len(lab.nodes):
        raise LabError("a partition needs somebody on the other side: name fewer nodes")
    used = set(lab.groups.values())
    bridge = next(f"br{n}" for n in range(1, len(used) + 2) if f"br{n}" not in used)
    present = links(lab)
    if bridge not in present:
        _add_bridge(lab, bridge)
    moved = [f"link set {name} master {bridge}" for name in names if name in present]
    kernel.ip(moved, lab.bridge_netns)
    lab.groups.update(dict.fromkeys(names, bridge))
    lab.save()


def heal(lab: Lab) -> None:
    """Bring every port back to the one bridge and remove the others."""
    present = links(lab)
    commands = [f"link set {name} master {MAIN_BRIDGE}" for name in lab.groups if name in present]
    extra = sorted(set(lab.groups.values()) & present)
    kernel.ip(commands + [f"link del {bridge}" for bridge in extra], lab.bridge_netns)
    lab.groups = {}
    lab.save()


def _add_bridge(lab: Lab, bridge: str) -> None:
    kernel.ip([f"link add {bridge} type bridge", f"link set {bridge} up"], lab.bridge_netns)


def enter_client(lab: Lab) -> None:
    """Move the calling process into the client's network namespace only."""
    fd = os.open(kernel.NETNS_DIR / lab.netns(CLIENT), os.O_RDONLY | os.O_CLOEXEC)
    kernel.setns(fd, kernel.CLONE_NEWNET)
    os.close(fd)


def tear_down(lab: Lab) -> None:
    """Remove the bridge's and the client's namespaces with every link in them."""
    for netns in (lab.netns(CLIENT), lab.bridge_netns):
        kernel.delete_netns(netns)
