"""Puts back links' states, addresses, routes and bridge entries that somebody took away.

What a container with NET_ADMIN has put in their place stays: another default route, for one.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Mapping

from worker.network import netlink as nl
from worker.network.attachments import NetworkError

DEFAULT = "0.0.0.0/0"
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


def mend_link(route: nl.RouteSocket, interface: str, address: str, prefix: int, subnet: str) -> int:
    """Bring a link up and give it its address and the route to its subnet; return the repairs.

    A link that is not there is none of ours any more: nothing is done.
    """
    link = route.link(interface)
    if link is None:
        return 0
    missing = []
    if not link.up:
        missing.append(nl.set_link(link.index, up=True))
    if (link.index, address, prefix) not in route.addresses():
        missing.append(nl.add_address(link.index, address, prefix))
    elif link.up and (subnet, link.index) not in route.routes():
        missing.append(nl.link_route(link.index, subnet, address))
    route.batch(missing)
    return len(missing)


def mend_way_out(route: nl.RouteSocket, interface: str, gateway: str) -> int:
    """Route everything else through `gateway` unless something does; return the repairs."""
    link = route.link(interface)
    if link is None or any(where == DEFAULT for where, _ in route.routes()):
        return 0
    route.batch([nl.default_route(gateway, link.index)])
    return 1


def mend_port(route: nl.RouteSocket, link: nl.Link, master: int) -> int:
    """Make a link a bridge's port again, and up; return the repairs."""
    if link.up and link.master == master:
        return 0
    route.batch([nl.set_link(link.index, up=True, master=master)], ignore=(errno.ENODEV,))
    return 1


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
    route.batch(messages, ignore=(errno.ENODEV, errno.ENOENT, errno.EINVAL))
    return len(messages)
