"""Puts back links' states, addresses, routes and bridge entries that somebody took away.

What a container with NET_ADMIN has put in their place stays: another default route, for one.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_interface

from worker.network import netlink as nl
from worker.network.attachments import NetworkError

DEFAULT = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
VERIFY_INTERVAL_S = 5.0
"""Half of the time within which drift is to be repaired."""
_log = logging.getLogger(__name__)


async def keep_verifying(verify: Callable[[], Awaitable[int]]) -> None:
    """Verify again and again, until cancelled."""
    while True:
        await asyncio.sleep(VERIFY_INTERVAL_S)
        try:
            await verify()
        except (OSError, NetworkError):
            # The next round tries again.
            _log.exception("the network could not be verified")


def mend_link(route: nl.RouteSocket, interface: str, places: Sequence[str]) -> int:
    """Bring a link up and give it its addresses and the routes to their subnets.

    `places` are addresses with prefix length. A link that is not there is none of ours any more:
    nothing is done. Returns the repairs.
    """
    link = route.link(interface)
    if link is None:
        return 0
    missing = []
    if not link.up:
        missing.append(nl.set_link(link.index, up=True))
    there, routes = route.addresses(), route.routes() if link.up else None
    for place in places:
        address, _, prefix = place.partition("/")
        subnet = str(ip_interface(place).network)
        if (link.index, address, int(prefix)) not in there:
            missing.append(nl.add_address(link.index, place))
        elif routes is not None and (subnet, link.index) not in routes:
            missing.append(nl.link_route(link.index, subnet, address))
    # A link that was told to have no IPv6 takes no address; who told it so is obeyed.
    return route.batch(missing, ignore=(errno.EACCES,))


def mend_way_out(route: nl.RouteSocket, interface: str, gateways: Sequence[str]) -> int:
    """Route everything else through `gateways`, unless something does; return the repairs."""
    link = route.link(interface)
    if link is None:
        return 0
    present = {where for where, _ in route.routes()}
    lost = [gateway for gateway in gateways if DEFAULT[nl.family_of(gateway)] not in present]
    unable = (errno.EACCES, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EINVAL)
    wanted = [nl.default_route(gateway, link.index) for gateway in lost]
    return route.batch(wanted, ignore=unable)


def mend_port(route: nl.RouteSocket, link: nl.Link, master: int) -> int:
    """Make a link a bridge's port again, and up; return the repairs."""
    if link.up and link.master == master:
        return 0
    plugged = nl.set_link(link.index, up=True, master=master)
    return route.batch([plugged], ignore=(errno.ENODEV,))


def mend_stations(route: nl.RouteSocket, wanted: Mapping[str, int]) -> int:
    """Tell a bridge behind which port each MAC is, and nothing else; return the changes.

    An address that comes to another node would be looked for where it was learned for minutes.
    """
    told, desired = route.stations(), set(wanted.items())
    messages = [nl.bridge_station(port, mac) for mac, port in desired - told]
    messages += [
        nl.bridge_station(port, mac, remove=True) for mac, port in told if mac not in wanted
    ]
    # A container's port may be on its way out.
    return route.batch(messages, ignore=(errno.ENODEV, errno.ENOENT, errno.EINVAL))
