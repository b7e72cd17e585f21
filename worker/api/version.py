"""The API versions served, and the product's own."""

from aiohttp import web

from swarmapi.rest import API_VERSION as API_VERSION

MIN_API_VERSION = "1.24"
PRODUCT_VERSION = "28.2.2"
"""What clients compare with to guess features: the Engine release whose API we serve."""
SWARM_VERSION = "0.1.0"
SERVER = f"Docker/{PRODUCT_VERSION} (linux) swarm/{SWARM_VERSION}"


def minor(version: str) -> int:
    """Return 47 of `1.47`."""
    return int(version.partition(".")[2])


def minor_of(request: web.Request) -> int:
    """Return the minor version a request asks for; without a prefix, the newest."""
    return minor(request.match_info.get("version", API_VERSION))
