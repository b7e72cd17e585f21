"""Names of images, as far as all programs must agree on them.

Grammar: github.com/distribution/reference.
"""

from typing import Final

DOCKER_HUB: Final = "docker.io"
_HUB_NAMES: Final = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")


def registry_of(image: str) -> str:
    """Return the `host[:port]` an image is pulled from: Docker Hub where its name has none."""
    first, slash, _ = image.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return DOCKER_HUB if not named or first in _HUB_NAMES else first
