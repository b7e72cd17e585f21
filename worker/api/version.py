"""The API versions served, and the product's own."""

from aiohttp import web

from swarmapi.rest import API_VERSION as API_VERSION

MIN_API_VERSION = "1.24"
COMPOSE_API_VERSION = "1.41"
PRODUCT_VERSION = "28.2.2"
"""What clients compare with to guess features: the Engine release whose API we serve."""
SWARM_VERSION = "0.1.0"
SERVER = f"Docker/{PRODUCT_VERSION} (linux) swarm/{SWARM_VERSION}"


def minor(version: str) -> int:
    """Return 47 of `1.47`."""
    return int(version.partition(".")[2])


def spoken_with(request: web.Request) -> str:
    """Return the version to name as ours to a client that takes whatever we name.

    Compose v1 does, and knows nothing newer than 1.41: above 1.44 it misses a key of images.
    """
    compose = request.headers.get("User-Agent", "").startswith("docker-compose/1.")
    return COMPOSE_API_VERSION if compose else API_VERSION


def minor_of(request: web.Request) -> int:
    """Return the minor version a request asks for; without a prefix, the newest."""
    return minor(request.match_info.get("version", API_VERSION))
