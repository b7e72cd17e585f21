"""The platform a request names: an image here is of one, and must be of that one."""

import json
from collections.abc import Iterable

from runtime.image.model import Image, architecture
from runtime.image.registry.manifest import Platform, normal, parse_platform, suits
from swarmapi.errors import InvalidArgument, NotFound


def read(text: str) -> Platform:
    """Read a platform, OCI's object in JSON or `os/arch[/variant]`; raises InvalidArgument."""
    try:
        if not text.startswith("{"):
            return parse_platform(text)
        given = json.loads(text)
        words = [given.get(key) or "" for key in ("os", "architecture", "variant")]
        if not all(isinstance(word, str) for word in words) or not words[0]:
            raise ValueError("it names no operating system")
        return normal(*words)
    except ValueError as error:
        raise InvalidArgument(f"invalid platform {text!r}: {error}") from error


def check(wanted: Iterable[str], reference: str, image: Image) -> None:
    """Refuse an image of another platform than those wanted; empty is any."""
    own = Platform("linux", image.architecture)
    for text in wanted:
        if text and not suits(own, read(text)):
            raise NotFound(
                f"image with reference {reference} was found but does not provide the specified "
                f"platform ({read(text)}): it is {own}"
            )


def check_machine(text: str) -> None:
    """Refuse a platform this machine does not run: of an archive its own images are taken."""
    own = Platform("linux", architecture())
    if text and not suits(own, read(text)):
        raise InvalidArgument(f"platform {read(text)} cannot be loaded: this machine is {own}")
