"""Run on a node, prints what its kernel and disk hold of networks, as JSON of lists of lines."""

import ipaddress
import json
import os
import sys
from pathlib import Path

from worker.network import netlink as nl
from worker.network import netns
from worker.network import nftexpr as nx
from worker.network.local import TABLE
from worker.network.nft import NftSocket

PINS = Path("/run/swarm/network/netns")
KEPT = Path("/run/swarm/network/endpoints")


def node() -> dict[str, list[str]]:
    """Return links, addresses and nft elements of the node's own namespace."""
    with nl.RouteSocket() as route:
        links = {link.index: link.name for link in route.links().values()}
        addresses = [
            f"{links.get(index)} {address}/{prefix}"
            for index, address, prefix in route.addresses()
            if not ipaddress.ip_address(address).is_link_local
        ]
    socket = NftSocket()
    try:
        table = socket.read(nx.FAMILY_IPV4, TABLE)
    finally:
        socket.close()
    elements = []
    for name, found in (table.elements if table is not None else {}).items():
        elements += [f"{name} {key.hex()}" for key in found]
    chains = [] if table is None else sorted(table.chains)
    return {
        "links": sorted(links.values()),
        "addresses": sorted(addresses),
        "elements": sorted(elements),
        "chains": chains,
    }


def overlays() -> dict[str, list[str]]:
    """Return, by network id, the links of each pinned namespace, its VXLAN and its neighbours."""
    found = {}
    for path in sorted(PINS.glob("*")):
        fd = netns.open_pinned(path)
        if fd is None:
            found[path.name] = ["not pinned"]
            continue
        with netns.inside(fd, nl.RouteSocket) as route:
            links = route.links().values()
            names = [link.name for link in links if link.name.startswith("vxlan")]
            others = sum(link.name not in ("lo", "br0", *names) for link in links)
            near = [a for name in names for a, _ in route.neighbours(route.index(name))]
        os.close(fd)
        found[path.name] = [*names, f"{others} members", *sorted(near)]
    return found


def main() -> None:
    """Print all of it."""
    kept = sorted(path.name for path in KEPT.glob("*")) if KEPT.is_dir() else []
    json.dump({"node": node(), "overlays": overlays(), "kept": kept}, sys.stdout)


if __name__ == "__main__":
    main()
